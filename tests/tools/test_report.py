"""The page: what it holds against numpy and Pillow, and that it needs nothing beside itself."""

import base64
import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_dali.tools.report import __main__ as report
from alexnet_dali.tools.report import findings, record
from alexnet_dali.train.checkpoints.run_folder import changed_options, read_config
from alexnet_dali.train.config import Config, load
from alexnet_dali.train.networks import open_network, predict
from alexnet_dali.train.parallel.ranks import join
from tests.images import prepare

NAMES = ["<script>alert(1)</script>", 'b & "quoted" <b>', "c"]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A page's elements, its text, and the rows of its tables."""

    def __init__(self, html):
        super().__init__()
        self.html, self.elements, self.words, self.rows, self.open = html, [], [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")

    def table(self, first):
        """The rows below the heading whose first words these are."""
        begin = next(n for n, row in enumerate(self.rows) if row[: len(first)] == first)
        rows = []
        for row in self.rows[begin + 1 :]:
            if len(row) != len(self.rows[begin]) or row[0] in ("class", "option", "logged"):
                break
            rows.append(row)
        return rows


def write(folder, out, *more):
    report.main([str(folder), "--device", "cpu", "--out", str(out), *map(str, more)])
    return Page(out.read_text())


@pytest.fixture(scope="module")
def named(prepared, tmp_path_factory):
    """The prepared folder, with people's names that would be elements if they were not escaped."""
    folder = tmp_path_factory.mktemp("named") / "prepared"
    shutil.copytree(prepared, folder)
    (folder / "names.txt").write_text("".join(f"{name}, also\n" for name in NAMES))
    return folder


@pytest.fixture(scope="module")
def page(trained, named, tmp_path_factory):
    return write(trained, tmp_path_factory.mktemp("report") / "new/page.html", "--data", named)


@pytest.fixture(scope="module")
def scored(trained, dataset):
    """Probabilities and labels of the validation images."""
    with join("cpu", num_columns=1) as ranks:
        network = open_network(trained, ranks.device)
        (scores,), labels = predict([network], dataset, ranks, num_views=1)
    return scores, labels


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the run, to take things away from."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def assert_needs_nothing(page):
    """No script, no frame, and nothing that a browser would load."""
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "audio"}
    for tag, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")], attrs
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/")), (tag, name)
    assert all(place.startswith("#") for place in re.findall(r"url\(['\"]?(.)", page.html))
    assert "@import" not in page.html
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    anchors = [attrs["href"][1:] for tag, attrs in page.elements if tag == "a"]
    assert anchors and set(anchors) <= set(ids)


def test_the_page_loads_nothing_and_runs_nothing(page):
    assert_needs_nothing(page)


def test_names_are_text_and_never_elements(page):
    """As people call the classes: the first of each name, beside the folder's."""
    assert "<script" not in page.html and "<b>" not in page.html
    for name in NAMES:
        assert name in page.text
    assert ", also" not in page.text


def test_all_pictures_open_and_have_a_description(page, scored):
    pictures = [attrs for tag, attrs in page.elements if tag == "img"]
    # 8 predictions, 12 hard images, 3 or more queries with 6 neighbours each, 2 columns, noise
    assert len(pictures) == 8 + 12 + 5 * 7 + 3
    for attrs in pictures:
        kind, data = attrs["src"].split(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            picture.load()
            assert kind == f"data:image/{picture.format.lower()}" and attrs["alt"]
    assert sum(tag == "svg" for tag, _ in page.elements) == 4


def test_errors_are_those_of_the_probabilities(page, scored):
    scores, labels = scored
    wrong = int((scores.argmax(1) != labels).sum())
    assert f"its top-1 error is {100 * wrong / len(labels):.2f} %" in page.text
    assert "its top-5 error 0.00 %" in page.text.replace("and its", "its")  # there are 3 classes
    z, n, rate = 1.959964, len(labels), wrong / len(labels)  # Wilson's formula
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert f"is {100 * (middle - half):.1f} % to {100 * (middle + half):.1f} %" in page.text
    assert "Guessing at random gives 66.7 %" in page.text


def test_classes_and_confused_pairs_are_those_of_the_probabilities(page, scored):
    scores, labels = scored
    guesses = scores.argmax(1)
    counts = Counter(
        (NAMES[a], NAMES[b]) for a, b in zip(labels.tolist(), guesses.tolist()) if a != b
    )
    rows = page.table(["class", "taken for"])
    assert {(row[0], row[1]): int(row[2].split()[0]) for row in rows} == counts
    shown = [int(row[2].split()[0]) for row in rows]
    assert shown == sorted(shown, reverse=True) and {row[2].split()[-1] for row in rows} == {"5"}
    table = page.table(["class", "images"])
    found = {row[0].rsplit(" ", 1)[0]: row[1:3] for row in table}
    for label, name in enumerate(NAMES):
        rate = (guesses[labels == label] != label).mean()
        assert found[name] == ["5", f"{100 * rate:.1f} %"]
    rates = [float(row[2].split()[0]) for row in table]
    assert rates == sorted(rates, reverse=True)


def test_pairs_are_counted_as_by_hand():
    rng = np.random.default_rng(0)
    labels, guesses = rng.integers(7, size=(2, 300))
    counts = Counter((a, b) for a, b in zip(labels.tolist(), guesses.tolist()) if a != b)
    found = findings.pairs(labels, guesses)
    assert {(one.label, one.guess): one.num_images for one in found} == counts
    assert [one.num_images for one in found] == sorted(counts.values(), reverse=True)
    assert all(one.out_of == (labels == one.label).sum() for one in found)
    assert findings.pairs(labels, labels) == []


def test_the_hardest_images_come_with_their_files(page, scored, dataset):
    scores, labels = scored
    own = scores[np.arange(len(labels)), labels]
    places = [page.text.rindex(dataset.val.name(index)) for index in np.argsort(own)[:12]]
    assert places == sorted(places)
    assert f"{100 * own.min():.2f} %" in page.text


def test_the_recipe_is_set_against_the_papers(page):
    rows = {row[0]: row[1:] for row in page.table(["option", "paper"])}
    assert rows["data.resize"] == ["256", "64"] and rows["train.batch_size"] == ["128", "12"]
    assert "optim.momentum" not in rows and "data.root" not in rows


def test_the_papers_recipe_has_no_deviation(named):
    paper = ["configs/alexnet.yaml", "--data.root", str(named), "--data.num_threads", "3"]
    assert changed_options(Config(), load(paper)) == []


def test_it_says_how_to_train_it_again(page, trained, named):
    assert f"alexnet train {trained}/config.yaml --run.dir runs/run-again" in page.text
    assert f"alexnet report {trained} --data {named} --out" in page.text
    assert "alexnet prep --train" in page.text
    assert "stopped after 4 steps, as its options ask" in page.text


def moved(run, root):
    """What read_config finds of a run whose data.root is another."""
    config = read_config(run)
    return lambda folder: dataclasses.replace(
        config, data=dataclasses.replace(config.data, root=str(root))
    )


def test_images_that_are_gone_leave_the_rest(copied, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "read_config", moved(copied, tmp_path / "gone"))
    page = write(copied, tmp_path / "page.html")
    assert_needs_nothing(page)
    assert "give their prepared folder with --data" in page.text and "gone" in page.text
    assert "left out: Everything that needs the run's images" in capsys.readouterr().out
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["svg"] == 4 and tags["img"] == 3  # curves, speed, kernels


def test_files_that_are_gone_from_a_sound_folder_leave_the_rest(
    copied, named, tmp_path, monkeypatch
):
    """The prepared folder still stands, but not the images that it lists."""
    shutil.copytree(named, tmp_path / "prepared")
    about = tmp_path / "prepared/dataset.yaml"
    about.write_text(re.sub("_root: .*", f"_root: {tmp_path}/gone", about.read_text()))
    monkeypatch.setattr(record, "read_config", moved(copied, tmp_path / "prepared"))
    page = write(copied, tmp_path / "page.html")
    assert "Left out" in page.text and f"{tmp_path}/gone" in page.text


def test_data_that_was_asked_for_must_open_and_an_old_page_stays(trained, tmp_path):
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(ValueError, match="is not a prepared folder"):
        write(trained, tmp_path / "page.html", "--data", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_text() == "old"


def test_other_images_than_those_of_the_training_are_named_so(trained, page, tmp_path):
    other = prepare(tmp_path, dict.fromkeys("abc", 10), dict.fromkeys("abc", 1))
    text = write(trained, tmp_path / "page.html", "--data", other).text
    assert "trained on other images than those in" in text and "3 validation images" in text
    assert "other images than" not in page.text


def test_a_run_that_has_just_begun(copied, tmp_path):
    """There is one log line and no checkpoint; then not even a log."""
    shutil.rmtree(copied / "checkpoints")
    line = {"step": 2, "epoch": 0, "train/loss": 1.5, "train/top1_error": 0.5, "train/lr": 0.02}
    (copied / "metrics.jsonl").write_text(json.dumps(line) + "\n" + '{"step": 4, "epo')
    config = (copied / "config.yaml").read_text()
    (copied / "config.yaml").write_text(config.replace("max_steps: 4", "max_steps: null"))
    page = write(copied, tmp_path / "page.html")
    assert "come to step 2, after 0 of at most 4 epochs" in page.text
    assert "there is no checkpoint yet" in page.text
    assert sum(tag == "svg" for tag, _ in page.elements) == 2
    (copied / "metrics.jsonl").unlink()
    page = write(copied, tmp_path / "page.html")
    assert_needs_nothing(page)
    assert "the run has logged nothing yet" in page.text and "data.resize" in page.text


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(copied, tmp_path):
    first, last = sorted((copied / "checkpoints").glob("step-*.pt"))
    last.write_bytes(last.read_bytes()[:-100])
    page = write(copied, tmp_path / "page.html")
    assert f"checkpoint: {last}: damaged" in page.text and "The one before it is shown" in page.text
    assert f"the checkpoint of step {int(first.stem[5:])} was evaluated" in page.text


def test_training_is_complete_when_its_schedule_says_so(copied):
    """The plateau schedule of the recipe: five drops, after an epoch without progress each."""
    assert not record.read(copied).finished
    lines = [
        {"step": 3 * n, "epoch": n, "val/top1_error": error, "val/top5_error": 0.0}
        for n, error in enumerate([0.6, 0.4, 0.5, 0.5], 1)
    ]
    for count in (3, 4):
        text = "".join(json.dumps(line) + "\n" for line in lines[:count])
        (copied / "metrics.jsonl").write_text(text)
        run = record.read(copied)
        assert run.finished == (count == 4)  # train.epochs
        assert run.best == (2, 6, 0.4, 0.0) and run.last == (count, 3 * count, 0.5, 0.0)


def test_time_spent_waiting_is_weighted_by_the_steps_duration(copied):
    lines = [
        {"step": step, "epoch": 0, "train/loss": 1.0, "train/lr": 1.0}
        | {"throughput/images_per_second": rate, "throughput/data_wait_fraction": wait}
        | {"throughput/step_ms": ms}
        for step, rate, wait, ms in [(2, 10, 0.5, 300), (4, 30, 0.1, 100), (6, 20, 0.0, 100)]
    ]
    (copied / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    speed = record.read(copied).speed
    assert speed is not None and speed.median == 20
    assert speed.waited == pytest.approx((150 + 10) / 500, abs=1e-15)


def test_what_is_no_run_or_no_page_is_refused(tmp_path, trained):
    with pytest.raises(ValueError, match="holds no run; expected a run's folder"):
        write(tmp_path, tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"a name that ends in \.html"):
        write(trained, tmp_path / "page.pdf")


def test_the_template_is_installed_with_the_command():
    root = Path(report.__file__).parents[2]
    config = ConfigParser()
    config.read(root / "setup.cfg")
    assert "alexnet_dali.tools.report" in config["options"]["packages"].split()
    assert config["options.package_data"]["alexnet_dali.tools.report"].split() == ["report.html"]
    assert (root / "tools/report/report.html").is_file()


def test_two_runs_are_for_another_command(trained, tmp_path):
    with pytest.raises(ValueError, match=r"alexnet figures curves .* other --out"):
        report.main([str(trained), "other", "--out", str(tmp_path / "page.html")])
