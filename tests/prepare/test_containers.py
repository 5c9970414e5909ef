"""One tree in every container gives one list; what can't be read says what it is and what to do."""

import hashlib
import io
import json
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.pipeline.prepare.sources import any_files, training_files, validation_files
from alexnet_dali.tools import prep_imagenet

CLASSES = ["n01.tench", "n02", "v1.0 b"]


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


IMAGES = {
    f"{folder}/{name}": jpeg([place, number])
    for place, folder in enumerate(CLASSES)
    for number, name in enumerate(
        ("IMG_1.5.jpg", "IMG_1.6.jpg", "a.JPEG", "b 2.jpg", ".x/h.jpg", "sub.d/c.jpg")
    )
    if name[0] != "."
}
STRAYS = {
    "README.md": b"text",
    "licence.txt": b"text",
    ".DS_Store": b"x",
    ".ipynb_checkpoints/a.jpg": jpeg(1),
    "__MACOSX/n02/._a.JPEG": b"x",
    "n02/Thumbs.db": b"x",
    "n02/._a.JPEG": b"x",
    "n02/notes.txt": b"text",
    **{f"{name}.xml": b"<a/>" for name in IMAGES},
    **{f"{Path(name).with_suffix('.json')}": b'{"shapes": []}' for name in IMAGES},
}


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def tarred(files, prefix=""):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def write(path, data):
    path.write_bytes(data)
    return path


def by_class(files):
    """A tar archive for each class folder; other files as they are."""
    inner = {f"{name}.tar": {} for name in CLASSES}
    rest = {}
    for name, data in files.items():
        folder, _, file = name.partition("/")
        inner.get(f"{folder}.tar", {})[file] = data
        if folder not in CLASSES and "/" not in name:
            rest[name] = data
    return rest | {name: tarred(content) for name, content in inner.items()}


def write_zip(path, files, compression=zipfile.ZIP_STORED, separator="/"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in reversed(files.items()):
            entry = zipfile.ZipInfo(name.replace("/", separator))
            entry.compress_type = compression
            entry.create_system = 0 if separator == "\\" else 3
            archive.writestr(entry, data)
    return path


def labelled(files, label):
    """Files and labels as WebDataset has them, in one order."""
    found = {}
    for name, data in files.items():
        stem = str(Path(name).with_suffix(""))
        number = CLASSES.index(name.split("/")[0])
        kind, content = label(number)
        found |= {name: data, f"{stem}.{kind}": content, f"{stem}.txt": b"a caption"}
    return found


def write_shards(folder, label):
    folder.mkdir()
    files = {name: data for name, data in STRAYS.items() if not name.endswith((".json", ".xml"))}
    order = np.random.default_rng(0).permutation(len(IMAGES))
    pairs = list(IMAGES.items())
    for shard in range(2):
        part = {pairs[place][0]: pairs[place][1] for place in order[shard::2]}
        data = tarred(labelled(part, label) | files)
        (folder / f"train-{shard:04d}.tar").write_bytes(data)
    return folder / "train-*.tar"


def write_parquet(folder):
    """Two files of images, a table of something else, and what macOS leaves on other disks."""
    folder.mkdir()
    order = np.random.default_rng(1).permutation(len(IMAGES))
    for shard in range(2):
        names = [list(IMAGES)[place] for place in order[shard::2]]
        image = pyarrow.array(
            [{"bytes": IMAGES[name], "path": name} for name in names],
            pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
        )
        label = [CLASSES.index(name.split("/")[0]) for name in names]
        table = pyarrow.table({"image": image, "label": label})
        parquet.write_table(table, folder / f"train-{shard}.parquet", row_group_size=3)
    parquet.write_table(pyarrow.table({"width": [1, 2]}), folder / "metadata.parquet")
    (folder / "._train-0.parquet").write_bytes(b"\0\5\x16\7")
    return folder


ALL = IMAGES | STRAYS
AROUND = {f"data/{name}": data for name, data in ALL.items()} | {"LICENSE": b"text"}
CONTAINERS = {
    "folder": lambda path: write_folder(path / "x", ALL),
    "folder around": lambda path: write_folder(path / "x", AROUND),
    "tar": lambda path: write(path / "x.tar", tarred(ALL)),
    "tar with dots": lambda path: write(path / "x.tar", tarred(ALL, "./")),
    "tar around": lambda path: write(path / "x.tar", tarred(AROUND)),
    "tar of tars": lambda path: write(path / "x.tar", tarred(by_class(ALL))),
    "folder of tars": lambda path: write_folder(path / "x", by_class(ALL)),
    "zip": lambda path: write_zip(path / "x.zip", ALL),
    "zip, packed": lambda path: write_zip(path / "x.zip", ALL, zipfile.ZIP_DEFLATED),
    "zip around": lambda path: write_zip(path / "x.zip", AROUND),
    "zip of Windows": lambda path: write_zip(path / "x.zip", ALL, separator="\\"),
}
WITH_LABELS = {
    "shards, cls": lambda path: write_shards(path / "x", lambda n: ("cls", b"%d" % n)),
    "shards, json": lambda path: write_shards(path / "x", lambda n: ("json", b'{"label":%d}' % n)),
    "one shard": lambda path: write(
        path / "x.tar", tarred(labelled(IMAGES, lambda n: ("cls", b"%d" % n)))
    ),
    "shard, unpacked": lambda path: write_folder(
        path / "x", labelled(IMAGES, lambda n: ("cls", b"%d" % n))
    ),
    "parquet": lambda path: write_parquet(path / "x"),
}


def pixels_and_labels(source):
    """A hash of each image's pixels, as Pillow decodes them, and its label, in order."""
    found = []
    for index in range(len(source)):
        image = Image.open(io.BytesIO(source.content(index).tobytes())).convert("RGB")
        found.append((hashlib.sha256(image.tobytes()).hexdigest(), int(source.labels[index])))
    return found


def expected():
    return [
        (
            hashlib.sha256(
                Image.open(io.BytesIO(IMAGES[name])).convert("RGB").tobytes()
            ).hexdigest(),
            CLASSES.index(name.split("/")[0]),
        )
        for name in sorted(IMAGES)
    ]


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_a_tree_is_the_same_list_in_every_container(make, tmp_path):
    found = training_files(make(tmp_path))
    assert found.classes == CLASSES
    # A tar of Thumbs.db and others is one tree; names are those of the folder.
    assert list(found.source.names) == sorted(IMAGES)
    assert pixels_and_labels(found.source) == expected()
    assert "README.md, licence.txt" in " ".join(found.remarks)
    assert f"({2 * len(IMAGES) + 1} in all)" in " ".join(found.remarks)


@pytest.mark.parametrize("make", WITH_LABELS.values(), ids=WITH_LABELS)
def test_so_it_is_where_labels_lie_beside_the_images(make, tmp_path):
    found = training_files(make(tmp_path))
    assert found.classes == ["0", "1", "2"]
    assert pixels_and_labels(found.source) == expected()


@pytest.mark.slow
def test_what_is_stored_of_a_tree_is_the_same_whatever_held_it(tmp_path):
    """The whole way through the decoder: names, pixels as stored, labels, mean image."""
    val = write_folder(
        tmp_path / "val", {f"{n}/{c}/x.jpg": jpeg(3) for n in (0, 1) for c in CLASSES}
    )
    for number, c in enumerate(CLASSES):
        (val / "1" / c).rename(val / "1" / str(number))
    found = {}
    for name in ("folder", "tar of tars", "zip of Windows", "shards, cls", "parquet"):
        make = (CONTAINERS | WITH_LABELS)[name]
        path = tmp_path / name
        path.mkdir()
        arguments = ["--train", make(path), "--val", val / ("1" if name in WITH_LABELS else "0")]
        arguments += ["--resize", 16, "--quality", 95, "--out", path / "out"]
        prep_imagenet.main([str(argument) for argument in arguments])
        dataset = Dataset.open(path / "out")
        images = dataset.train
        stored = [images.content(index).tobytes() for index in range(len(images))]
        names = [images.name(i).split("/")[-1] for i in range(len(images))]
        found[name] = (names, stored, images.labels.tolist(), dataset.stats.mean_image.tobytes())
        assert not (path / "out/rejected.txt").read_text()
    assert all(each == found["folder"] for each in found.values())


def test_parquet_files_that_do_not_belong_are_skipped_by_name(tmp_path):
    said = " ".join(training_files(write_parquet(tmp_path / "x")).remarks)
    assert "._train-0.parquet (1 in all)" in said and "metadata.parquet (1 in all)" in said
    parquet.write_table(
        pyarrow.table({"width": [1]}), write_folder(tmp_path / "y", IMAGES) / "metadata.parquet"
    )
    found = training_files(tmp_path / "y")
    assert found.classes == CLASSES and "metadata.parquet (1 in all)" in found.remarks[0]


def test_shards_of_several_parts_in_one_folder_are_not_mixed(tmp_path):
    """Validation images would be trained on."""
    for part in ("imagenet-train", "imagenet-validation"):
        files = labelled(IMAGES, lambda n: ("cls", b"%d" % n))
        write_folder(tmp_path / "x", {f"{part}-{i:04d}.tar": tarred(files) for i in range(2)})
    for path in (tmp_path / "x", tmp_path / "x/*.tar"):
        with pytest.raises(DatasetError, match=r"several parts \(train, validation\)") as error:
            training_files(path)
    advised = str(error.value).split("'")[1]
    assert advised.endswith("x/imagenet-train*.tar")
    assert len(training_files(Path(advised)).source) == 2 * len(IMAGES)


def test_archives_and_tables_deeper_inside_say_where_to_look(tmp_path):
    write_folder(tmp_path / "x/data", by_class(IMAGES))
    with pytest.raises(DatasetError, match="name the folder that holds it"):
        training_files(tmp_path / "x")
    write_parquet(tmp_path / "data")
    (tmp_path / "y").mkdir()
    (tmp_path / "data").rename(tmp_path / "y/data")
    with pytest.raises(DatasetError, match=r"'FOLDER/train-\*\.parquet'"):
        training_files(tmp_path / "y")


def shard(tmp_path, files):
    return write(tmp_path / "shard.tar", tarred(files))


def test_keys_with_dots_lose_no_image(tmp_path):
    files = {}
    for number, key in enumerate(["0000", "0001", "IMG_0.5", "IMG_0.6", "IMG_1.5", "v1.0/a.b.c"]):
        files |= {f"{key}.jpg": jpeg(number), f"{key}.cls": b"%d" % (number % 2)}
    found = training_files(shard(tmp_path, files))
    own = {name: number % 2 for number, name in enumerate(list(files)[::2])}
    assert {name: int(label) for name, label in zip(found.source.names, found.source.labels)} == own


def test_pictures_to_classify_are_shown_without_what_comes_with_them(tmp_path):
    """Files of their own are named one by one, as somebody may mean them."""
    files = {"a.jpg": jpeg(1), "a.cls": b"0", "a.json": b"{}", "b.jpg": jpeg(2), "notes.txt": b"x"}
    for path in (shard(tmp_path, files), write_folder(tmp_path / "x", files)):
        source, remarks = any_files(path)
        assert list(source.names) == ["a.jpg", "b.jpg", "notes.txt"]
        assert "a.cls, a.json (2 in all)" in remarks[0]


def test_what_a_key_drops_is_named(tmp_path):
    files = {"4.cls": b"1", "5.cls": b"0"}
    for number in range(4):
        files |= {f"{number}.jpg": jpeg(number), f"{number}.cls": b"%d" % (number % 2)}
        files |= {f"{number}.seg.png": b"a mask", f"{number}.thumb.jpg": jpeg(9)}
    found = training_files(shard(tmp_path, files))
    assert list(found.source.names) == ["0.jpg", "2.jpg", "1.jpg", "3.jpg"]
    *_, masks, alone = found.remarks
    assert "0.seg.png, 0.thumb.jpg, 1.seg.png, ... (8 in all)" in masks
    assert "labels without an image: 4.cls, 5.cls (2 in all)" in alone
    with pytest.raises(DatasetError, match=r"1 of 13 images have no \.cls .*: IMG_9\.5\.jpg"):
        training_files(shard(tmp_path, files | {"IMG_9.5.jpg": jpeg(5)}))


@pytest.mark.parametrize("kinds", [("input.jpg", "target.cls"), ("jpg", "jpg.json")])
def test_longer_kinds_are_understood_where_they_are_the_only_ones(kinds, tmp_path):
    """As wds writers are often told to call them, and as photo services export notes."""
    image, label = kinds
    text = '{{"label": {}}}' if label.endswith("json") else "{}"
    files = {}
    for number in range(4):
        files |= {f"{number}.{image}": jpeg(number)}
        files |= {f"{number}.{label}": text.format(number % 2).encode()}
    assert training_files(shard(tmp_path, files)).source.labels.tolist() == [0, 0, 1, 1]
    files |= {f"{number}.right.{image}": jpeg(number) for number in range(4)}
    if image == "input.jpg":
        with pytest.raises(DatasetError, match="two images of one key"):
            training_files(shard(tmp_path, files))


def test_labels_that_contradict_the_class_folders_are_an_error_that_shows_both(tmp_path):
    files = {f"{c}/{i}.jpg": jpeg([i, i]) for c in "ab" for i in range(3)}
    alike = {f"{c}/{i}.json": json.dumps({"label": c}).encode() for c in "ab" for i in range(3)}
    assert (
        training_files(shard(tmp_path, files | alike)).source.labels.tolist() == [0] * 3 + [1] * 3
    )
    for path in (
        lambda files: shard(tmp_path, files),
        lambda files: write_folder(tmp_path / "folder", files),
        lambda files: write_zip(tmp_path / "x.zip", files),
    ):
        other = {**alike, "a/0.json": b'{"label": "b"}'}
        with pytest.raises(DatasetError, match=r"a/0\.jpg is 'a' or 'b'; remove the \.json files"):
            training_files(path(files | other))


def test_an_image_beside_one_of_the_same_name_is_another_in_every_container(tmp_path):
    """001.png beside 001.jpg, such as a mask, is an image, as it is in a folder."""
    files = {
        f"{c}/{i}.{kind}": jpeg([i, 7]) for c in "ab" for i in range(3) for kind in ("jpg", "png")
    }
    for path in (
        write_folder(tmp_path / "x", files),
        shard(tmp_path, files),
        write_zip(tmp_path / "x.zip", files),
    ):
        assert list(training_files(path).source.names) == sorted(files)


@pytest.mark.parametrize(
    "folders",
    [("train", "val", "unlabeled"), ("Train", "TEST", "x"), ("train2017", "val2017", "y")],
)
@pytest.mark.parametrize("container", ["folder", "tar", "zip", "folder of tars", "around"])
def test_parts_of_a_data_set_are_no_classes(folders, container, tmp_path):
    files = {f"{folder}/{c}/{i}.jpg": jpeg(i) for folder in folders for c in "ab" for i in (0, 1)}
    around = {f"data/{name}": data for name, data in files.items()}
    tars = {
        f"{folder}.tar": tarred({n.partition("/")[2]: d for n, d in files.items() if folder in n})
        for folder in folders
    }
    path = {
        "folder": lambda: write_folder(tmp_path / "x", files),
        "tar": lambda: shard(tmp_path, files),
        "zip": lambda: write_zip(tmp_path / "x.zip", files),
        "folder of tars": lambda: write_folder(tmp_path / "x", tars),
        "around": lambda: shard(tmp_path, around),
    }[container]()
    with pytest.raises(
        DatasetError, match="are parts of a data set, which are no classes"
    ) as error:
        training_files(path)
    advised = Path(str(error.value).rpartition("such as ")[2])
    assert training_files(advised).classes == ["a", "b"]


@pytest.mark.parametrize(
    "folders",
    [("images", "masks"), ("images", "annotations"), ("JPEGImages", "SegmentationClass", "x")],
)
def test_images_and_what_goes_with_them_are_no_classes(folders, tmp_path):
    """As of Oxford's pets, of VOC, and of those who draw masks."""
    files = {f"{folder}/{i}.png": jpeg(i) for folder in folders for i in (0, 1)}
    with pytest.raises(DatasetError, match=f"{folders[1]} go with the images, and are no classes"):
        training_files(write_folder(tmp_path / "x", files))


def test_train_alone_may_be_a_class(tmp_path):
    files = {f"{c}/{i}.jpg": jpeg(i) for c in ("bus", "train", "tram") for i in range(2)}
    assert training_files(write_folder(tmp_path / "x", files)).classes == ["bus", "train", "tram"]


@pytest.mark.parametrize("end", [".md5", ".sha256", ".sha1"])
def test_a_checksum_beside_an_archive_is_no_part_of_it(end, tmp_path):
    tars = {f"{c}.tar": tarred({f"{i}.jpg": jpeg(i) for i in range(2)}) for c in "ab"}
    sums = {f"a.tar{end}": b"d41d8cd98f00b204e9800998ecf8427e  a.tar"}
    found = training_files(write_folder(tmp_path / "x", tars | sums))
    assert found.classes == ["a", "b"] and f"a.tar{end}" in found.remarks[0]


def test_a_tar_is_known_by_its_header(tmp_path):
    """Zip archives begin with PK, and so may the name of a tar's first file."""
    for first in ("PKLot", "7z\xbc", "BZh", "<html"):
        files = {f"{c}/{i}.jpg": jpeg(i) for c in (first, "z") for i in range(2)}
        assert training_files(shard(tmp_path, files)).classes == [first, "z"]
    inside = tarred({**files, "z/last.zip": write_zip(tmp_path / "x.zip", files).read_bytes()})
    found = training_files(write(tmp_path / "shard.tar", inside))
    assert "z/last.zip" in list(found.source.names)


def test_tars_joined_by_cat_are_an_error_that_says_so(tmp_path):
    """tarfile, and tar itself, read the first one alone."""
    one, other = (tarred({f"{c}/{i}.jpg": jpeg(i) for i in range(2)}) for c in "ab")
    with pytest.raises(ValueError, match=r"another archive lies behind .*tar --concatenate"):
        training_files(write(tmp_path / "x.tar", one + other))


def test_folders_that_are_called_as_archives_are_folders(tmp_path):
    files = {f"{c}/{i}.jpg": jpeg(i) for c in ("a.tar", "b.zip") for i in range(2)}
    assert training_files(write_folder(tmp_path / "x", files)).classes == ["a.tar", "b.zip"]


def test_names_that_come_twice_are_said(tmp_path):
    """tar -r does so; WebDataset takes it for an error."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name in ("a/0.jpg", "b/0.jpg", "a/0.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(jpeg(0))
            archive.addfile(entry, io.BytesIO(jpeg(0)))
    found = training_files(write(tmp_path / "x.tar", data.getvalue()))
    assert len(found.source) == 2 and "come twice: a/0.jpg (1 in all)" in found.remarks[0]


def test_names_in_zips_of_unix_are_those_of_the_folder(tmp_path):
    """Info-ZIP keeps bytes of any kind, and a backslash is a letter there."""
    files = {"a\\b/x.jpg": jpeg(0), "caf\xe9/y\\z.jpg": jpeg(1), "\u0436/w.jpg": jpeg(2)}
    path = write_zip(tmp_path / "x.zip", files)
    latin = path.read_bytes().replace("caf\xe9".encode(), b"caf\xe9e")
    found = training_files(path)
    assert sorted(found.source.names) == sorted(files)
    for start in (b"PK\3\4", b"PK\1\2"):  # no word on the encoding
        flags = 6 if start == b"PK\3\4" else 8
        place = latin.find(start)
        while place >= 0:
            latin = latin[: place + flags] + b"\0\0" + latin[place + flags + 2 :]
            place = latin.find(start, place + 4)
    found = training_files(write(tmp_path / "y.zip", latin))
    assert "caf\udce9e/y\\z.jpg" in list(found.source.names) and "\u0436" in found.classes


def test_empty_folders_of_windows_are_no_files(tmp_path):
    files = {"a\\": b"", "a\\1.jpg": jpeg(1), "b\\": b"", "b\\1.jpg": jpeg(2)}
    found = training_files(write_zip(tmp_path / "x.zip", files, separator="\\"))
    assert list(found.source.names) == ["a/1.jpg", "b/1.jpg"]


UNREAD = {
    "x.tfrecord": "TFRecord",
    "train-00000-of-01024": "TFRecord",
    "x.h5": "h5py",
    "data-00000-of-00001.arrow": "to_parquet",
    "x.7z": "7z x",
    "x.rar": "unrar x",
    "x.tar.zst": "unzstd",
    "x.tgz": "gunzip -k",
    "x.zip.001": "part of an archive that was split",
    "x.tar.gzaa": "part of an archive that was split",
    "x.z01": r"zip -s 0 \S*x\.zip",
    "x.rec": "RecordIO",
    "x.beton": "FFCV",
    "x.mds": "mosaicml-streaming",
    "x.npz": "Image.fromarray",
    "x.squashfs": "squashfuse",
    "x.csv": "--val-labels",
}


@pytest.mark.parametrize("name, advice", UNREAD.items(), ids=UNREAD)
def test_what_is_not_read_says_what_to_do(name, advice, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\1\2\3 no image")
    for use in (training_files, lambda path: validation_files(path, None, ["a"])):
        with pytest.raises(DatasetError, match=advice) as error:
            use(path)
        assert str(error.value).startswith(f"{path} is ")
    if not name.endswith((".csv", ".npz")):
        path.rename(tmp_path / f"1{name}")
        with pytest.raises(DatasetError, match=advice):
            training_files(tmp_path)


STARTS = {
    b"7z\xbc\xaf\x27\x1c": "7z x",
    b"Rar!\x1a\x07\1": "unrar x",
    b"\x89HDF\r\n\x1a\n": "h5py",
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"\n<!DOCTYPE html><html>": "a web page",
    b"PK\7\x08PK\3\4": "split",
}


@pytest.mark.parametrize("start, advice", STARTS.items(), ids=STARTS.values())
@pytest.mark.parametrize("name", ["x.tar", "x.zip", "x.parquet"])
def test_files_that_are_something_else_are_known_by_how_they_begin(start, advice, name, tmp_path):
    (tmp_path / name).write_bytes(start + bytes(600))
    with pytest.raises(DatasetError, match=advice):
        training_files(tmp_path / name)


def test_folders_of_other_forms_are_known_by_their_files(tmp_path):
    write_folder(tmp_path / "l", {"train.lmdb/data.mdb": b"x", "train.lmdb/lock.mdb": b"x"})
    with pytest.raises(DatasetError, match=r"data\.mdb, which is LMDB"):
        training_files(tmp_path / "l")
    arrow = {"data-0.arrow": b"x", "state.json": b"{}", "dataset_info.json": b"{}"}
    with pytest.raises(DatasetError, match="Arrow; convert it to parquet"):
        training_files(write_folder(tmp_path / "a", arrow))
    with pytest.raises(DatasetError, match=r"train with --data.root"):
        training_files(write_folder(tmp_path / "p", {"dataset.yaml": b"", "stats.npz": b""}))


def test_the_last_part_of_a_split_zip_is_known(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"a/1.jpg": jpeg(1), "b/1.jpg": jpeg(2)})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    struct.pack_into("<HH", data, end + 4, 2, 0)
    path.write_bytes(data[200:])
    with pytest.raises(ValueError, match=r"split; join the parts: zip -s 0 \S*/x\.zip --out"):
        training_files(path)


@pytest.mark.parametrize(
    "text, advice",
    [
        ("s3://bucket/images", "^s3://bucket/images: .*aws s3 cp --recursive.*mount-s3"),
        ("gs://bucket/a.tar", "gcsfuse"),
        ("https://host/x.tar", r"^https://host/x\.tar: .*curl -LO"),
        ("hf://datasets/a/b", "hf download"),
        ("azure://c/x", "rclone"),
        ("pipe:aws s3 cp s3://b/x.tar -", "into a file"),
        ("x/train-{000..009}.tar", r"braces .* such as '.*/x/train-\*\.tar'"),
        ("x/{train,val}-0.tar", "braces"),
    ],
)
def test_addresses_and_braces_say_what_to_do(text, advice):
    for use in (training_files, any_files):
        with pytest.raises(DatasetError, match=advice):
            use(Path(text).absolute())


def test_a_folder_with_a_colon_is_no_address(tmp_path):
    files = {f"{c}/{i}.jpg": jpeg(i) for c in "ab" for i in range(2)}
    assert training_files(write_folder(tmp_path / "s3:" / "x", files)).classes == ["a", "b"]
    with pytest.raises(DatasetError, match="no such folder"):
        training_files(tmp_path / "s3:" / "y")
