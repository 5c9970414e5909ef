"""Forms of data sets that are not read: what each is, and the tool that converts or joins it."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from alexnet_dali.pipeline.messages import DatasetError

_TO_FILES = "write each image to a file in a folder of its class"
_ARRAYS = f"arrays of pixels; {_TO_FILES} (as PNG, with Pillow's Image.fromarray)"
_FORMS = {
    ".tfrecord": f"TFRecord; {_TO_FILES} (the package tfrecord reads it without TensorFlow)",
    ".lmdb": f"LMDB; {_TO_FILES} (the package lmdb reads it)",
    ".h5": f"HDF5; {_TO_FILES} (the package h5py reads it)",
    ".arrow": "Arrow; convert it to parquet (datasets.Dataset.from_file(FILE).to_parquet(...))",
    ".rec": f"RecordIO; {_TO_FILES} (mxnet.recordio reads it)",
    ".beton": "FFCV's; prepare the images that it was written from",
    ".mds": f"MosaicML's; {_TO_FILES} (the package mosaicml-streaming reads it)",
    ".npy": _ARRAYS,
    ".7z": "7-Zip's; unpack it: 7z x FILE",
    ".rar": "a RAR archive; unpack it: unrar x FILE",
    ".gz": "compressed with gzip, so its files can't be read in place; unpack it once: "
    "gunzip -k FILE",
    ".bz2": "compressed with bzip2, so its files can't be read in place; unpack it once: "
    "bunzip2 -k FILE",
    ".xz": "compressed with xz, so its files can't be read in place; unpack it once: unxz -k FILE",
    ".zst": "compressed with zstd, so its files can't be read in place; unpack it once: "
    "unzstd FILE",
    ".lz4": "compressed with lz4, so its files can't be read in place; unpack it once: unlz4 FILE",
    ".sqfs": "a SquashFS image; mount it: squashfuse FILE DIR",
    ".iso": "an ISO image; mount it: fuseiso FILE DIR",
    ".part": "part of an archive that was split; join the parts into one",
    ".z01": "part of a zip archive that was split; join the parts: zip -s 0 LAST --out whole.zip",
    ".pointer": "a pointer of Git LFS, not the file itself; fetch that: git lfs pull",
    ".html": "a web page, as downloads that need a login or a click give; download it again",
    ".tar": "an archive deeper inside; name the folder that holds it, or unpack it",
    ".parquet": "parquet; name such files themselves, as in 'FOLDER/train-*.parquet'",
    ".csv": "a list or text; expected a folder or an archive of images (a flat folder's labels go "
    "with --val-labels)",
}
_ALSO = {
    ".tfrecords": ".tfrecord",
    ".tfrec": ".tfrecord",
    ".mdb": ".lmdb",
    ".hdf5": ".h5",
    ".hdf": ".h5",
    ".feather": ".arrow",
    ".npz": ".npy",
    ".mat": ".npy",
    ".pkl": ".npy",
    ".pickle": ".npy",
    ".pt": ".npy",
    ".tgz": ".gz",
    ".tbz2": ".bz2",
    ".txz": ".xz",
    ".tzst": ".zst",
    ".squashfs": ".sqfs",
    ".sqsh": ".sqfs",
    ".htm": ".html",
    ".txt": ".csv",
    ".tsv": ".csv",
    ".json": ".csv",
    ".jsonl": ".csv",
    ".zip": ".tar",
}
_STARTS = {
    b"\x1f\x8b": ".gz",
    b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"\x04\x22\x4d\x18": ".lz4",
    b"7z\xbc\xaf\x27\x1c": ".7z",
    b"Rar!\x1a\x07": ".rar",
    b"PK\7\x08": ".z01",
    b"\x89HDF\r\n\x1a\n": ".h5",
    b"ARROW1": ".arrow",
    b"hsqs": ".sqfs",
    b"\x93NUMPY": ".npy",
    b"version https://git-lfs": ".pointer",
    b"<!doctype html": ".html",
    b"<html": ".html",
}
_READ = {".tar", ".parquet"}
_BESIDE_IMAGES = {".csv", ".html", ".npy"}
"""Forms of which files often lie beside images: many of them are no other kind of data set."""

_PART = re.compile(
    r".+\.(zip|tar|tgz|tar\.(gz|bz2|xz|zst|lz4)|7z)[-_.]?(part)?[-_.]?(\d{1,4}|[a-c][a-z])"
)
_SPAN = re.compile(r".+\.z\d\d+")
_TFRECORD = re.compile(r".+-\d{5}-of-\d{5}")


def form_of(name: str) -> str:
    """The form of a file that is not read as images, by its name; empty for others.

    Forms are named as their files end. Archives and parquet files are such, too: inside others.
    """
    name = name.rpartition("/")[2].lower()
    suffix = os.path.splitext(name)[1]
    suffix = _ALSO.get(suffix, suffix)
    if suffix in _FORMS:
        return suffix
    if _SPAN.fullmatch(name):
        return ".z01"
    if _PART.fullmatch(name):
        return ".part"
    return ".tfrecord" if _TFRECORD.fullmatch(name) else ""


def check_file(path: Path) -> None:
    """DatasetError where what the file begins with, or else its name, is of such a form."""
    with open(path, "rb") as file:
        start = file.read(32).lstrip().lower()
    by_start = (form for magic, form in _STARTS.items() if start.startswith(magic.lower()))
    form = next(by_start, "") or form_of(path.name)
    if form not in _READ | {""}:
        raise DatasetError(f"{path} is {_what(form, str(path))}")


def check_names(path: Path, names: Sequence[str]) -> None:
    """DatasetError where most of the files below `path` are of such a form."""
    forms = [form_of(name) for name in names]
    likely = [place for place, form in enumerate(forms) if form not in _BESIDE_IMAGES]
    found = [place for place in likely if forms[place]]
    if not likely:
        found = [place for place, form in enumerate(forms) if form == ".npy"]
    if 2 * len(found) > len(likely):
        name, form = names[found[0]], forms[found[0]]
        raise DatasetError(f"{path}: holds {name}, which is {_what(form, name)}")


def check_beside(folder: Path, names: Sequence[str]) -> None:
    """DatasetError where one of a few files beside archives is of such a form, as compressed ones.

    Lists and texts may lie there.
    """
    for name in names:
        if form_of(name) not in _BESIDE_IMAGES | {""}:
            check_file(folder / name)


def check_missing(path: Path) -> None:
    """DatasetError where a path that is not there is a pattern with braces."""
    if re.search(r"\{[^/{}]*(\.\.|,)[^/{}]*\}", path.name):
        pattern = path.with_name(re.sub(r"\{[^{}]*\}", "*", path.name))
        raise DatasetError(
            f"{path}: braces are not understood; write a pattern, such as '{pattern}'"
        )


def _what(form: str, name: str) -> str:
    last = f"{os.path.splitext(name)[0]}.zip"
    text = _FORMS[form].replace("LAST", shlex.quote(last))
    return text.replace("FILE", shlex.quote(name))
