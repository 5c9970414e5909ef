"""Names of files: which are skipped, and when two of them are the same."""

import os
import unicodedata

from alexnet_dali.pipeline.dataset import one_line

_JUNK = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}


def is_skipped(name: str) -> bool:
    """Whether a file or folder is one that systems leave behind: no image, and no class.

    Those are names that begin with a dot, and those of macOS, Synology and Windows.
    """
    parts = [part for part in name.split("/") if part != ".."]
    return any(part.startswith(".") or part.lower() in _JUNK for part in parts)


def plain(name: str) -> str:
    """The name of an archive's entry without dots and doubled slashes; empty for its top."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/" * name.startswith("/") + "/".join(parts)


def check_inside(name: str) -> None:
    """ValueError where an entry's name leads out of its archive, or is none."""
    if "\0" in name:
        raise ValueError(f"{name} holds a zero byte, which no file's name can")
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(
            f"{name} leads out of the archive; make it with names relative to a folder in it"
        )


def fits_a_list(name: str) -> bool:
    """Whether a list of lines can hold the name, as bytes that give it again."""
    try:
        return "\n" not in name and os.fsdecode(os.fsencode(name)) == name
    except UnicodeEncodeError:
        return False


def same(name: str) -> str:
    """Equal for names that look the same: macOS writes é as e and an accent."""
    return unicodedata.normalize("NFC", name)


def some(names: list[str]) -> str:
    """The first few of a long list, for a message."""
    return ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")
