"""Small text files that people keep beside their images, also those inside archives."""

import codecs
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.archives.tree import locate, open_tree

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The text of a file, which may be in an archive (images.zip/labels.csv).

    UTF-8, or UTF-16 with its mark, as PowerShell writes it. DatasetError where there is no such
    file, or its text is of another kind.
    """
    data = _content(path)
    kind = next((kind for mark, kind in _MARKS.items() if data.startswith(mark)), "utf-8")
    if kind == "utf-8" and b"\0" in data:
        raise DatasetError(f"{path}: expected text in UTF-8; save it as UTF-8")
    try:
        return data.decode(kind, errors="surrogateescape" if kind == "utf-8" else "strict")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: expected text in UTF-8 ({error}); save it as UTF-8") from error


def _content(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    archives, _ = locate(path)
    if len(archives) != 1 or archives[0] == path:
        raise DatasetError(f"{path}: no such file")
    tree = open_tree(path.parent)
    if path.name not in tree.names or tree.places is None:
        raise DatasetError(f"{path}: the archive holds no such file")
    try:
        return tree.places[tree.names.index(path.name)].content(tree.root).tobytes()
    except (ValueError, MemoryError) as error:
        raise DatasetError(f"{path}: {error}") from error
