"""Exported networks compute what the original does, and need nothing of this project."""

import json
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from dataclasses import fields, replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.layers import Conv, Linear
from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.export import __main__ as export
from alexnet_dali.tools.export import check, onnx_graph, plain_alexnet
from alexnet_dali.tools.export.plain import metadata, plain
from alexnet_dali.train.config import Config, DataConfig, load, to_dict
from alexnet_dali.train.networks import Trained, open_network, predict
from alexnet_dali.train.parallel.ranks import join
from tests import reference
from tests.model.test_columns import VARIANTS
from tests.reference import CLASSES, TINY

RESIZE, CROP = 44, 36
CPU = torch.device("cpu")


def untrained(changes):
    """A variant of the tiny network in float64, with a mean, as if it had been trained."""
    config = Config(DataConfig(resize=RESIZE, crop=CROP), replace(TINY, **changes))
    model = AlexNet(config.model, CLASSES, CROP, seed=3).double()
    mean = (128 * torch.rand(3, CROP, CROP)).double()  # weights and means are saved as float32
    classes = [f"n{number}" for number in range(CLASSES)]
    recipe = to_dict(config)
    return Trained(
        Path("none"), 0, recipe, config.data, config.model, model, mean, classes, classes
    )


def squares(count, size=RESIZE):
    draws = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), generator=draws)


@pytest.mark.parametrize("variant", ["the paper's", *VARIANTS])
def test_the_plain_module_is_the_network_for_every_variant(variant):
    """It is held against the tests' own reference, too, as both may share a mistake."""
    network = untrained(VARIANTS.get(variant, {}))
    module, images = plain(network).double(), squares(4).double()
    edge = (RESIZE - CROP) // 2
    crops = images[:, :, edge : edge + CROP, edge : edge + CROP] - network.mean
    full = network.model.full_state()
    with torch.no_grad():
        logits, original = module(images), network.model(crops)
        expected = reference.forward(full, crops, CLASSES, None, network.architecture)
    scale = original.abs().max().item()
    torch.testing.assert_close(logits, original, rtol=1e-12, atol=1e-12 * scale)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12 * scale)
    assert torch.equal(module(images + 0.0), module(images[:, :, edge:-edge, edge:-edge]))


ROOT = Path(__file__).parents[2]
RECIPES = [
    "alexnet-2012.yaml",
    *sorted(path.name for path in (ROOT / "configs/variants").iterdir()),
]
SMALL = ["--data.resize", RESIZE, "--data.crop", CROP, "--data.root", "none", "--model.kernels"]
SMALL += ["[8,12,16,16,12]", "--model.conv1_size", 5, "--model.conv1_stride", 2]
SMALL += ["--model.fc_width", 24]


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_plain_module_is_the_network_of_every_recipe_and_variant(recipe):
    """The two are written apart; the table of layers alone describes both."""
    folder = (
        ROOT / "configs" / ("variants" if (ROOT / "configs/variants" / recipe).exists() else "")
    )
    files = [ROOT / "configs/demo.yaml", "--config", folder / recipe]
    config = load(list(map(str, [*files, *SMALL])))
    model = AlexNet(config.model, CLASSES, CROP, seed=3).double()
    mean, classes = (128 * torch.rand(3, CROP, CROP)).double(), list("abcdefg")
    about = (to_dict(config), config.data, config.model)
    module = plain(Trained(Path("none"), 0, *about, model, mean, classes, classes)).double()
    images, edge = squares(4).double(), (RESIZE - CROP) // 2
    with torch.no_grad():
        original = model(images[:, :, edge : edge + CROP, edge : edge + CROP] - mean)
        torch.testing.assert_close(module(images), original, rtol=1e-12, atol=1e-13)


def test_the_plain_module_is_given_all_that_the_table_says():
    """A new field of a layer needs a line in tools/export/plain.py, and a place in this list."""
    assert {field.name for kind in (Conv, Linear) for field in fields(kind)} == {
        "activation_last",
        "dropout",
        "kernels",
        "name",
        "neurons",
        "norm",
        "padding",
        "pool",
        "reads_both",
        "size",
        "stride",
        "within_channel_norm",
    }


@pytest.mark.parametrize("layer", ["conv2", "fc6"])
def test_an_unknown_activation_is_no_tanh(layer):
    network = untrained({})
    about = json.loads(metadata(network, "")["network"])
    next(one for one in about["layers"] if one["name"] == layer)["activation"] = "gelu"
    with pytest.raises(KeyError, match="gelu"):
        plain_alexnet.AlexNet(about)


def test_features_of_every_layer_have_names():
    network = untrained({})
    module, images = plain(network).double(), squares(2).double()
    shapes = {name: tuple(module.features(images, name).shape[1:]) for name in module.layer_names}
    assert shapes == {
        "conv1": (8, 8, 8),
        "conv2": (12, 3, 3),
        "conv3": (16, 3, 3),
        "conv4": (16, 3, 3),
        "conv5": (12, 1, 1),
        "fc6": (24,),
        "fc7": (24,),
        "fc8": (7,),
    }
    edge = (RESIZE - CROP) // 2
    crops = images[:, :, edge : edge + CROP, edge : edge + CROP] - network.mean
    hidden = network.model.last_hidden(crops)
    torch.testing.assert_close(module.features(images, "fc7"), hidden, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="'fc9'; expected conv1, conv2, conv3"):
        module.features(images, "fc9")


def test_every_parameter_lies_in_a_layer_that_tools_know(tmp_path):
    """Of the paper's sizes; tools go by the exact types, and hooks see each layer's own output."""
    config = Config(DataConfig(root="none"))
    with torch.device("meta"):
        model = AlexNet(config.model, 1000, config.data.crop)
        about = _about_of(config, model)
        network = plain_alexnet.AlexNet(about)
        images = torch.empty(1, 3, 256, 256)
    layers = [module for module in network.modules() if type(module) in (nn.Conv2d, nn.Linear)]
    counted = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    assert counted == sum(map(torch.numel, network.parameters())) == 60_965_224
    shapes = {}
    for name, child in network.named_children():
        child.register_forward_hook(lambda *args, name=name: shapes.update({name: args[2].shape}))
    assert network(images).shape == (1, 1000)
    assert shapes["conv5"] == shapes["conv5_relu"] == (1, 256, 13, 13)
    assert network.forward_features(images).shape == shapes["conv5_pool"] == (1, 256, 6, 6)
    assert shapes["conv1"] == (1, 96, 55, 55) and shapes["fc6"] == (1, 4096)


def _about_of(config, model):
    classes = [str(number) for number in range(1000)]
    mean = torch.zeros(3, config.data.crop, config.data.crop)
    about = (to_dict(config), config.data, config.model)
    trained = Trained(Path("none"), 0, *about, model, mean, classes, classes)
    return json.loads(metadata(trained, "")["network"])


@pytest.mark.parametrize("variant", ["the paper's", "2012 code", "four layers"])
def test_torchs_own_tools_take_the_module(variant):
    """Tracing, scripting, dynamic quantisation, and children put together anew."""
    module = plain(untrained(VARIANTS.get(variant, {}))).double()
    images = squares(3).double()
    expected = module(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would have people use torch.export
        scripted = torch.jit.script(module)
    again = nn.Sequential(*module.children())
    for taken in (torch.fx.symbolic_trace(module), scripted, again):
        torch.testing.assert_close(taken(images), expected, rtol=0, atol=0)
    maps = module.forward_features(images)
    neurons = list(module.children())[[*dict(module.named_children())].index("flatten") :]
    torch.testing.assert_close(nn.Sequential(*neurons)(maps), expected, rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(module.float(), {nn.Linear})
    linear = [layer for name, layer in quantized.named_children() if re.fullmatch(r"fc\d", name)]
    assert linear and not any(isinstance(layer, nn.Linear) for layer in linear)
    found = quantized(images.float())
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_torch_exports_the_module_for_batches_of_any_size():
    module = plain(untrained({})).double()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (squares(2).double(),), dynamic_shapes=batch)
    for count in (1, 5):
        images = squares(count).double()
        torch.testing.assert_close(program.module()(images), module(images), rtol=0, atol=1e-12)


def test_the_module_needs_torch_and_its_weights_alone(trained, tmp_path, capsys):
    """The two files are enough in a process that can't find this project."""
    export.main([str(trained), "--to", "module", "--out", str(tmp_path / "net/mine.py")])
    printed = capsys.readouterr().out
    assert "16 random images and 15 validation images" in printed
    assert (tmp_path / "net/mine.py").read_bytes() == Path(plain_alexnet.__file__).read_bytes()
    images = squares(3, 64)
    torch.save(images, tmp_path / "images.pt")
    (tmp_path / "use.py").write_text(
        "import sys, torch\n"
        "sys.path.insert(0, 'net')\n"
        "import mine\n"
        "network, images = mine.load(), torch.load('images.pt')\n"
        "assert network.class_folders == network.class_names == ['a', 'b', 'c']\n"
        "torch.save([network(images), network.features(images, 'fc7')], 'found.pt')\n"
        "own = {'model', 'pipeline', 'train', 'tools', 'safetensors'}\n"
        "assert not own & set(sys.modules), own & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "use.py"], cwd=tmp_path, check=True)
    network = open_network(trained, CPU)
    crops = images[:, :, 4:60, 4:60] - network.mean
    for found, expected in zip(
        torch.load(tmp_path / "found.pt"), (network.model(crops), network.model.last_hidden(crops))
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["2012-net", "my net", "class", "json", "torch"])
def test_a_module_has_a_name_that_python_imports(name, trained, tmp_path):
    with pytest.raises(ValueError, match=r"such as alexnet_2012\.py"):
        export.main([str(trained), "--to", "module", "--out", str(tmp_path / f"{name}.py")])
    assert not list(tmp_path.iterdir())
    export.main([str(trained), "--to", "safetensors", "--out", str(tmp_path / "1.safetensors")])


def test_a_safetensors_file_holds_weights_mean_classes_and_recipe(trained, tmp_path):
    """It is read by the library that defines the format."""
    out = tmp_path / "weights.safetensors"
    export.main([str(trained), "--to", "safetensors", "--out", str(out)])
    network = open_network(trained, CPU)
    full = network.model.full_state()
    with safe_open(out, "pt") as file:
        assert set(file.keys()) == {*full, "centre.mean"}
        for name, value in full.items():
            assert torch.equal(file.get_tensor(name), value[:3] if name[:3] == "fc8" else value)
        assert torch.equal(file.get_tensor("centre.mean"), network.mean)
        about = file.metadata()
    assert json.loads(about["network"])["classes"] == ["a", "b", "c"]
    assert json.loads(about["network"])["names"] == network.names
    recipe = json.loads(about["recipe"])
    assert recipe["data"]["resize"] == 64 and recipe["model"]["fc_width"] == 24
    assert about["card"] == "weights.safetensors.md" and (tmp_path / about["card"]).is_file()
    assert str(tmp_path.parent) not in str(about)  # nobody's folders


@pytest.fixture(scope="module")
def graphs(trained, tmp_path_factory):
    """The files with preprocessing, True, and without, False."""
    folder, found = tmp_path_factory.mktemp("graphs"), {}
    for preprocessing in (False, True):
        found[preprocessing] = folder / f"{preprocessing}.onnx"
        option = ["--preprocessing"] if preprocessing else []
        arguments = [str(trained), "--to", "onnx", "--out", str(found[preprocessing])]
        export.main([*arguments, *option])
    return found


@pytest.mark.parametrize("preprocessing", [False, True])
def test_an_onnx_graph_computes_the_same_for_batches_of_any_size(preprocessing, trained, graphs):
    out = graphs[preprocessing]
    network, images = open_network(trained, CPU), squares(5, 64)
    crops = images[:, :, 4:60, 4:60] - network.mean
    weights = {name: value.double() for name, value in network.model.full_state().items()}
    logits = reference.forward(weights, crops.double(), 3, None, network.architecture)
    session = onnxruntime.InferenceSession(out)
    ((read,), (given,)) = session.get_inputs(), session.get_outputs()
    if preprocessing:
        assert (read.name, read.type, given.name) == ("squares", "tensor(uint8)", "probabilities")
        shown, expected = images.byte().numpy(), logits.softmax(1)
    else:
        assert (read.name, read.type, given.name) == ("crops", "tensor(float)", "logits")
        shown, expected = crops.numpy(), logits
    for count in (1, 5):
        (found,) = session.run(None, {read.name: shown[:count]})
        np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-5)
    model = onnx.load(out)
    assert model.opset_import[0].version >= 17
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["network"])["classes"] == ["a", "b", "c"]


@pytest.mark.slow
def test_the_opset_is_the_one_asked_for_or_an_error(trained, tmp_path):
    """The exporter goes on with another where it can't convert; onnxruntime checks the first."""
    arguments = [str(trained), "--to", "onnx", "--out", str(tmp_path / "x.onnx"), "--opset"]
    with pytest.raises(ValueError, match=r"--opset is 6, but .* could not be converted from opset"):
        export.main([*arguments, "6"])
    assert not list(tmp_path.iterdir())
    export.main([*arguments, "20"])
    assert [one.version for one in onnx.load(tmp_path / "x.onnx").opset_import] == [20]


@pytest.mark.parametrize("form", ["onnx", "module"])
def test_another_network_is_not_written(form, trained, graphs, tmp_path, monkeypatch):
    """One weight is wrong."""

    def changed(path, device):
        network = open_network(path, device)
        with torch.no_grad():
            network.model.own_columns[0].fc8.bias[0] += 0.001
        return network

    module = plain(open_network(trained, CPU))
    monkeypatch.setattr(export, "open_network", changed)
    monkeypatch.setattr(export, "plain", lambda network: module)
    monkeypatch.setattr(onnx_graph, "onnx_model", lambda *_: graphs[False].read_bytes())
    out = tmp_path / f"network{export._SUFFIXES[form]}"
    with pytest.raises(
        ValueError, match=r"differ by up to \d\.\de-04 of the likeliest; expected 1e-04"
    ):
        export.main([str(trained), "--to", form, "--out", str(out)])
    assert not list(tmp_path.iterdir())


def test_the_code_in_the_documentation_runs(
    graphs, trained, prepared, tmp_path, monkeypatch, capsys
):
    """Block by block, with one picture; module, graph and tools.predict agree on it."""
    export.main([str(trained), "--to", "module", "--out", str(tmp_path / "alexnet.py")])
    shutil.copy(graphs[True], tmp_path / "alexnet.onnx")
    picture = sorted(Path(Dataset.open(prepared).val.root).rglob("*.jpg"))[0]
    shutil.copy(picture, tmp_path / "picture.jpg")
    text = (Path(__file__).parents[2] / "docs/use.md").read_text()
    notebook, text = text.split("## Take it to other programs")
    blocks = re.findall(r"(?:^    .*\n|^\n)+", text, re.MULTILINE)
    code = [dedent(block) for block in blocks if "import " in block or "network." in block]
    assert len(code) == 3
    (tmp_path / "use.py").write_text("".join(code))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    capsys.readouterr()
    found = runpy.run_path("use.py")
    del sys.modules["alexnet"]
    module, graph = found["probabilities"], torch.from_numpy(found["scores"][0])
    torch.testing.assert_close(module, graph, rtol=1e-4, atol=1e-5)
    printed = capsys.readouterr().out
    with join("cpu", num_columns=1) as ranks:
        (scores,), _ = predict([open_network(trained, CPU)], Dataset.open(prepared), ranks, 1)
    np.testing.assert_allclose(module, scores[0], atol=0.01)  # Pillow resizes almost as DALI does
    assert printed.split() == ["abc"[scores[0].argmax()]] * 2
    found = _in_a_notebook(notebook.split("## In a notebook")[1], trained, tmp_path, monkeypatch)
    np.testing.assert_allclose(found["probabilities"][0], scores[0], rtol=0, atol=1e-6)
    assert found["hidden"].shape == (2, 24)


def _in_a_notebook(text, trained, folder, monkeypatch):
    """What the code of docs/use.md leaves in its names."""
    (folder / "runs").mkdir()
    (folder / "runs/alexnet").symlink_to(trained)
    Image.open(folder / "picture.jpg").save(folder / "other.png")
    monkeypatch.chdir(folder)
    found = {}
    exec("\n".join(line[4:] for line in text.splitlines() if line.startswith("    ")), found)
    return found


def test_without_the_runs_images_random_ones_are_compared(trained, monkeypatch):
    network = open_network(trained, CPU)
    module = plain(network)
    said = check.check_alike(
        network, lambda images: module(images).softmax(1).detach().numpy(), None
    )
    assert said.startswith("on 16 random images, probabilities differ")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--to", "onnx", "--out", "x.pt"], r"ends in \.onnx for --to onnx"),
        (["--to", "module", "--out", "x.py", "--preprocessing"], "goes with --to onnx"),
        (["--to", "module", "--out", "x.py", "--opset", "20"], "--opset goes with --to onnx"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, trained):
    with pytest.raises(ValueError, match=message):
        export.main([str(trained), *options])
