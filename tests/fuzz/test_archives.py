"""Archives of images: what a damaged or hostile one lists, and what is read from it."""

import io
import json
import struct
import tarfile
import zipfile

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.pipeline.prepare.archives.tree import open_tree, step_inside
from alexnet_dali.pipeline.prepare.hubs import webdataset
from alexnet_dali.pipeline.prepare.sources import training_files, validation_files
from alexnet_dali.pipeline.prepare.store import tar_entry, write_file
from tests.fuzz.harness import NUMBERS, TEXTS, altered, damaged, listing, works_or_says, zipped

IMAGE = b"\xff\xd8\xff" + bytes(range(200))


def tarred(members, form=tarfile.GNU_FORMAT, **more):
    """A tar archive of (name, content) or (name, content, attributes of its header)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, **more) as tar:
        for name, data, *attributes in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            for key, value in (attributes[0] if attributes else {}).items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data) if entry.isreg() else None)
    return file.getvalue()


CLASSES = [(f"train/{name}/{i}.jpg", IMAGE) for name in ("a", "b") for i in range(2)]
LONG = [(f"{'d' * 150}/{name}/{'x' * 120}.jpg", IMAGE) for name in ("a", "b")]
INNER = [(f"n0{i}.tar", tarred([("x.jpg", IMAGE), ("y.jpg", IMAGE)])) for i in range(2)]
SHARD = [
    (f"{i:04d}.{kind}", data)
    for i in range(3)
    for kind, data in (
        ("jpg", IMAGE),
        ("cls", b"%d" % (i % 2)),
        ("json", b'{"label": %d}' % (i % 2)),
    )
]
TARS = [
    tarred(CLASSES),
    tarred(LONG),
    tarred(LONG, tarfile.PAX_FORMAT),
    tarred(INNER),
    tarred(SHARD),
    tarred(
        [*CLASSES, ("train/b/z.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": CLASSES[0][0]})]
    ),
    tarred(CLASSES, tarfile.PAX_FORMAT, pax_headers={"comment": "x", "size": "203"}),
]
ZIPS = [
    zipped(dict(members), compression)
    for members in (CLASSES, LONG, SHARD)
    for compression in (0, 8)
]


def with_checksums(data):
    """The same, where every block that looks like a tar header has the checksum that it needs."""
    data = bytearray(data)
    for start in range(0, len(data) - 511, 512):
        block = data[start : start + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("archives")


def use(path, out):
    """Whatever preparation would do with the archive, but for decoding."""
    source = training_files(path).source
    validation_files(path, None, ["a", "b"])
    for index in range(len(source.names)):
        content = []
        works_or_says(lambda index=index, content=content: content.append(source.content(index)))
        source.listed_name(index).encode(errors="surrogateescape")
        write_file(out, source.stored_name(index), b"stored")
        tar_entry(source.stored_name(index), source.labels[index], b"stored")


def used(path, data):
    """What using the archive ends with; it may leave nothing but the archive and what is stored."""
    path.write_bytes(data)
    out = path.parent / "out"
    error = works_or_says(lambda: use(path, out), str(path.parent))
    works_or_says(lambda: step_inside(open_tree(path)), str(path.parent))
    outside = [name for name in listing(path.parent) if not name.startswith(f"{out}/")]
    assert outside == [str(path)]
    path.unlink()
    return error


@given(data=damaged(*TARS))
def test_damaged_tar_archives(data, place):
    used(place / "a.tar", data)


@given(data=damaged(*TARS).map(with_checksums))
def test_tar_archives_of_odd_headers(data, place):
    used(place / "a.tar", data)


NAMES = st.one_of(
    TEXTS,
    st.sampled_from(
        (
            "a/../../x.jpg",
            "a/x.jpg",
            "b/y.jpg",
            "a/\x1b[2J.jpg",
            "a/new\nline.jpg",
            "b/\r.jpg",
            "/b/z.jpg",
        )
    ),
    st.builds("{}/{}.jpg".format, st.sampled_from("ab"), TEXTS),
)
KINDS = st.sampled_from(
    [tarfile.REGTYPE] * 4 + [*tarfile.REGULAR_TYPES, b"1", b"2", b"3", b"5", b"6"]
)
FIELDS = st.sampled_from(("path", "size", "linkpath", "GNU.sparse.map", "GNU.sparse.size", "mtime"))
ENTRIES = st.tuples(
    NAMES,
    st.just(IMAGE),
    st.fixed_dictionaries(
        {"type": KINDS, "linkname": NAMES},
        optional={"pax_headers": st.dictionaries(FIELDS, st.one_of(TEXTS, NUMBERS.map(str)))},
    ),
)


@given(entries=st.lists(ENTRIES, max_size=4), form=st.sampled_from((1, 2)))
def test_tar_archives_of_odd_entries(entries, form, place):
    try:
        data = tarred([*CLASSES[:2], *CLASSES[2:], *entries], form, errors="surrogatepass")
    except (ValueError, KeyError):  # tarfile can't write it
        return
    used(place / "a.tar", data)


@given(data=damaged(*ZIPS))
def test_damaged_zip_archives(data, place):
    used(place / "a.zip", data)


@given(
    names=st.lists(NAMES, max_size=4), compression=st.sampled_from((0, 8, 12)), link=st.booleans()
)
def test_zip_archives_of_odd_entries(names, compression, link, place):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name in [*dict(CLASSES), *names]:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16 if link and name not in dict(CLASSES) else 0
            try:
                archive.writestr(entry, IMAGE, compression)
            except UnicodeError:
                return
    used(place / "a.zip", file.getvalue())


@given(sizes=st.tuples(*[st.sampled_from((0, 1, 203, 2**31, 2**32 - 1))] * 3))
def test_zip_archives_that_claim_other_sizes(sizes, place):
    """Compressed size, size, and where the local header is, of one entry in the directory."""
    data = bytearray(ZIPS[0])
    start = data.index(b"PK\1\2")
    struct.pack_into("<II", data, start + 20, *sizes[:2])
    struct.pack_into("<I", data, start + 42, sizes[2])
    used(place / "a.zip", bytes(data))


@given(
    labels=st.lists(altered({"label": 1, "cls": "x", "class": 2}), min_size=2, max_size=4),
    suffix=st.sampled_from(("json", "cls")),
)
@example(labels=[{"label": "\ud800"}, {"label": "b"}], suffix="json")
@example(labels=[{"label": "a\x00b"}, {"label": "b"}], suffix="json")
def test_shards_of_odd_labels(labels, suffix, place):
    members = []
    for number, label in enumerate(labels):
        members += [(f"{number}.jpg", IMAGE), (f"{number}.{suffix}", json.dumps(label).encode())]
    path = place / "shard.tar"
    path.write_bytes(tarred(members))

    def use():
        found = training_files(path)
        assert all(
            isinstance(name, str) and name.encode(errors="surrogateescape")
            for name in found.classes
        )

    works_or_says(use, str(path))
    path.unlink()


@given(data=damaged(tarred(SHARD)).map(with_checksums))
def test_damaged_shards(data, place):
    path = place / "shard.tar"
    path.write_bytes(data)

    def use():
        found = webdataset.labelled(open_tree(path))
        if found is not None:
            found.indices(found.classes())

    works_or_says(use, str(path))
    path.unlink()
