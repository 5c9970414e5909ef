"""What a run says when it begins, and `--run.dry_run`."""

import re

import pytest

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.train.__main__ import main
from alexnet_dali.train.config import ConfigError, load
from alexnet_dali.train.record.metrics import num_parameters
from tests.recipes import TINY

HEADER = r"""network: 8 layers in two columns, ([\d,]+) parameters
images: 42 for training, 15 for validation, 3 classes, from .*
plan: 4 epochs of 3 steps, 12 images a step; ranks: 1, on the CPU
folder: {folder}
watch: tensorboard --logdir {logdir} --host localhost
"""


@pytest.fixture
def train(prepared, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = [str(tmp_path / "tiny.yaml"), "--data.root", str(prepared)]
    return lambda folder, *more: main([*arguments, "--run.dir", str(folder), *more])


def test_a_run_begins_with_five_lines(train, tmp_path, capsys):
    """The parameters are those of the layers' formulas, with a logit for each of three classes."""
    for folder, logdir in ((tmp_path / "runs/x", tmp_path / "runs"), (tmp_path / "y",) * 2):
        assert train(folder, "--run.max_steps", "1") == 0
        found = re.match(HEADER.format(folder=folder, logdir=logdir), capsys.readouterr().out)
        assert found
    side = 2  # of conv5's maps: 56 pixels with stride 2 make 26, pooled 12, 5 and 2
    weights = 8 * 3 * 25 + 12 * 4 * 25 + 16 * 12 * 9 + 16 * 8 * 9 + 12 * 8 * 9
    weights += 24 * 12 * side**2 + 24 * 24 + 3 * 24
    biases = 8 + 12 + 16 + 16 + 12 + 24 + 24 + 3
    assert int(found[1].replace(",", "")) == weights + biases


def test_the_papers_network_has_60_million_parameters():
    """Section 3: "60 million parameters"; the sum of its layers is 60,965,224."""
    config = load(["configs/alexnet.yaml", "--data.root", "x"])
    assert num_parameters(AlexNet(config.model, 1000, 224), 224) == 60_965_224


def test_a_check_says_what_the_run_takes_and_writes_nothing(train, tmp_path, capsys):
    folder = tmp_path / "run"
    assert (
        train(folder, "--run.dry_run", "--train.epochs", "100", "--run.keep_checkpoints", "3") == 0
    )
    printed = capsys.readouterr().out
    assert re.search(r"time: \d:\d\d:\d\d for 300 steps of \d+ ms", printed)
    assert re.search(r"disk: up to 5 checkpoints of [\d,]+ MB", printed)
    assert re.search(r"memory: \d\.\d GB for each rank\n", printed)
    assert f"folder: {folder}\n" in printed and not folder.exists()


def test_a_check_leaves_a_run_as_it_is(train, tmp_path, capsys):
    assert train(tmp_path / "run", "--run.max_steps", "2") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert train(tmp_path / "run", "--run.dry_run") == 0
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert before == after
    assert train(tmp_path / "run", "--run.dry_run", "--train.epochs", "1") == 2
    assert "too few to be timed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, text, message",
    [
        (["--optim.lrr", "1"], TINY, "optim.lrr on the command line: did you mean optim.lr?"),
        (["--train.lr=1"], TINY, "train.lr on the command line: did you mean optim.lr?"),
        (["--runn.dir", "x"], TINY, "runn.dir on the command line: did you mean run.dir?"),
        (["--optim.zebra", "1"], TINY, "optim.zebra on the command line: no such option"),
        (["--model.conv2_size", "5"], TINY, "model.conv2_size on the command line: no such option"),
        ([], "model: {init_std: {conv9: 1}}", "model.init_std.conv9 in {file}: no such option"),
        ([], "train: {batchsize: 1}", "train.batchsize in {file}: did you mean train.batch_size?"),
        ([], "optm: {lr: 1}", "optm.lr in {file}: did you mean optim.lr?"),
        (
            [],
            "model: {init_std: {defalt: 1}}",
            "model.init_std.defalt in {file}: did you mean model.init_std.default?",
        ),
    ],
)
def test_a_key_that_nearly_fits_is_understood(arguments, text, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message.format(file=file))):
        load([str(file), "--data.root", "x", *arguments])


def test_a_value_that_does_not_fit_brings_no_hint(tmp_path):
    (tmp_path / "recipe.yaml").write_text("optim: {lr_factors: {fc9: many}}")
    with pytest.raises(ConfigError) as error:
        load([str(tmp_path / "recipe.yaml"), "--data.root", "x"])
    assert "did you mean" not in str(error.value) and "no such" not in str(error.value)
