"""tools/prep_imagenet.py: from class folders to a prepared folder, and errors for bad input."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from alexnet_dali.pipeline.crops import CentreCrop
from alexnet_dali.pipeline.data_loader import DataLoader
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.messages import DatasetError
from alexnet_dali.tools import prep_imagenet
from tests.images import smooth_image, write_class_folders

ROOT = Path(__file__).parents[2]


@pytest.fixture
def images(tmp_path):
    write_class_folders(tmp_path / "train", {"cat": 4, "dog": 3}, seed=1)
    write_class_folders(tmp_path / "val", {"cat": 2, "dog": 1}, seed=2)
    return tmp_path


def prep(folder, *more, val=True):
    arguments = [
        "--train",
        folder / "train",
        *(["--val", folder / "val"] if val else []),
        "--out",
        folder / "out",
    ]
    prep_imagenet.main([str(argument) for argument in [*arguments, *more]])
    return Dataset.open(folder / "out")


def test_a_prepared_folder_has_lists_sizes_and_classes(images):
    dataset = prep(images)
    assert dataset.classes == ["cat", "dog"]
    lines = (images / "out/train.txt").read_text().splitlines()
    assert lines == [f"cat/{i:03d}.jpg 0" for i in range(4)] + [
        f"dog/{i:03d}.jpg 1" for i in range(3)
    ]
    for part in (dataset.train, dataset.val):
        for index in range(len(part)):
            with Image.open(part.path(index)) as image:
                assert part.sizes[index].tolist() == [image.height, image.width]
    about = yaml.safe_load((images / "out/dataset.yaml").read_text())
    assert about["train_images"] == 7 and about["val_images"] == 3 and about["rejected"] == 0


def test_statistics_match_pillows(images):
    """The mean over the central squares, resized to 256, is nearly Pillow's.

    On average, it differs by less than a grey level.
    """
    dataset = prep(images)
    squares = []
    for index in range(len(dataset.train)):
        image = Image.open(dataset.train.path(index))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        box = (left, top, left + side, top + side)
        squares.append(
            np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR, box=box), np.float64)
        )
    assert np.abs(dataset.stats.mean_image - np.mean(squares, 0)).mean() < 0.3
    np.testing.assert_allclose(dataset.stats.channel_mean, np.mean(squares, (0, 1, 2)), atol=0.3)


def test_bad_files_are_listed_and_the_rest_is_used(images):
    good = (images / "train/cat/000.jpg").read_bytes()
    broken = {
        "text.jpg": b"not an image",
        "empty.jpg": b"",
        "half.jpg": good[: len(good) // 2],
        "cut.jpg": good[:-200],
        "line\nbreak.jpg": good,
    }
    for name, data in broken.items():
        (images / "train/cat" / name).write_bytes(data)
    (images / "train/cat/dangling.jpg").symlink_to("nowhere")
    usable = {"two words.jpg": good, "name 7.jpg": good, "naïve.jpg": good}
    for name, data in usable.items():
        (images / "train/dog" / name).write_bytes(data)
    dataset = prep(images)
    rejected = dict(
        line.split("\t") for line in (images / "out/rejected.txt").read_text().splitlines()
    )
    names = {Path(path).name for path in rejected}
    assert names == {
        "text.jpg",
        "empty.jpg",
        "half.jpg",
        "cut.jpg",
        "line\\nbreak.jpg",
        "dangling.jpg",
    }
    assert all(rejected.values())
    listed = {dataset.train.path(i) for i in range(len(dataset.train))}
    assert {str(images / "train/dog" / name) for name in usable} <= listed
    assert len(dataset.train) == 7 + 3


def test_files_named_jpg_are_decoded_by_their_content(images):
    """PNG, greyscale and CMYK files under a .jpg name decode to RGB; EXIF rotation is undone."""
    rng = np.random.default_rng(0)
    picture = smooth_image(rng, 90, 60)
    for name, image, kind in [
        ("png.jpg", picture, "PNG"),
        ("grey.jpg", picture.convert("L"), "JPEG"),
        ("cmyk.jpg", picture.convert("CMYK"), "JPEG"),
    ]:
        image.save(images / "train/cat" / name, kind)
    exif = Image.Exif()
    exif[274] = 6
    picture.save(images / "train/cat/turned.jpg", exif=exif)
    dataset = prep(images)
    sizes = {
        Path(dataset.train.path(i)).name: dataset.train.sizes[i].tolist()
        for i in range(len(dataset.train))
    }
    assert sizes["png.jpg"] == sizes["grey.jpg"] == sizes["cmyk.jpg"] == [90, 60]
    assert sizes["turned.jpg"] == [60, 90]


@pytest.mark.parametrize(
    "text",
    [
        "{0}\tcat\t0\t0\t9\t9\n{1}\tdog\t1\t1\t5\t5\n",
        "{0} cat\n{1} dog\n",
        "\ufeff{0} cat\r\n{1} dog\r\n",
        "{0} 0\n{1} 1\n",
        "filename,label\n{0},cat\n{1},dog\n",
        "ImageId,PredictionString\n{0.stem},cat 1 2 3 4 cat 5 6 7 8\n{1.stem},dog 1 2 3 4 \n",
    ],
    ids=["tiny-imagenet", "names", "windows", "numbers", "csv", "kaggle"],
)
def test_a_flat_validation_folder_takes_labels_from_a_file(images, text):
    shutil.rmtree(images / "val")
    (images / "val").mkdir()
    names = [Path("val one.JPEG"), Path("two.JPEG")]
    for name in names:
        shutil.copy(images / "train/cat/000.jpg", images / "val" / name)
    (images / "labels").write_text(text.format(*names))
    dataset = prep(images, "--val-labels", str(images / "labels"))
    labels = {
        Path(dataset.val.path(i)): int(dataset.val.labels[i]) for i in range(len(dataset.val))
    }
    assert labels == {images / "val/val one.JPEG": 0, images / "val/two.JPEG": 1}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{0} cat\n", "no label for 1 of 2"),
        ("{0} cat\nother.JPEG dog\n", "it labels other.JPEG, which are not there"),
        ("{0} cat\n{1} cow\n", "cow"),
        ("{0} 0\n{1} 2\n", "a number from 0 to 1"),
        ("{0} cat\n{1} 1\n", "on every line"),
        ("{0} cat\n{1}\n", "labelled ''"),
        ("{0} cat\n{0} dog\n{1} dog\n", "labelled twice"),
    ],
)
def test_a_label_file_that_does_not_match_is_an_error(images, text, message):
    shutil.rmtree(images / "val")
    (images / "val").mkdir()
    for name in ("a.JPEG", "b.JPEG"):
        shutil.copy(images / "train/cat/000.jpg", images / "val" / name)
    (images / "labels").write_text(text.format("a.JPEG", "b.JPEG"))
    with pytest.raises(DatasetError, match=message):
        prep(images, "--val-labels", str(images / "labels"))
    assert not (images / "out").exists()


def test_held_out_images_are_not_trained_on(images):
    dataset = prep(images, "--hold-out", "0.3", val=False)
    train = {dataset.train.path(i) for i in range(len(dataset.train))}
    val = {dataset.val.path(i) for i in range(len(dataset.val))}
    assert not train & val and len(train | val) == 7
    assert np.bincount(dataset.val.labels).tolist() == [1, 1]


def test_a_class_without_usable_files_is_an_error(images):
    for path in (images / "train/dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class folder dog(.|\n)*the file is empty"):
        prep(images)


def test_a_class_without_an_image_is_found_before_the_work(images, monkeypatch):
    """From headers: folders of notes, of half a file, or of a kind that only --resize converts."""

    def work(*_):
        raise AssertionError("images were decoded")

    monkeypatch.setattr("alexnet_dali.pipeline.prepare.workers.Workers.results", work)
    (images / "train/notes").mkdir()
    (images / "train/notes/a.dat").write_bytes(b"no image")
    (images / "train/notes/b.jpg").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"class folder notes(.|\n)*a\.dat: not an image"):
        prep(images)
    for name in ("a.dat", "b.jpg"):
        (images / "train/notes" / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DatasetError, match=r"b\.jpg: a pointer of Git LFS.*git lfs pull"):
        prep(images)
    Image.new("RGB", (9, 9)).save(images / "train/notes/c.gif")
    with pytest.raises(DatasetError, match=r"c\.gif: a GIF file"):
        prep(images)
    with pytest.raises(AssertionError):
        prep(images, "--resize", "32")
    shutil.rmtree(images / "train/notes")
    (images / "train/texts").mkdir()
    (images / "train/texts/licence.txt").write_text("text")
    with pytest.raises(DatasetError, match="1 class folders hold no file: texts"):
        prep(images)


@pytest.mark.parametrize("what", ["folder", "files", "archive"])
def test_images_that_have_moved_are_found_again_by_editing_one_line(images, what):
    if what == "archive":
        for part in ("train", "val"):
            with tarfile.open(images / f"{part}.tar", "w") as archive:
                archive.add(images / part, ".")
        arguments = ["--train", images / "train.tar", "--val", images / "val.tar"]
        prep_imagenet.main([str(part) for part in [*arguments, "--out", images / "out"]])
    else:
        prep(images)
    dataset = Dataset.open(images / "out")
    before = next(iter(DataLoader(dataset, global_batch_size=2, crops=CentreCrop(32))))
    (images / "moved").mkdir()
    if what == "folder":
        (images / "train").rename(images / "moved/train")
    else:  # as of a disk that is not mounted
        for path in (images / "train").iterdir() if what == "files" else [images / "train.tar"]:
            path.rename(images / "moved" / path.name)
    assert DataLoader(dataset, "val", global_batch_size=2, crops=CentreCrop(32)) is not None
    with pytest.raises(DatasetError, match="is not there, nor are other images") as error:
        DataLoader(images / "out", global_batch_size=2, crops=CentreCrop(32))
    file = Path(re.search(r"into the line train_root of (.*)$", str(error.value))[1])
    new = images / ("moved/train" if what == "folder" else "moved")
    about, count = re.subn("(?m)^train_root: .*$", f"train_root: {new}", file.read_text())
    assert count == 1
    file.write_text(about)
    again = DataLoader(images / "out", global_batch_size=2, crops=CentreCrop(32))
    for one, other in zip(next(iter(again)), before, strict=True):
        assert one.equal(other)


def test_an_address_is_no_folder(images):
    with pytest.raises(DatasetError, match="s3://bucket/out is an address"):
        prep(images, "--out", "s3://bucket/out")
    with pytest.raises(DatasetError, match="aws s3 cp"):
        Dataset.open("s3://bucket/out")
    assert not Path("s3:").exists()


def test_a_class_of_one_image_has_none_to_hold_out(images):
    dog, *others = sorted((images / "train/dog").iterdir())
    for path in others:
        path.unlink()
    with pytest.raises(DatasetError, match=r"class of 'dog/.*' has this one image; .* --hold-out"):
        prep(images, "--hold-out", "0.3", val=False)
    (dog.parent / "bad.JPEG").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"no usable image .* class folder dog|--hold-out"):
        prep(images, "--hold-out", "0.3", val=False)


def test_missing_and_empty_folders_are_errors(images):
    shutil.rmtree(images / "val/cat")
    shutil.rmtree(images / "val/dog")
    with pytest.raises(DatasetError, match="no class folder with files in it"):
        prep(images)
    shutil.rmtree(images / "train")
    with pytest.raises(DatasetError, match="no such folder"):
        prep(images)


def test_class_names_that_are_numbers_are_not_taken_for_indices(images):
    """The classes are named 1 and 2, and the labels are 0 and 1.

    Reading word by word would take the second file for one of class 1.
    """
    for old, new in (("cat", "1"), ("dog", "2")):
        (images / "train" / old).rename(images / "train" / new)
    shutil.rmtree(images / "val")
    (images / "val").mkdir()
    for name in ("a.JPEG", "b.JPEG"):
        shutil.copy(images / "train/1/000.jpg", images / "val" / name)
    (images / "labels").write_text("a.JPEG 0\nb.JPEG 1\n")
    with pytest.raises(DatasetError, match=r"labelled '0' .* expected the name of a class folder"):
        prep(images, "--val-labels", str(images / "labels"))
    (images / "labels").write_text("a.JPEG 2\nb.JPEG 1\n")
    assert prep(images, "--val-labels", str(images / "labels")).val.labels.tolist() == [1, 0]


def test_pipes_and_circular_links_do_not_block_preparation(images):
    os.mkfifo(images / "train/cat/pipe.jpg")
    (images / "train/cat/loop").symlink_to(images / "train/cat")
    assert len(prep(images).train) == 7
    assert (
        images / "out/rejected.txt"
    ).read_text() == f"{images}/train/cat/pipe.jpg\tnot a regular file\n"


def test_validation_may_lack_a_class(images):
    shutil.rmtree(images / "val/cat")
    assert prep(images).val.labels.tolist() == [1]


def test_folders_named_train_and_val_are_not_taken_for_classes(images):
    with pytest.raises(DatasetError, match="which are no classes"):
        prep_imagenet.main(
            ["--train", str(images), "--hold-out", "0.5", "--out", str(images / "out")]
        )


def test_validation_classes_must_be_training_classes(images):
    os.rename(images / "val/dog", images / "val/wolf")
    with pytest.raises(DatasetError, match="wolf"):
        prep(images)


def test_a_folder_that_is_not_empty_is_not_overwritten(images):
    (images / "out").mkdir()
    (images / "out/precious").write_text("data")
    with pytest.raises(DatasetError, match="not empty"):
        prep(images)
    assert [path.name for path in (images / "out").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "damage", ["dataset.yaml", "train.txt", "names.txt", "stats.npz", "edit", "all"]
)
def test_a_half_written_or_edited_folder_is_an_error(images, damage):
    prep(images)
    if damage == "edit":
        with open(images / "out/train.txt", "a") as file:
            file.write("cat/000.jpg 1\n")
    elif damage == "all":
        shutil.rmtree(images / "out")
    else:
        (images / "out" / damage).unlink()
    with pytest.raises(DatasetError, match="alexnet prep"):
        Dataset.open(images / "out")


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path):
    command = [
        sys.executable,
        "tools/prep_imagenet.py",
        "--train",
        tmp_path / "no",
        "--val",
        tmp_path,
        "--out",
        "x",
    ]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and "no such folder" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "header, message",
    [
        ({"format": 1}, "made by version 0.2; prepare it again"),
        ({}, "made by version 0.2; prepare it again"),
        ({"format": 3, "targets": "classes"}, "made by a later version (format 3"),
        ({"format": 2, "targets": "boxes"}, "made by a later version (format 2, targets: boxes)"),
        ({"format": 2}, "expected format: 2 and targets: classes"),
        ({"format": "2", "targets": "classes"}, "expected format: 2 and targets: classes"),
    ],
)
def test_a_folder_of_another_version_is_named_and_not_called_damaged(images, header, message):
    prep(images)
    path = images / "out/dataset.yaml"
    about = yaml.safe_load(path.read_text())
    assert about.pop("format") == 2 and about.pop("targets") == "classes"
    for name in ("names.txt", "stats.npz"):  # other versions may have other files
        (images / "out" / name).unlink()
    path.write_text(yaml.safe_dump(header | about))
    with pytest.raises(DatasetError, match=re.escape(message)) as error:
        Dataset.open(images / "out")
    assert str(path) in str(error.value) and "alexnet prep" in str(error.value)


@pytest.mark.slow
def test_a_script_whose_processes_can_not_start_blames_no_file(tmp_path):
    """Without the guard, each process runs the script again, and fails."""
    write_class_folders(tmp_path / "images", {"a": 2, "b": 2})
    images, out = str(tmp_path / "images"), str(tmp_path / "out")
    (tmp_path / "script.py").write_text(
        "from alexnet_dali.tools import prep_imagenet\n"
        f"prep_imagenet.main(['--train', {images!r}, '--val', {images!r}, '--out', {out!r}])\n"
    )
    words = [sys.executable, tmp_path / "script.py"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert 'below `if __name__ == "__main__":`' in result.stderr.splitlines()[-1]
    assert "the decoder crashes" not in result.stderr and not (tmp_path / "out").exists()
