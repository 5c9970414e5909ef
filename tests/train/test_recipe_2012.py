"""What only the 2012 code did: configs/alexnet-2012.yaml, in whole runs of a tiny network."""

from pathlib import Path

import pytest
import torch
import yaml

from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.trainer import Trainer
from tests.recipes import TINY

CONFIGS = Path(__file__).parents[2] / "configs"
EPOCHS, STEPS_PER_EPOCH = 4, 3


@pytest.fixture
def recipe(tmp_path):
    """All of alexnet-2012.yaml, except for its sizes.

    Noise stops after 2 epochs. conv1 slows down after 1 and stops after 3.
    """
    config = yaml.safe_load((CONFIGS / "alexnet-2012.yaml").read_text())
    small = yaml.safe_load(TINY)
    config["data"] |= small["data"] | {"lighting_epochs": 2}
    config["model"] |= small["model"] | {"init_std": {"default": 0.1}}
    later = {"conv1.weight": [[1, 0.1], [3, 0]], "conv1.bias": [[3, 0]]}
    config["optim"] |= {"milestones": [2], "lr_factors": later}
    config |= {"train": small["train"], "run": small["run"]}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture
def run(recipe, prepared, tmp_path, monkeypatch):
    """Train `name` in pieces that end at the given steps.

    Returns the learning rates and images of every step, and the weights at the end.
    """

    def train(name, ends=(EPOCHS * STEPS_PER_EPOCH,), *more):
        rates, images = [], []
        step = Trainer.train_step

        def spy(trainer, batch):
            names = {
                id(parameter): name.split(".", 2)[-1]
                for name, parameter in trainer.state.model.named_parameters()
            }
            groups = trainer.state.optimizer.param_groups
            rates.append(
                {names[id(one)]: float(group["lr"]) for group in groups for one in group["params"]}
            )
            images.append(batch.images.clone())
            step(trainer, batch)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", spy)
            for end in ends:
                options = [
                    "--data.root",
                    str(prepared),
                    "--run.dir",
                    str(tmp_path / name),
                    "--run.max_steps",
                    str(end),
                ]
                assert main([str(recipe), *options, *more]) == 0
        return (
            rates,
            images,
            checkpoint.load(checkpoint.newest(tmp_path / name / "checkpoints"))["model"],
        )

    return train


def test_learning_rates_follow_the_epochs_wherever_the_run_is_interrupted(run, capsys):
    rates, images, weights = run("whole")
    expected = {
        "conv1.weight": [0.01, 0.001, 0.0001, 0],
        "conv1.bias": [0.02, 0.02, 0.02, 0],
        "fc8.weight": [0.01, 0.01, 0.001, 0.001],
        "fc8.bias": [0.02, 0.02, 0.02, 0.02],
    }
    for name, by_epoch in expected.items():
        found = [step[name] for step in rates]
        assert found == pytest.approx(
            [rate for rate in by_epoch for _ in range(STEPS_PER_EPOCH)]
        ), name
    assert (
        "learning rates of layers are now conv1.bias times 0, conv1.weight times 0"
        in capsys.readouterr().out
    )
    for cut in [(5, 12), (3, 6, 9, 12), (2, 10, 12)]:
        pieces = run(f"cut{cut}", cut)
        assert pieces[0] == rates
        assert all(torch.equal(one, other) for one, other in zip(pieces[1], images, strict=True))
        assert all(torch.equal(pieces[2][key], value) for key, value in weights.items())


def test_images_are_scaled_down_only_while_there_is_noise(run):
    noisy = run("noisy")[1]
    unscaled = run("unscaled", (12,), "--data.lighting_rescale", "false")[1]
    quiet = run("quiet", (12,), "--data.lighting_std", "0")[1]
    for step, (one, plain, silent) in enumerate(zip(noisy, unscaled, quiet, strict=True)):
        if step < 2 * STEPS_PER_EPOCH:
            torch.testing.assert_close(one * 1.1, plain, rtol=1e-5, atol=1e-4)
            shift = (plain - silent).mean((2, 3), keepdim=True)
            assert (shift.abs() > 1e-3).any() and (
                plain - silent - shift
            ).abs().max() < 1e-3  # one colour for each image
        else:
            assert torch.equal(one, silent) and torch.equal(plain, silent)


def test_without_crops_and_flips_every_epoch_shows_the_same_images(run):
    _, images, _ = run("still", (6,), "--data.augment", "false", "--data.lighting_std", "0")
    first, second = (torch.cat(images[start : start + 3]).flatten(1) for start in (0, 3))
    seen = {tuple(row[:50].tolist()) for row in first}
    # An epoch leaves out 6 of 42
    assert sum(tuple(row[:50].tolist()) in seen for row in second) >= 36 - 2 * 6
