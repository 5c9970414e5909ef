import math

import pytest
import torch
from torch import nn

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.columns import Columns
from alexnet_dali.model.config import ModelConfig, PerLayer
from alexnet_dali.model.layers import PAPER, layers
from tests import reference
from tests.reference import CLASSES, CROP, TINY

LAYERS = [line.name for line in PAPER]


def test_the_default_layers_are_the_papers_table():
    assert layers(ModelConfig(), 1000) == list(PAPER)


def test_a_layer_named_twice_in_leave_out_is_left_out_once():
    once, twice = (ModelConfig(skip_layers=names) for names in (("conv4",), ("conv4", "conv4")))
    assert layers(once, 10) == layers(twice, 10) and len(layers(once, 10)) == 7


def test_the_papers_sizes(monkeypatch):
    """The sizes in figure 2, its drawing and its caption, and the kernel shapes of section 3.5.

    For layer 1, the caption says 253,440 neurons. The drawing says 55 x 55 x 96, which is 290,400.
    The caption's other numbers fit the drawing.
    """
    model = AlexNet(ModelConfig(), num_classes=1000, crop=224)
    names = {column.get_submodule(name): name for column in model.own_columns for name in LAYERS}
    shapes = {name: [] for name in LAYERS}
    for kind in (nn.Conv2d, nn.Linear):

        def spy(module, x, forward=kind.forward):
            output = forward(module, x)
            shapes[names[module]].append(tuple(output.shape[1:]))
            return output

        monkeypatch.setattr(kind, "forward", spy)
    assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    halves = [
        (48, 55, 55),
        (128, 27, 27),
        (192, 13, 13),
        (192, 13, 13),
        (128, 13, 13),
        (2048,),
        (2048,),
        (500,),
    ]
    assert [shapes[name] for name in LAYERS] == [[half, half] for half in halves]
    neurons = [2 * math.prod(half) for half in halves]
    assert neurons[1:] == [186_624, 64_896, 64_896, 43_264, 4096, 4096, 1000]
    assert round(sum(neurons), -4) == 660_000  # "650,000 neurons"
    full = model.full_state()
    kernels = [tuple(full[f"{name}.weight"].shape) for name in LAYERS[:5]]
    assert kernels == [
        (96, 3, 11, 11),
        (256, 48, 5, 5),
        (384, 256, 3, 3),
        (384, 192, 3, 3),
        (256, 192, 3, 3),
    ]
    assert sum(p.numel() for p in model.parameters()) == 60_965_224  # "60 million parameters"


def test_logits_are_not_rounded_to_bfloat16():
    """In bfloat16, many of a thousand logits would be equal, and ties count as errors."""
    model, images = AlexNet(TINY, CLASSES, CROP), torch.randn(4, 3, CROP, CROP)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits, hidden = model(images), model.last_hidden(images)
    assert hidden.dtype == torch.bfloat16 and logits.dtype == torch.float32
    full = model.full_state()
    expected = hidden.double() @ full["fc8.weight"].double().T + full["fc8.bias"].double()
    torch.testing.assert_close(logits.double(), expected[:, :CLASSES], rtol=1e-5, atol=1e-6)


def test_initial_weights_and_biases():
    """Section 5: N(0, 0.01); biases 1 in conv2, conv4, conv5, fc6 and fc7, 0 elsewhere."""
    state = AlexNet(ModelConfig(), 1000, 224).full_state()
    for name in LAYERS:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weight.mean().item()) < 5 * 0.01 / weight.numel() ** 0.5
        assert (bias == (1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0)).all()


def test_each_column_starts_with_its_half_of_the_whole_networks_weights():
    whole = AlexNet(TINY, CLASSES, CROP, seed=3).full_state()
    halves = [
        AlexNet(TINY, CLASSES, CROP, Columns(held=(c,)), seed=3).own_columns[0].state_dict()
        for c in (0, 1)
    ]
    for key, value in whole.items():
        assert torch.equal(torch.cat([half[key] for half in halves]), value)
    assert not torch.equal(
        AlexNet(TINY, CLASSES, CROP, seed=4).full_state()["fc6.weight"], whole["fc6.weight"]
    )


def test_evaluation_halves_the_hidden_neurons_and_drops_none():
    model = AlexNet(TINY, CLASSES, CROP, seed=3).double()
    images = torch.randn(4, 3, CROP, CROP, dtype=torch.float64)
    expected = reference.forward(model.full_state(), images, CLASSES, None)
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conv1_size": 57}, "leaves nothing of the maps at conv1"),
        ({"kernels": (95, 256, 384, 384, 256)}, "found 95.*conv1.*multiple of 2"),
        ({"kernels": (96, 256)}, "expected five numbers"),
        ({"kernels": (96, 256, 384, 384, 256, 256)}, "model.sixth_convolution: true"),
        ({"init_std": PerLayer(0.01, conv3=-0.03)}, "conv3 -0.03"),
        ({"half_kernels": ("conv1",), "kernels": (98, 256, 384, 384, 256)}, "98.*conv1.*4.*halved"),
        ({"skip_layers": ("conv3", "conv4", "conv5"), "cross_talk": ()}, "keep one of conv3"),
        ({"norm_alpha": -1.0}, "norm_alpha -1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"skip_layers": ("conv3",)}, "cross_talk names conv3"),
        ({"activation": "gelu"}, "model.activation: found 'gelu'; expected one of relu, tanh"),
        ({"conv1_relu": "last"}, "model.conv1_relu: found 'last'"),
        ({"pool_size": 4}, "model.pool_size: found 4; expected one of 2, 3"),
        ({"cross_talk": ("conv3", "conv1")}, "model.cross_talk: found 'conv1'"),
        ({"skip_layers": ("fc8",)}, "model.skip_layers: found 'fc8'; expected one of conv3"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AlexNet(ModelConfig(**changes), 10, crop=56 if "conv1_size" in changes else 224)


def test_crops_too_small_for_the_pooling_layers_are_refused():
    with pytest.raises(ValueError, match="at conv5"):
        AlexNet(ModelConfig(), 10, crop=56)
