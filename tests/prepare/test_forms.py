"""The same images in every form that datasets come in give the same batches."""

import io
import json
import tarfile
import zipfile

import numpy as np
import pyarrow
import pytest
import webdataset
from pyarrow import parquet

from alexnet_dali.pipeline.crops import RandomCrop
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import prep_imagenet
from tests.feeding import plain, shown, training_plan
from tests.images import write_class_folders

CLASSES = ["n01", "n02", "n03"]
COUNT = 8
SIDE = 64
STORED = ("--resize", SIDE, "--quality", 98)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`train` and `val`, a folder for each class in both."""
    root = tmp_path_factory.mktemp("forms")
    write_class_folders(root / "train", dict.fromkeys(CLASSES, COUNT), seed=1)
    write_class_folders(root / "val", dict.fromkeys(CLASSES, 2), seed=2)
    for part in ("train", "val"):  # ImageNet's names differ from class to class, too
        for path in sorted((root / part).glob("*/*.jpg")):
            path.rename(path.with_name(f"{path.parent.name}_{path.stem}.JPEG"))
    return root


def files(folder):
    """(class, path) of each image, in the order of the folder."""
    return [(path.parent.name, path) for path in sorted(folder.glob("*/*"))]


def prep(tmp_path, train, val, *more):
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    arguments = ["--train", train, "--val", val, *more, "--out", out]
    prep_imagenet.main([str(argument) for argument in arguments])
    return Dataset.open(out)


def epoch(dataset):
    """Pixels and labels of an epoch in a training order, and of the validation images."""
    crops, parts = RandomCrop(SIDE - 16, SIDE), []
    for images, num_steps in ((dataset.train, COUNT // 2), (dataset.val, 1)):
        plan = training_plan(images, crops, batch_size=6, num_steps=num_steps)
        parts += shown(images, plan, plain(SIDE - 16))
    return [np.concatenate([np.asarray(array) for array in arrays]) for arrays in zip(*parts)]


def check_equal(dataset, reference):
    for found, expected in zip(epoch(dataset), epoch(reference), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(dataset.stats.mean_image, reference.stats.mean_image)


def tar(folder, path, top="", extra=()):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in extra:
            archive.addfile(tarfile.TarInfo(name))
        archive.add(folder, top or ".")
    return path


def zip_of(folder, path, top, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, file in reversed(files(folder)):
            archive.write(file, f"{top}{name}/{file.name}")
    return path


def test_archives_in_place_give_what_the_folder_gives(folders, tmp_path):
    reference = prep(tmp_path, folders / "train", folders / "val")
    junk = (
        "./.ipynb_checkpoints/x.JPEG",
        "__MACOSX/n01/._x.JPEG",
        "n01/Thumbs.db",
        "n02/.DS_Store",
    )
    (tmp_path / "tars").mkdir()
    for name in CLASSES:
        with tarfile.open(tmp_path / f"tars/{name}.tar", "w") as archive:
            for path in sorted((folders / "train" / name).iterdir()):
                archive.add(path, path.name)
    forms = [
        tar(folders / "train", tmp_path / "plain.tar"),
        tar(folders / "train", tmp_path / "junk.tar", extra=junk),
        tar(folders / "train", tmp_path / "on-top.tar", "data/train"),
        tmp_path / "tars",
        zip_of(folders / "train", tmp_path / "stored.zip", "", zipfile.ZIP_STORED),
        zip_of(folders / "train", tmp_path / "on-top.zip", "data/train/", zipfile.ZIP_STORED),
    ]
    val = zip_of(folders / "val", tmp_path / "val.zip", "ILSVRC/val/", zipfile.ZIP_STORED)
    for train in forms:
        dataset = prep(tmp_path, train, val / "ILSVRC/val")
        assert dataset.classes == CLASSES
        check_equal(dataset, reference)
        for part in (dataset.train, dataset.val):
            sizes = [part.content(index).size for index in range(len(part))]
            assert part.spans is not None and part.spans[:, 2].tolist() == sizes


def test_kaggles_zip_is_read_with_its_solution_and_names(folders, tmp_path):
    """The localisation challenge: one zip of everything, validation images in one flat folder."""
    reference = prep(tmp_path, folders / "train", folders / "val", *STORED)
    solution = "ImageId,PredictionString\n"
    with zipfile.ZipFile(tmp_path / "kaggle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train", "val"):
            for number, (name, path) in enumerate(files(folders / part)):
                inside = f"{name}/{path.name}" if part == "train" else f"V{number:03d}.JPEG"
                archive.write(path, f"ILSVRC/Data/CLS-LOC/{part}/{inside}")
                solution += f"V{number:03d},{name} 1 2 3 4 {name} 5 6 7 8\n" * (part == "val")
        archive.writestr("ILSVRC/Annotations/CLS-LOC/train/n01/a.xml", "<annotation/>")
        archive.writestr("LOC_val_solution.csv", solution)
        archive.writestr(
            "LOC_synset_mapping.txt",
            "n01 tench, Tinca tinca\nn02 goldfish, Carassius auratus\nn03 great white shark\n",
        )
    inside = tmp_path / "kaggle.zip/ILSVRC/Data/CLS-LOC"
    labels = ("--val-labels", tmp_path / "kaggle.zip/LOC_val_solution.csv")
    names = ("--names", tmp_path / "kaggle.zip/LOC_synset_mapping.txt")
    with pytest.raises(DatasetError, match=r"compressed.*store them with --resize"):
        prep(tmp_path, inside / "train", inside / "val", *labels)
    dataset = prep(tmp_path, inside / "train", inside / "val", *labels, *names, *STORED)
    check_equal(dataset, reference)
    assert dataset.classes == CLASSES
    assert dataset.names[:2] == ["tench, Tinca tinca", "goldfish, Carassius auratus"]


def write_parquet(folder, path, first, step):
    """Every `step`th image as the `datasets` library writes it, in small row groups."""
    rows = files(folder)[first::step]
    image = pyarrow.array(
        [{"bytes": file.read_bytes(), "path": file.name} for _, file in rows],
        pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]),
    )
    label = pyarrow.array([CLASSES.index(name) for name, _ in rows], pyarrow.int64())
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["tench", "goldfish", "shark"]},
    }
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pyarrow.table({"image": image, "label": label}).replace_schema_metadata(about)
    parquet.write_table(table, path, row_group_size=5)


def test_the_hubs_parquet_files_are_read_with_names_from_their_schema(folders, tmp_path):
    reference = prep(tmp_path, folders / "train", folders / "val", *STORED)
    data = tmp_path / "data"
    data.mkdir()
    for shard in range(3):
        write_parquet(folders / "train", data / f"train-0000{shard}-of-00003.parquet", shard, 3)
    write_parquet(folders / "val", data / "validation-00000-of-00001.parquet", 0, 1)
    train, val = data / "train-*.parquet", data / "validation-00000-of-00001.parquet"
    with pytest.raises(DatasetError, match="store them with --resize"):
        prep(tmp_path, train, val)
    with pytest.raises(DatasetError, match=r"several parts \(train, validation\)"):
        prep(tmp_path, data, val, *STORED)
    dataset = prep(tmp_path, train, val, *STORED)
    check_equal(dataset, reference)
    assert dataset.classes == ["0", "1", "2"]
    assert dataset.names == ["tench", "goldfish", "shark"]


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_webdataset_shards_of_others_are_read_in_place(folders, tmp_path, kind):
    reference = prep(tmp_path, folders / "train", folders / "val")
    for part in ("train", "val"):
        images = files(folders / part)
        order = np.random.default_rng(0).permutation(len(images))
        for shard in range(2):
            path = tmp_path / f"{part}-{shard:04d}.tar"
            with webdataset.TarWriter(str(path)) as writer:
                for name, file in [images[i] for i in order[shard::2]]:
                    label = CLASSES.index(name)
                    content = label if kind == "cls" else {"label": label, "width": 9}
                    sample = {"__key__": file.stem, "jpg": file.read_bytes(), kind: content}
                    writer.write(sample)
    dataset = prep(tmp_path, tmp_path / "train-*.tar", tmp_path / "val-*.tar")
    check_equal(dataset, reference)
    assert dataset.classes == ["0", "1", "2"]


def test_a_zip_member_that_was_damaged_is_rejected_by_its_checksum(folders, tmp_path):
    """A changed byte in the scan of a JPEG file often decodes without a word."""
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zip_of(folders / "train", tmp_path / f"{compression}.zip", "", compression)
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo("n02/n02_003.JPEG")
        data = bytearray(path.read_bytes())
        data[entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2] ^= 1
        path.write_bytes(data)
        dataset = prep(tmp_path, path, folders / "val", *STORED)
        rejected = (dataset.folder / "rejected.txt").read_text()
        assert "n02/n02_003.JPEG\tdamaged in its archive" in rejected and rejected.count("\n") == 1


def test_zips_that_can_not_be_read_safely_are_refused_by_name(tmp_path):
    def archive(name, attributes=0, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(tmp_path / "odd.zip", "w") as file:
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = attributes, compression
            file.writestr(entry, b"content")
        return tmp_path / "odd.zip"

    for path, message in [
        (lambda: archive("../a/1.jpg"), "leads out of the archive"),
        (lambda: archive("a/1.jpg", attributes=0o120777 << 16), "symbolic link"),
        (lambda: archive("a/1.jpg", compression=zipfile.ZIP_LZMA), "packed with method 14"),
    ]:
        with pytest.raises(ValueError, match=message):
            prep(tmp_path, path(), tmp_path)
    whole = archive("a/1.jpg").read_bytes()
    (tmp_path / "odd.zip").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="expected a whole zip archive"):
        prep(tmp_path, tmp_path / "odd.zip", tmp_path)


@pytest.mark.parametrize("kind", ["holes", "holes 0.1"])
def test_a_sparse_member_is_refused_by_name(folders, tmp_path, kind):
    """Its bytes in the archive begin with a map of the holes, or lie apart."""
    body = (folders / "train/n01/n01_000.JPEG").read_bytes()
    headers = {"GNU.sparse.size": str(len(body)), "GNU.sparse.numblocks": "1"}
    headers["GNU.sparse.map"] = f"0,{len(body)}"
    if kind == "holes":
        headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        headers |= {"GNU.sparse.name": "n01/a.JPEG", "GNU.sparse.realsize": str(len(body))}
        body = f"1\n0\n{len(body)}\n".encode().ljust(512, b"\0") + body
    entry = tarfile.TarInfo("n01/a.JPEG")
    entry.size, entry.pax_headers = len(body), headers
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry, io.BytesIO(body))
    with pytest.raises(ValueError, match=r"n01/a\.JPEG is stored with holes"):
        prep(tmp_path, tmp_path / "sparse.tar", folders / "val")


def test_parquet_files_whose_classes_differ_are_refused(folders, tmp_path, monkeypatch):
    """Labels are numbers, which mean other classes in the second file."""
    write_parquet(folders / "train", tmp_path / "train-0.parquet", 0, 2)
    write_parquet(folders / "val", tmp_path / "val-0.parquet", 0, 1)
    table = parquet.read_table(tmp_path / "train-0.parquet")
    about = table.schema.metadata[b"huggingface"].replace(
        b'"tench", "goldfish"', b'"goldfish", "tench"'
    )
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": about}), tmp_path / "o-1.parquet"
    )
    train = tmp_path / "train-0.parquet"
    with pytest.raises(DatasetError, match="names other classes than that of the training files"):
        prep(tmp_path, train, tmp_path / "o-1.parquet", *STORED)
    (tmp_path / "o-1.parquet").rename(tmp_path / "train-1.parquet")
    with pytest.raises(DatasetError, match="names other classes than the files before it"):
        prep(tmp_path, tmp_path / "train-*.parquet", tmp_path / "val-0.parquet", *STORED)


def test_shards_without_labels_and_parts_of_one_archive_are_no_classes(folders, tmp_path):
    for shard in range(2):
        with webdataset.TarWriter(str(tmp_path / f"s-{shard}.tar")) as writer:
            for name, file in files(folders / "train")[shard::2]:
                writer.write({"__key__": file.stem, "jpg": file.read_bytes(), "txt": name})
        with tarfile.open(tmp_path / f"p-{shard}.tar", "w") as archive:
            for name, file in files(folders / "train")[shard::2]:
                archive.add(file, f"{name}/{file.name}")
    with pytest.raises(DatasetError, match=r"24 of 24 images have no \.cls file"):
        prep(tmp_path, tmp_path / "s-*.tar", folders / "val")
    with pytest.raises(DatasetError, match=r"parts of one data set and not a class each"):
        prep(tmp_path, tmp_path / "p-*.tar", folders / "val")


def test_an_archive_among_images_is_a_file_as_in_a_folder(folders, tmp_path):
    """Only an archive of archives alone is ImageNet's form."""
    with tarfile.open(tmp_path / "inner.tar", "w") as archive:
        archive.add(folders / "train/n01/n01_000.JPEG", "x.JPEG")
    with tarfile.open(tmp_path / "outer.tar", "w") as archive:
        archive.add(folders / "train", ".")
        archive.add(tmp_path / "inner.tar", "n02/odd.tar")
    dataset = prep(tmp_path, tmp_path / "outer.tar", folders / "val")
    rejected = (dataset.folder / "rejected.txt").read_text()
    assert "n02/odd.tar\tnot an image" in rejected and len(dataset.train) == 24


def test_names_with_dots_and_doubled_slashes_are_the_same_names(folders, tmp_path):
    reference = prep(tmp_path, folders / "train", folders / "val")
    with tarfile.open(tmp_path / "dots.tar", "w") as archive:
        for name, file in files(folders / "train"):
            archive.add(file, f".//data/.hidden/train//{name}/./{file.name}")
    dataset = prep(tmp_path, tmp_path / "dots.tar/data/.hidden/train", folders / "val")
    check_equal(dataset, reference)


def test_a_pattern_means_files_of_one_folder(folders, tmp_path):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        tar(folders / "train", tmp_path / part / "x.tar")
    with pytest.raises(DatasetError, match="expected files in one folder"):
        prep(tmp_path, tmp_path / "*/x.tar", folders / "val")
    with pytest.raises(DatasetError, match="expected files in one folder"):
        prep(tmp_path, tmp_path / "?", folders / "val")


def test_what_macos_leaves_in_imagenets_archives_is_skipped(folders, tmp_path, capsys):
    """Files that begin with ._ stand beside the archives of the classes, and beside the images."""
    reference = prep(tmp_path, folders / "train", folders / "val")
    with tarfile.open(tmp_path / "train.tar", "w") as outer:
        for name in CLASSES:
            with tarfile.open(tmp_path / f"{name}.tar", "w") as inner:
                for path in sorted((folders / "train" / name).iterdir()):
                    inner.add(path, path.name)
            outer.add(tmp_path / f"{name}.tar", f"{name}.tar")
            outer.addfile(tarfile.TarInfo(f"._{name}.tar"))
    labels = ""
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(".DS_Store"))
        for name, path in files(folders / "val"):
            archive.addfile(tarfile.TarInfo(f"._{path.name}"))
            archive.add(path, path.name)
            labels += f"{path.name} {name}\n"
    (tmp_path / "labels.txt").write_text(labels)
    more = ("--val-labels", tmp_path / "labels.txt")
    dataset = prep(tmp_path, tmp_path / "train.tar", tmp_path / "val.tar", *more)
    check_equal(dataset, reference)
    said = capsys.readouterr().out
    assert "._n01.tar, ._n02.tar, ._n03.tar (3 in all)" in said and "(7 in all)" in said
