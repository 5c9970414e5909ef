"""Which layers a new run takes from an old network, and what it prints."""

import pytest
import torch

from alexnet_dali.train.__main__ import main
from alexnet_dali.train.checkpoints import checkpoint
from tests.images import prepare
from tests.recipes import TINY


@pytest.fixture
def begin(tmp_path, trained):
    """Start a run that takes its layers from `trained`.

    Returns the weights before its first step, or the exit status of a start that fails.
    """
    (tmp_path / "tiny.yaml").write_text(TINY)

    def run(data, *more):
        start = checkpoint.newest(trained / "checkpoints")
        arguments = ["--data.root", data, "--run.dir", tmp_path / "run", "--train.init_from", start]
        # Learning rate factors of 0 leave every layer as it was taken.
        frozen = ["--optim.lr_factors", '{"weight": 0, "bias": 0}', "--run.max_steps", "1", *more]
        status = main([str(tmp_path / "tiny.yaml"), *map(str, arguments), *frozen])
        return (
            checkpoint.load(checkpoint.newest(tmp_path / "run/checkpoints"))["model"]
            if status == 0
            else status
        )

    return run


@pytest.fixture
def old(trained):
    return checkpoint.load(checkpoint.newest(trained / "checkpoints"))["model"]


def test_with_the_same_classes_every_layer_is_taken(begin, old, prepared, capsys):
    new = begin(prepared)
    assert all(torch.equal(new[key], value) for key, value in old.items())
    assert "took conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8 from" in capsys.readouterr().out


def test_with_as_many_other_classes_the_last_layer_starts_afresh(begin, old, tmp_path, capsys):
    new = begin(prepare(tmp_path / "other", {"a": 5, "b": 5, "x": 5}))
    for key, value in old.items():
        assert torch.equal(new[key], value) == (not key.startswith("fc8")), key
    assert "; fc8 starts afresh" in capsys.readouterr().out


def test_layers_of_other_sizes_start_afresh(begin, old, prepared, capsys):
    new = begin(prepared, "--model.fc_width", "32")
    assert all(torch.equal(new[f"conv{n}.weight"], old[f"conv{n}.weight"]) for n in range(1, 6))
    assert "fc6, fc7, fc8 starts afresh" in capsys.readouterr().out


def test_an_added_layer_starts_afresh(begin, old, prepared, capsys):
    """The paper's sixth convolution, over a network that was trained without it."""
    new = begin(prepared, "--model.sixth_convolution", "true")
    assert (
        all(torch.equal(new[key], value) for key, value in old.items())
        and (new["conv6.bias"] == 1).all()
    )
    assert "; conv6 starts afresh" in capsys.readouterr().out


def test_a_network_without_a_layer_that_fits_is_an_error(begin, prepared, capsys):
    sizes = ["--model.kernels", "[4, 4, 4, 4, 4]", "--model.fc_width", "8"]
    assert begin(prepared, *sizes) == 2
    assert "none of its layers fits" in capsys.readouterr().err
