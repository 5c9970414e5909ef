"""The rows of the picture, against what each stage of the pipeline does."""

import csv
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dali.pipeline.crops import RandomCrop
from alexnet_dali.pipeline.transform import Pixels
from alexnet_dali.tools import show_batch
from alexnet_dali.train.checkpoints.run_folder import read_config
from alexnet_dali.train.config import load
from alexnet_dali.train.data import training_loader, training_plan
from alexnet_dali.train.networks import open_run
from alexnet_dali.train.parallel.ranks import join
from alexnet_dali.train.trainer import Trainer
from tests.feeding import training_plan as plan_of
from tests.images import prepare
from tests.recipes import TINY


def test_each_row_adds_only_its_stage_to_the_row_before(dataset):
    crops = RandomCrop(80, 96)
    samples = plan_of(dataset.train, crops, batch_size=6).samples(0, 0, 1)
    assert samples.mirrored.any() and not samples.mirrored.all()
    pixels = Pixels("image", (1.0, 1.0, 1.0), lighting_std=0.1)
    resized, cropped, flipped, lit, final = show_batch.stages(
        dataset, samples, pixels.transform(dataset.stats, crops), 96
    ).values()
    shorter = dataset.train.sizes[samples.indices].min(axis=1, keepdims=True)
    offsets = (dataset.train.sizes[samples.indices] - shorter) / 2
    corners = np.rint((samples.boxes[:, :2] - offsets) * 96 / shorter).astype(int)
    for n, (top, left) in enumerate(corners):
        cut = resized[n, top : top + 80, left : left + 80]
        assert np.abs(cut - cropped[n]).max() <= 1
        mirror = cropped[n, :, ::-1] if samples.mirrored[n] else cropped[n]
        assert np.abs(flipped[n] - mirror).max() <= 1
    offset = lit - flipped
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1, :1], offset.shape), atol=1e-4)
    assert np.abs(offset).max() > 0.1
    mean = dataset.stats.mean_at(96)[8:88, 8:88]
    np.testing.assert_allclose(lit - final, np.broadcast_to(mean, lit.shape), atol=1e-3)


def test_a_picture_is_drawn(prepared, tmp_path):
    show_batch.main(
        ["--data", str(prepared), "--out", str(tmp_path / "batch.png"), "--images", "3"]
    )
    with Image.open(tmp_path / "batch.png") as picture:
        assert picture.format == "PNG" and picture.height > picture.width


def test_classes_of_any_name_are_drawn_as_plain_text(tmp_path):
    """Dollars mean formulas to Matplotlib, and some bytes are no text at all."""
    names = ["a$^$b", "10$_and_20$_notes", os.fsdecode(b"caf\xe9")]
    folder = prepare(tmp_path, dict.fromkeys(names, 2))
    show_batch.main(["--data", str(folder), "--out", str(tmp_path / "b.png"), "--images", "6"])
    assert (tmp_path / "b.png").stat().st_size > 1000


def test_asking_for_more_images_than_there_are_is_an_error(prepared, tmp_path):
    with pytest.raises(ValueError, match="42 training images"):
        show_batch.main(
            ["--data", str(prepared), "--out", str(tmp_path / "batch.png"), "--images", "43"]
        )


def test_a_replayed_step_is_the_batch_that_the_run_was_given(prepared, dataset, tmp_path):
    """The run records its third batch; afterwards it is computed again, and drawn."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    run = tmp_path / "run"
    config = load(
        [str(tmp_path / "tiny.yaml"), "--data.root", str(prepared), "--run.dir", str(run)]
    )
    recorded = []
    with join("cpu", config.model.columns) as ranks:
        trainer = Trainer(config, ranks)
        step = trainer.train_step
        trainer.train_step = lambda batch: recorded.append(batch) or step(batch)
        trainer.fit()
    saved = read_config(run)
    plan = training_plan(saved.train, dataset, saved.run.max_steps)
    images, labels = next(iter(training_loader(dataset, saved.data, saved.train, 2)))
    assert torch.equal(images, recorded[2].images) and torch.equal(labels, recorded[2].labels)
    for what in (["--step", "3", "--images", "4"], ["--worst", "3", "--device", "cpu"]):
        show_batch.main([str(run), *what, "--out", str(tmp_path / "step.png")])
        with Image.open(tmp_path / "step.png") as picture:
            assert picture.format == "PNG"
    with pytest.raises(ValueError, match=f"has steps 1 to {plan.num_steps}"):
        show_batch.main([str(run), "--step", "999", "--out", str(tmp_path / "x.png")])


@pytest.fixture
def scored(trained, dataset):
    """Probabilities [N, 3] of the training images, by `predict` of their files, and labels."""
    paths = [dataset.train.path(index) for index in range(len(dataset.train))]
    return paths, open_run(trained, "cpu").predict(paths), dataset.train.labels


def test_the_hardest_images_are_listed(trained, scored, tmp_path, capsys):
    """Those with the least probability for their label, by another command's probabilities."""
    paths, scores, labels = scored
    show_batch.main([str(trained), "--worst", "7", "--csv", "--device", "cpu"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    own = scores[np.arange(len(labels)), labels]
    assert len(rows) == 7
    for row, index in zip(rows, np.argsort(own), strict=False):
        place = paths.index(row["path"])
        assert own[place] == pytest.approx(own[index], abs=1e-6)
        assert row["label"] == "abc"[labels[place]]
        assert row["taken_for"] == "abc"[scores[place].argmax()]
        assert float(row["label_probability"]) == pytest.approx(own[place], abs=1e-6)
        assert float(row["probability"]) == pytest.approx(scores[place].max(), abs=1e-6)
    show_batch.main([str(trained), "--worst", "7", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()[2:]
    for line, row in zip(lines, rows, strict=True):
        assert line.split()[:2] == [row["path"], row["label"]]
        assert f"{float(row['label_probability']):.2%}" in line
    for wrong in (["--csv"], ["--step", "1"]):
        with pytest.raises(ValueError, match="expected --out"):
            show_batch.main([str(trained), *wrong])
    with pytest.raises(ValueError, match="--csv goes with --worst"):
        show_batch.main([str(trained), "--csv", "--out", str(tmp_path / "x.png")])
