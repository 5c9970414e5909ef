"""Names of files: which are skipped, and when two of them are the same."""

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from alexnet_dali.pipeline.decode import formats_by_suffix
from alexnet_dali.pipeline.messages import one_line

_JUNK = {"__macosx", "@eadir", "thumbs.db", "desktop.ini"}

_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
"""Formats whose suffixes Pillow knows, and which are no images that it decodes."""

_TEXTS = {
    *(".cfg", ".cls", ".csv", ".doc", ".docx", ".htm", ".html", ".ini", ".json", ".jsonl", ".log"),
    *(".mat", ".md", ".md5", ".npy", ".npz", ".pdf", ".pkl", ".py", ".rtf", ".sh", ".sha1"),
    *(".sha256", ".sql", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
}
"""How names of files end that often lie beside images, and are none."""


def suffix(name: str) -> str:
    """How a file's name ends: .jpg."""
    return os.path.splitext(name)[1].lower()


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """How the names of images end."""
    formats = formats_by_suffix().items()
    return frozenset(end for end, kind in formats if kind not in _NOT_DECODED)


def is_text(name: str) -> bool:
    """Whether a file is no image by its name, but a text, a table or an array beside images."""
    return suffix(name) in _TEXTS


def only_archives(names: Sequence[str], ends: tuple[str, ...]) -> bool:
    """Whether these files are archives, and nothing beside them but a few that are no images."""
    others = [name for name in names if not name.lower().endswith(ends)]
    archives = sum(name.lower().endswith(ends) for name in names)
    unknown = sum(not is_text(name) for name in others)
    return archives > unknown and not any(suffix(name) in image_suffixes() for name in others)


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


def seen_as(name: str) -> str:
    """Equal for names that people can't tell apart: as `same`, and blanks do not count."""
    return " ".join(same(name).split())


def some(names: list[str]) -> str:
    """The first few of a long list, for a message."""
    return ", ".join(map(one_line, names[:3])) + (", ..." if len(names) > 3 else "")
