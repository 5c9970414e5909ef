"""A trained network in a notebook: what it says of paths and of arrays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools import evaluate
from alexnet_dali.train import open_run
from alexnet_dali.train.checkpoints import checkpoint
from tests import reference
from tests.images import smooth_image


@pytest.fixture(scope="module")
def run(trained):
    return open_run(trained, device="cpu")


@pytest.fixture(scope="module")
def squares():
    draws = torch.Generator().manual_seed(2)
    return torch.randint(0, 256, (3, 3, 64, 64), generator=draws, dtype=torch.uint8)


def weights(trained):
    state = checkpoint.load(checkpoint.newest(trained / "checkpoints"))
    return {name: value.double() for name, value in state["model"].items()}


@pytest.mark.parametrize("views", [1, 10])
def test_paths_get_the_probabilities_of_evaluation_in_the_order_given(
    views, run, trained, prepared, tmp_path
):
    saved = tmp_path / "saved.npz"
    arguments = [trained, "--data", prepared, "--save", saved, "--views", views, "--device", "cpu"]
    evaluate.main(list(map(str, arguments)))
    with np.load(saved) as file:
        (expected,) = file["probabilities"]
    val = Dataset.open(prepared).val
    order = np.random.default_rng(0).permutation(len(val))
    found = run.predict([val.path(index) for index in order], views=views)
    np.testing.assert_allclose(found, expected[order], rtol=0, atol=1e-6)
    assert run.classes == ["a", "b", "c"]


def test_a_run_is_one_line(run, trained):
    path = checkpoint.newest(trained / "checkpoints")
    assert repr(run) == f"Run({path}, step {run.network.step}, 3 classes)"


def test_arrays_get_those_of_a_plain_network(run, trained, squares):
    own = weights(trained)
    crops = squares[:, :, 4:60, 4:60].double() - run.network.mean.double()
    sizes = ModelConfig(conv1_size=5, conv1_stride=2)
    logits = reference.forward(own, crops, 3, None, sizes)
    for images in (squares, squares.numpy()):
        np.testing.assert_allclose(run.predict(images), logits.softmax(1), rtol=0, atol=1e-5)
    hidden = torch.from_numpy(run.features(squares)).double()
    assert hidden.shape == (3, 24)
    again = hidden @ own["fc8.weight"][:3].T + own["fc8.bias"][:3]
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-4)


def test_a_file_and_its_pixels_are_the_same_whatever_its_kind(run, tmp_path):
    """One that DALI decodes, and one that is converted, which costs a little."""
    image = smooth_image(np.random.default_rng(5), 64, 64)
    image.save(tmp_path / "one.png")
    image.quantize(256).save(tmp_path / "two.gif")
    pixels = np.array(Image.open(tmp_path / "one.png")).transpose(2, 0, 1)[None]
    found = run.features([tmp_path / "two.gif", str(tmp_path / "one.png")])
    np.testing.assert_allclose(found[1], run.features(pixels)[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=0.2 * np.abs(found[1]).max())
    alone = run.features(tmp_path / "one.png")
    np.testing.assert_allclose(alone, found[1:], rtol=1e-5, atol=1e-5)


def test_what_can_not_be_used_is_an_error(run, squares, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    good = tmp_path / "good.png"
    smooth_image(np.random.default_rng(5), 64, 64).save(good)
    wrong = [
        ([good, tmp_path / "text.jpg"], r"text\.jpg: not an image"),
        ([good, Path("none.jpg"), Path("nor.jpg")], r"^none\.jpg: .*\(and 1 more can't be used\)"),
        ([], "found no image"),
        (squares / 255, r"float32; expected \[N, 3, 64, 64\] torch\.uint8"),
        (squares.permute(0, 2, 3, 1), r"found images \[3, 64, 64, 3\]"),
        (squares[0], r"found images \[3, 64, 64\]"),
        (squares[:, :, 4:60, 4:60], r"found images \[3, 3, 56, 56\]"),
    ]
    for images, message in wrong:
        with pytest.raises((ValueError, OSError), match=message):
            run.predict(images)
    with pytest.raises(ValueError, match="views is 2; expected 1 or 10"):
        run.predict(squares, views=2)
    with pytest.raises(ValueError, match="no such file; expected a checkpoint"):
        open_run(tmp_path)
