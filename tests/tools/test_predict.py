"""Pictures are classified as evaluation would, and odd files do not stop the others."""

import csv
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.patches import Rectangle
from PIL import Image

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.pipeline.prepare.pictures import find
from alexnet_dali.tools import evaluate, prep_imagenet
from alexnet_dali.tools.cli import run
from alexnet_dali.tools.paper.drawing import RED
from alexnet_dali.tools.predict import __main__ as predict
from alexnet_dali.tools.predict.answers import Answer, class_texts
from alexnet_dali.tools.predict.drawing import draw
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.networks import open_network
from tests import reference
from tests.images import smooth_image, write_class_folders

CPU = torch.device("cpu")


@pytest.fixture
def say(capsys):
    """Run the command; returns what it printed, as JSON if that was asked for, and on stderr."""

    def ask(*arguments):
        capsys.readouterr()
        predict.main([*map(str, arguments), "--device", "cpu"])
        printed, complaints = capsys.readouterr()
        return (json.loads(printed) if "--json" in arguments else printed), complaints

    return ask


def table(pictures):
    """Probabilities [N, 3] of the classes a, b and c by the pictures' paths."""
    return {
        picture["path"]: [
            next(guess["probability"] for guess in picture["guesses"] if guess["class"] == name)
            for name in "abc"
        ]
        for picture in pictures
    }


def evaluated(trained, prepared, tmp_path, *options):
    """What `tools.evaluate --save` has for each validation image, by its path."""
    arguments = [trained, "--data", prepared, "--save", tmp_path / "saved.npz", *options]
    evaluate.main([*map(str, arguments), "--device", "cpu"])
    val = Dataset.open(prepared).val
    with np.load(tmp_path / "saved.npz") as saved:
        (rows,) = saved["probabilities"]
    return {val.name(index): row for index, row in enumerate(rows)}, Path(val.root)


@pytest.mark.parametrize("views", ["1", "10"])
def test_probabilities_are_those_of_evaluation_to_the_last_bit(
    views, trained, prepared, tmp_path, say
):
    """To the last bit only where as many images are computed at a time."""
    expected, folder = evaluated(trained, prepared, tmp_path, "--views", views, "--batch-size", "4")
    found, _ = say(trained, folder, "--json", "--views", views, "--batch-size", "4")
    assert found["views"] == int(views) and len(found["pictures"]) == 15
    for path, row in table(found["pictures"]).items():
        np.testing.assert_array_equal(row, expected[str(Path(path).relative_to(folder))])
    alone, _ = say(trained, folder / "b/003.jpg", "--json", "--views", views)
    (row,) = table(alone["pictures"]).values()
    np.testing.assert_allclose(row, expected["b/003.jpg"], rtol=0, atol=1e-6)


def test_probabilities_are_those_of_a_plain_network(trained, tmp_path, say):
    """A picture of the network's own size is not resized: its pixels are Pillow's."""
    rng = np.random.default_rng(5)
    smooth_image(rng, 64, 64).save(tmp_path / "own.png")
    found, _ = say(trained, tmp_path / "own.png", "--json")
    state = checkpoint.load(checkpoint.newest(trained / "checkpoints"))
    mean = open_network(trained, CPU).mean.double()
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "own.png"))).permute(2, 0, 1)
    crop = pixels[None, :, 4:60, 4:60].double() - mean
    weights = {name: value.double() for name, value in state["model"].items()}
    sizes = ModelConfig(conv1_size=5, conv1_stride=2)
    expected = reference.forward(weights, crop, 3, None, sizes).softmax(1)
    (row,) = table(found["pictures"]).values()
    np.testing.assert_allclose(row, expected[0], rtol=0, atol=1e-5)


def test_an_archive_gives_what_the_folder_gives(trained, prepared, tmp_path, say):
    folder = Path(Dataset.open(prepared).val.root)
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        archive.add(folder, ".")
    rows = [table(say(trained, path, "--json")[0]["pictures"]) for path in (folder, archive.name)]
    assert [row.removeprefix(str(folder)) for row in rows[0]] == [
        row.removeprefix(str(archive.name)) for row in rows[1]
    ]
    assert list(rows[0].values()) == list(rows[1].values())


def test_kinds_that_dali_lacks_are_those_of_a_store(trained, tmp_path, say):
    """GIF files, and JPEG files that a zip archive compresses, as `--resize` stores them."""
    write_class_folders(tmp_path / "jpeg", dict.fromkeys("abc", 2))
    for path in (tmp_path / "jpeg").rglob("*.jpg"):
        gif = tmp_path / "gif" / path.parent.name / f"{path.stem}.gif"
        gif.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(gif)
    with zipfile.ZipFile(tmp_path / "packed.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "jpeg").rglob("*.jpg")):
            archive.write(path, path.relative_to(tmp_path / "jpeg"))
    for kind, given in (("gif", tmp_path / "gif"), ("packed", tmp_path / "packed.zip")):
        sources = ["--train", given, "--val", given, "--out", tmp_path / f"prepared-{kind}"]
        prep_imagenet.main([*map(str, sources), "--resize", "64"])
        expected, _ = evaluated(trained, tmp_path / f"prepared-{kind}", tmp_path)
        found, complaints = say(trained, given, "--json")
        assert not complaints and len(found["pictures"]) == 6
        for path, row in table(found["pictures"]).items():
            stored = str(Path(path).relative_to(given)).replace(".gif", "_gif.jpg")
            np.testing.assert_allclose(row, expected[stored], rtol=0, atol=1e-6)


def test_odd_files_are_named_and_skipped(trained, tmp_path, say):
    write_class_folders(tmp_path, {"a": 2, "other": 1})
    whole = (tmp_path / "a/000.jpg").read_bytes()
    (tmp_path / "other/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "other/notes.txt").write_text("no picture")
    (tmp_path / "other/empty.jpg").write_bytes(b"")
    (tmp_path / "broken.zip").write_bytes(b"PK and nothing more")
    given = [tmp_path / name for name in ("other", "missing.jpg", "a/001.jpg", "broken.zip")]
    found, complaints = say(trained, *given, "--json")
    assert [picture["path"] for picture in found["pictures"]] == [
        str(tmp_path / "other/000.jpg"),
        str(tmp_path / "a/001.jpg"),
    ]
    odd = {Path(entry["path"]).name: entry["reason"] for entry in found["skipped"]}
    assert odd.keys() == {"cut.jpg", "notes.txt", "empty.jpg", "missing.jpg", "broken.zip"}
    assert "not an image" in odd["notes.txt"] and "empty" in odd["empty.jpg"]
    for name, reason in odd.items():
        assert f"{name}: {reason}" in complaints


def test_a_link_that_leads_nowhere_is_one_of_the_odd_files(trained, tmp_path, say):
    write_class_folders(tmp_path / "pictures", {"a": 2})
    (tmp_path / "pictures/gone.jpg").symlink_to("moved.jpg")
    found, complaints = say(trained, tmp_path / "pictures", "--json")
    assert len(found["pictures"]) == 2 and complaints.count("skipped") == 1
    (odd,) = found["skipped"]
    assert odd["path"].endswith("pictures/gone.jpg") and "No such file" in odd["reason"]


def test_the_exit_status_is_2_only_where_nothing_could_be_classified(
    trained, tmp_path, monkeypatch, capsys
):
    (tmp_path / "notes.txt").write_text("no picture")
    monkeypatch.setattr(sys, "argv", ["predict", str(trained), str(tmp_path), "--device", "cpu"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run(predict.main)
    printed, complaints = capsys.readouterr()
    assert ended.value.code == 2 and not printed
    assert "notes.txt: not an image" in complaints and "Traceback" not in complaints
    assert complaints.endswith("error: no picture could be classified\n")
    write_class_folders(tmp_path, {"a": 1})
    run(predict.main)
    assert "notes.txt: not an image" in capsys.readouterr().err


def test_a_label_is_known_where_one_folder_has_the_name_of_a_class(tmp_path, monkeypatch):
    for name in ("cat/x.jpg", "cat/dog/y.jpg", "cat/more/z.jpg", "bird/w.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "dog.zip", "w") as archive:
        archive.write(tmp_path / "cat/x.jpg", "x.jpg")
        archive.write(tmp_path / "cat/x.jpg", "more/x.jpg")
    monkeypatch.chdir(tmp_path / "cat")
    given = ["..", "x.jpg", "../cat/dog/y.jpg", ".", "../dog.zip", "../dog.zip/more"]
    found, odd, _ = find(given, ["cat", "dog"])
    assert not odd
    known = [picture for pictures in found for picture in pictures.known]
    assert [(picture.path, picture.label) for picture in known] == [
        ("../bird/w.jpg", None),
        ("../cat/dog/y.jpg", None),  # in both
        ("../cat/more/z.jpg", 0),
        ("../cat/x.jpg", 0),
        ("../dog.zip", None),  # no picture, but a file of its own in a folder
        ("x.jpg", 0),
        ("../cat/dog/y.jpg", 1),  # of the folders of one file, only the last counts
        ("dog/y.jpg", None),
        ("more/z.jpg", 0),
        ("x.jpg", 0),
        ("../dog.zip/more/x.jpg", 1),
        ("../dog.zip/x.jpg", 1),
        ("../dog.zip/more/x.jpg", 1),
    ]


def named(trained, tmp_path):
    """A copy of the checkpoint with people's names; that of one class is the folder's own."""
    state = checkpoint.load(checkpoint.newest(trained / "checkpoints"))
    names = ["house cat, Felis domesticus", "b", "a bird"]
    checkpoint.save(tmp_path / "named/checkpoints", state | {"names": names}, keep=1)
    return tmp_path / "named"


def test_table_and_csv_give_the_same_with_names(trained, prepared, tmp_path, say):
    network, folder = named(trained, tmp_path), Path(Dataset.open(prepared).val.root)
    pictures = [folder / "a/000.jpg", folder / "c/001.jpg"]
    report, _ = say(network, *pictures, "--json")
    text, _ = say(network, *pictures, "--csv")
    printed, _ = say(network, *pictures)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 1, 2, 3]
    guesses = [guess for picture in report["pictures"] for guess in picture["guesses"]]
    for row, guess in zip(rows, guesses, strict=True):
        assert (row["class"], row["name"]) == (guess["class"], guess["name"])
        assert float(row["probability"]) == guess["probability"]
        assert f"{guess['probability']:.2%}" in printed
    assert [row["label"] for row in rows] == ["a"] * 3 + ["c"] * 3
    assert {"house cat (a)", "b", "a bird (c)"} == set(class_texts(open_network(network, CPU)))
    assert "house cat (a)" in printed and "class's folder: 2" in printed
    for probabilities in (rows[:3], rows[3:]):
        assert sum(float(row["probability"]) for row in probabilities) == pytest.approx(1)


@pytest.fixture
def printed(capsys, monkeypatch):
    """What a command prints as it is run from a shell, where names are spelt out."""

    def ask(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["alexnet", *map(str, arguments), "--device", "cpu"])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with monkeypatch.context() as restored:
            restored.setattr(sys, "stdout", sys.stdout)
            run(command.main)
        return capsys.readouterr().out

    return ask


ODD_NAMES = ["plain.jpg", 'a "b", c.jpg', "re\rturn.jpg", "\x7f\x1b[2J.jpg", "é.jpg"]


def test_csv_and_json_are_read_back_by_their_libraries(trained, prepared, tmp_path, printed):
    """As from a shell: a stream that spells out control characters would spoil both."""
    picture = Path(Dataset.open(prepared).val.root) / "a/000.jpg"
    (tmp_path / "b").mkdir()
    for name in ODD_NAMES:
        shutil.copy(picture, tmp_path / "b" / name)
    text = printed(predict, trained, tmp_path, "--csv")
    assert text.count("\r\n") == text.count("\n") == 1 + 3 * len(ODD_NAMES)
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert list(rows[0]) == ["picture", "label", "rank", "class", "name", "probability"]
    expected = {str(tmp_path / "b" / name) for name in ODD_NAMES}
    assert {row["picture"] for row in rows} == expected and len(rows) == 3 * len(expected)
    found = json.loads(printed(predict, trained, tmp_path, "--json"))
    assert {one["path"] for one in found["pictures"]} == expected
    guesses = [guess for one in found["pictures"] for guess in one["guesses"]]
    for row, guess in zip(rows, guesses, strict=True):
        assert float(row["probability"]) == guess["probability"] and row["label"] == "b"
        assert row["class"] == guess["class"] and int(row["rank"]) in (1, 2, 3)


def test_an_evaluation_is_read_back_as_json(trained, prepared, printed):
    report = json.loads(printed(evaluate, trained, "--data", prepared, "--json"))
    assert report["num_images"] == 15 and len(report["per_class"]) == 3


def test_a_webp_file_with_exif_behind_an_odd_chunk_stops_no_other(trained, tmp_path, say):
    """DALI does not find its EXIF, and says so by a status that is no verdict on an image."""
    picture = smooth_image(np.random.default_rng(4), 70, 90)
    exif = Image.Exif()
    exif[274] = 6
    picture.save(tmp_path / "odd.webp", lossless=True, exif=exif, icc_profile=b"p" * 7)
    picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    found, complaints = say(trained, tmp_path, "--json")
    assert not complaints
    one, other = table(found["pictures"]).values()
    np.testing.assert_allclose(one, other, atol=0.05)  # converted as JPEG


def test_checkpoints_hold_names(trained, prepared):
    state = checkpoint.load(checkpoint.newest(trained / "checkpoints"))
    assert state["names"] == Dataset.open(prepared).names


@pytest.mark.parametrize("suffix, start", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?x")])
def test_a_figure_is_drawn(suffix, start, trained, prepared, tmp_path, say):
    folder, out = Path(Dataset.open(prepared).val.root), tmp_path / f"new/drawn.{suffix}"
    say(trained, folder / "a", "--figure", out)
    assert out.read_bytes().startswith(start)
    with pytest.raises(ValueError, match=r"ends in \.png"):
        say(trained, folder / "a", "--figure", tmp_path / "drawn.gif")


def test_a_figure_overwrites_no_picture(trained, tmp_path, say):
    """Under whatever name: here a folder's, with a link on the way."""
    smooth_image(np.random.default_rng(5), 64, 64).save(tmp_path / "own.png")
    (tmp_path / "link").symlink_to(tmp_path)
    before = (tmp_path / "own.png").read_bytes()
    for given in ("own.png", "."):
        with pytest.raises(ValueError, match=r"own\.png, which is one of the pictures"):
            say(trained, tmp_path / given, "--figure", tmp_path / "link/own.png")
    assert (tmp_path / "own.png").read_bytes() == before
    for _ in range(2):  # a figure of before may be drawn anew
        say(trained, tmp_path / "own.png", "--figure", tmp_path / "link/drawn.png")


@pytest.mark.parametrize("count", [1, 7])
def test_in_figures_no_text_meets_a_bar_another_text_or_the_edge(count, trained):
    classes = [f"n{number:08d}" for number in range(5)]
    names = ["a name that is far too long to be drawn beside a bar", "$x^$", "é", "\udce9", "dog"]
    network = open_network(trained, CPU)._replace(classes=classes, names=names)
    sure, unsure = [1.0, 0.0, 0.0, 0.0, 0.0], [0.9, 0.04, 0.03, 0.02, 0.01]
    square = np.zeros((64, 64, 3), np.uint8)
    answers = [
        Answer("folder/" * 20 + "$picture$.jpg", place % 3, list(range(5)), scores, square)
        for place, scores in enumerate([sure, unsure] * 4)
    ][:count]
    figure = draw(network, answers)
    figure.draw_without_rendering()
    whole = figure.bbox
    texts, bars = [], []
    for axes in figure.axes:
        shown = [*axes.texts, *axes.get_yticklabels(), *axes.get_xticklabels(), axes._left_title]
        texts += [text.get_window_extent() for text in shown if text.get_text() and axes.axison]
        bars += [bar.get_window_extent() for bar in axes.patches if isinstance(bar, Rectangle)]
    reds = [[bar.get_facecolor() == to_rgba(RED) for bar in axes.patches] for axes in figure.axes]
    assert [row for row in reds if row] == [
        [number == place % 3 for number in range(5)] for place in range(count)
    ]
    assert len(bars) == 5 * count and len(texts) == (5 + 5 + 5 + 1) * count
    for place, box in enumerate(texts):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1
        assert whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert not any(box.overlaps(other) for other in texts[place + 1 :])
        assert not any(box.overlaps(bar) for bar in bars if bar.width > 0)


def test_names_of_any_bytes_are_taken(trained, prepared, tmp_path, say):
    picture = tmp_path / os.fsdecode(b"caf\xe9, 1.jpg")
    shutil.copy(Path(Dataset.open(prepared).val.root) / "a/000.jpg", picture)
    found, _ = say(trained, tmp_path, "--json")
    assert [entry["path"] for entry in found["pictures"]] == [str(picture)]
