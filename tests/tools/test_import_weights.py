"""Weights of others, held against a plain network of Caffe's form; files are written by hand."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.numpy import save_file

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.layers import PAPER, Conv
from alexnet_dali.model.local_response_norm import local_response_norm
from alexnet_dali.pipeline.stats import PixelStats
from alexnet_dali.tools import evaluate
from alexnet_dali.tools.export import __main__ as export
from alexnet_dali.tools.import_weights import caffe, form, matconvnet, onnx_file, pickled
from alexnet_dali.tools.import_weights.__main__ import main
from alexnet_dali.tools.import_weights.doubts import doubts
from alexnet_dali.tools.import_weights.published import CAFFES_MEAN, Published, as_ours
from alexnet_dali.tools.import_weights.run import stats_of
from alexnet_dali.tools.paper import figures
from alexnet_dali.tools.predict import __main__ as predict
from alexnet_dali.train import open_run
from alexnet_dali.train.__main__ import main as train
from alexnet_dali.train.checkpoints import checkpoint
from alexnet_dali.train.config import DataConfig
from alexnet_dali.train.data import crop_mean
from alexnet_dali.train.networks import open_network
from tests.tools import published
from tests.tools.published import CAFFENETS, CHAIN, field

CPU = torch.device("cpu")
EDGE = (256 - 227) // 2


def write_caffemodel(p, path, **options):
    path.write_bytes(published.caffemodel(p, **options))


def write_onnx(p, path, **options):
    onnx.save(published.onnx_model(p, **options), path)


def write_npy(p, path, **options):
    published.pickled_npy(published.toronto(p), path, **options)


READ = {".caffemodel": caffe, ".onnx": onnx_file, ".mat": matconvnet, ".npy": pickled}
FILES = {
    "today's.caffemodel": (write_caffemodel, {}),
    "sides.caffemodel": (write_caffemodel, {"shaped": False}),
    "2014.caffemodel": (write_caffemodel, {"old": True, "shaped": False}),
    "doubles.caffemodel": (write_caffemodel, {"double": True}),
    "zoo.onnx": (write_onnx, {}),
    "rows.onnx": (write_onnx, {"side": 227, "transposed": False}),
    "2016.mat": (published.mat, {}),
    "2014.mat": (published.mat, {"old": True}),
    "toronto.npy": (write_npy, {}),
    "2.npy": (write_npy, {"old": False}),
    "4.npy": (write_npy, {"protocol": 4, "old": False}),
    "5.npy": (write_npy, {"protocol": 5, "old": False}),
}


def crops(count=3):
    """Smooth [N, 3, 227, 227] in RGB, less a mean, with colours that differ."""
    draws = torch.Generator().manual_seed(1)
    coarse = torch.randint(-120, 130, (count, 3, 16, 16), generator=draws).double()
    return torch.nn.functional.interpolate(coarse, 227, mode="bilinear")


def in_float64(found: Published) -> AlexNet:
    """The network that `as_ours` makes, without any rounding to float32."""
    exact = {name: value.astype(np.float64) for name, value in found.weights.items()}
    ours = as_ours(replace(found, weights=exact))
    model = AlexNet(ours.config.model, len(exact["fc8.bias"]), ours.config.data.crop).double()
    full = {name: torch.zeros_like(value) for name, value in model.full_state().items()}
    for name, value in full.items():
        value[: len(ours.weights[name])] = torch.from_numpy(ours.weights[name].copy())
    model.load_full_state(full)
    return model


def answers(model, images):
    with torch.no_grad():
        return model(images).softmax(1)


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_the_plain_network(name, tmp_path):
    """Where red and blue, axes, columns or factors are mixed up, probabilities are others."""
    p = published.weights(dtype=np.float64 if "doubles" in name else np.float32)
    write, options = FILES[name]
    write(p, tmp_path / name, **options)
    model = in_float64(READ[Path(name).suffix].read(tmp_path / name))
    expected = published.probabilities(p, crops())
    assert expected.max() < 0.9 and expected.std(0).max() > 0.01  # they tell images apart
    torch.testing.assert_close(answers(model, crops()), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("k, alpha", [(1.0, 1e-4), (2.0, 5e-4), (0.5, 3e-3)])
def test_the_norms_constants_are_the_files(k, alpha, tmp_path):
    """k = 2 and alpha = 5e-4 over 5 are the paper's own."""
    p = published.weights()
    lrn = field(1, 5) + field(2, alpha) + field(3, 0.75) + field(5, k)
    write_caffemodel(p, tmp_path / "a.caffemodel", lrn=lrn)
    published.mat(p, tmp_path / "a.mat", norm=(5, k, alpha / 5, 0.75))
    expected = published.probabilities(p, crops(), k=k, alpha=alpha)
    for reader, name in ((caffe, "a.caffemodel"), (matconvnet, "a.mat")):
        model = in_float64(reader.read(tmp_path / name))
        torch.testing.assert_close(answers(model, crops()), expected, rtol=0, atol=1e-10)


def test_only_maps_beside_the_columns_border_differ_from_caffes():
    """Two on each side, as the norm reaches two maps far: 46 to 49 of conv1's 96."""
    p, images = published.weights((96, 8, 8, 8, 8)), crops(2)
    before = published.maps(p, images, across=True, alpha=0.0)
    ours = torch.cat([local_response_norm(half, 4e-5) for half in before.chunk(2, 1)], 1) * 2**0.75
    torch.testing.assert_close(ours, published.maps(p, images, across=False), rtol=1e-12, atol=0)
    caffes = published.maps(p, images, across=True)
    differ = (ours - caffes).abs().amax((0, 2, 3)) > 1e-9 * caffes.abs().max()
    assert differ.nonzero().flatten().tolist() == [46, 47, 48, 49]


@pytest.mark.slow
def test_what_the_columns_border_changes_in_a_network_of_full_size(tmp_path):
    """Caffe's norm reaches across it, ours does not: docs/import.md says how much that is."""
    p, images = published.weights((96, 256, 384, 384, 256), 4096, 1000), crops(2)
    expected, caffes = (published.probabilities(p, images, across) for across in (False, True))
    write_npy(p, tmp_path / "a.npy")
    model = in_float64(pickled.read(tmp_path / "a.npy"))
    torch.testing.assert_close(answers(model, images), expected, rtol=0, atol=1e-10)
    share = ((expected - caffes).abs().max() / caffes.max()).item()
    print(f"probabilities differ by {share:.2e} of the likeliest")
    assert 0 < share < 0.1


@pytest.fixture(scope="module")
def p():
    return published.weights(classes=3)


@pytest.fixture(scope="module")
def imported(p, prepared, tmp_path_factory):
    """A run of a file of Caffe's, with the classes of the prepared folder."""
    folder = tmp_path_factory.mktemp("imported")
    write_caffemodel(p, folder / "a.caffemodel")
    main([str(folder / "a.caffemodel"), "--out", str(folder / "run"), "--data", str(prepared)])
    return folder / "run"


def squares(count=4):
    rng = np.random.default_rng(2)
    coarse = rng.integers(0, 256, (count, 3, 16, 16)).astype(np.uint8)
    return coarse.repeat(16, 2).repeat(16, 3)


def centres(images, mean=CAFFES_MEAN):
    """Central crops [N, 3, 227, 227] of squares, less a colour or an image [3, 227, 227]."""
    less = torch.tensor(mean).double()
    middle = torch.from_numpy(images)[:, :, EDGE : EDGE + 227, EDGE : EDGE + 227].double()
    return middle - (less[:, None, None] if less.dim() == 1 else less)


def test_a_run_answers_as_caffe_does(p, imported):
    expected = published.probabilities(p, centres(squares())).numpy()
    np.testing.assert_allclose(open_run(imported, "cpu").predict(squares()), expected, atol=1e-5)
    state = checkpoint.load(checkpoint.named(imported))
    assert state["step"] == 0 and state["classes"] == ["a", "b", "c"]
    assert state["dataset"].startswith("imported a.caffemodel, SHA-256 ")


def test_the_other_commands_take_a_run(imported, prepared, tmp_path, capsys):
    evaluate.main([str(imported)])  # on the images of --data
    assert "on 15 images" in capsys.readouterr().out
    pictures = sorted(prepared.parent.glob("images/val/a/*.jpg"))[:2]
    predict.main([str(imported), *map(str, pictures)])
    assert len(capsys.readouterr().out.splitlines()) >= 2
    figures.main(["kernels", str(imported), "--out", str(tmp_path / "kernels.png")])
    assert (tmp_path / "kernels.png").stat().st_size > 1000
    export.main([str(imported), "--to", "onnx", "--out", str(tmp_path / "a.onnx")])
    card = (tmp_path / "a.onnx.md").read_text()
    assert "with weights that were imported a.caffemodel, SHA-256" in card
    assert "training steps" not in card and "the weights are imported" in card


def test_training_goes_on_from_a_run_in_another_folder(imported, prepared, tmp_path, capsys):
    arguments = [imported / "config.yaml", "--data.root", prepared, "--train.init_from", imported]
    arguments += ["--train.batch_size", 4, "--train.compile", "false", "--run.max_steps", 1]
    arguments += ["--run.device", "cpu", "--run.pictures", "false"]
    new = ["--optim.lr_factors", '{"weight": 0, "bias": 0}', "--run.dir", str(tmp_path / "new")]
    assert train([*map(str, arguments), *new]) == 0
    assert "took conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8" in capsys.readouterr().out
    before, after = (checkpoint.load(checkpoint.named(one)) for one in (imported, tmp_path / "new"))
    assert all(torch.equal(after["model"][key], own) for key, own in before["model"].items())
    assert train([*map(str, arguments)]) == 2  # into the folder of the weights
    assert "another --run.dir" in capsys.readouterr().err


@pytest.mark.parametrize("of", ["imported", "trained"])
def test_an_export_comes_back(of, request, tmp_path):
    """One with this project's own sizes, too: crops of 56 pixels out of squares of 64."""
    run = request.getfixturevalue(of)
    file, back = tmp_path / "a.safetensors", tmp_path / "back"
    export.main([str(run), "--to", "safetensors", "--out", str(file)])
    main([str(file), "--out", str(back)])
    old, new = (open_network(path, CPU) for path in (run, back))
    assert (new.architecture, new.classes, new.names) == (old.architecture, old.classes, old.names)
    torch.testing.assert_close(new.mean, old.mean, rtol=0, atol=1e-3)
    images = torch.rand(2, 3, old.data.crop, old.data.crop) * 255 - 128
    assert torch.equal(answers(new.model, images), answers(old.model, images))


def test_a_mean_image_is_subtracted_where_it_is(p, tmp_path):
    """--mean in both forms; MatConvNet's, which is as large as a crop."""
    rng = np.random.default_rng(3)
    image = rng.uniform(90, 130, (3, 256, 256)).astype(np.float32)  # blue, green, red
    np.save(tmp_path / "mean.npy", image)
    (tmp_path / "mean.binaryproto").write_bytes(published.blob(image, shaped=False))
    write_caffemodel(p, tmp_path / "a.caffemodel")
    middle = image[::-1, EDGE : EDGE + 227, EDGE : EDGE + 227]
    published.mat(p, tmp_path / "a.mat", mean=middle.transpose(1, 2, 0))
    expected = published.probabilities(p, centres(squares(), middle.copy())).numpy()
    for number, arguments in enumerate(
        (["a.caffemodel", "mean.npy"], ["a.caffemodel", "mean.binaryproto"], ["a.mat"])
    ):
        file, *mean = (str(tmp_path / name) for name in arguments)
        out = str(tmp_path / f"run{number}")
        main([file, "--out", out, *(["--mean", *mean] if mean else [])])
        torch.testing.assert_close(
            open_network(Path(out), CPU).mean.double(), torch.from_numpy(middle.copy()).double()
        )
        np.testing.assert_allclose(open_run(out, "cpu").predict(squares()), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"mean\.npy.*found|has a mean of its own"):
        main([str(tmp_path / "a.mat"), "--out", out, "--mean", str(tmp_path / "mean.npy")])
    np.save(tmp_path / "mean.npy", image[:, 1:])
    with pytest.raises(ValueError, match=r"\[3, 255, 256\]; expected finite ones \[3, 256, 256\]"):
        main([str(tmp_path / "a.caffemodel"), "--out", out, "--mean", str(tmp_path / "mean.npy")])


@pytest.mark.parametrize("crop, resize", [(56, 64), (227, 256), (256, 292), (200, 230)])
def test_the_mean_of_an_export_is_that_of_every_crop(crop, resize):
    """Statistics are of 256 pixels; whatever they were resized to, the same crop comes out."""
    rng = np.random.default_rng(4)
    coarse = rng.uniform(80, 160, (16, 16, 3))
    image = coarse.repeat(16, 0).repeat(16, 1).astype(np.float32)
    data = DataConfig(resize=resize, crop=crop)
    stats = PixelStats(image, image.mean((0, 1)).astype(np.float64), np.zeros(3), np.eye(3))
    expected = crop_mean(stats, data, CPU)
    back = stats_of(expected.permute(1, 2, 0).double().numpy(), crop, resize)
    torch.testing.assert_close(crop_mean(back, data, CPU), expected, rtol=0, atol=1e-3)


def test_classes_are_the_folders_the_files_or_numbers(p, prepared, tmp_path, capsys):
    colour, named = np.array([[[120.0, 110, 100]]]), (["a", "b", "c"], ["ant", "bee", "cat"])
    published.mat(p, tmp_path / "named.mat", mean=colour, classes=named)
    published.mat(p, tmp_path / "plain.mat")
    main([str(tmp_path / "named.mat"), "--out", str(tmp_path / "named")])
    assert "3 classes (named)" in capsys.readouterr().out
    network = open_network(tmp_path / "named", CPU)
    assert (network.classes, network.names) == named
    assert network.mean[:, 0, 0].tolist() == [120, 110, 100]
    main([str(tmp_path / "named.mat"), "--out", str(tmp_path / "both"), "--data", str(prepared)])
    assert open_network(tmp_path / "both", CPU).names == ["a", "b", "c"]
    main([str(tmp_path / "plain.mat"), "--out", str(tmp_path / "plain")])
    assert "3 classes (numbers; --data DIR names them)" in capsys.readouterr().out
    network = open_network(tmp_path / "plain", CPU)
    assert network.classes == ["0", "1", "2"]
    np.testing.assert_allclose(network.mean[:, 0, 0], CAFFES_MEAN, rtol=1e-6)

    published.mat(p, tmp_path / "other.mat", classes=(["b", "a", "c"], ["bee", "ant", "cat"]))
    with pytest.raises(ValueError, match=r"other classes .* or in another order \(first: b, a\)"):
        main([str(tmp_path / "other.mat"), "--out", "none", "--data", str(prepared)])
    published.mat(published.weights(classes=4), tmp_path / "four.mat")
    with pytest.raises(ValueError, match=r"tells 4 classes apart, but .* names 3"):
        main([str(tmp_path / "four.mat"), "--out", "none", "--data", str(prepared)])


def refused(path, tmp_path):
    """Why the command refuses a file; it writes nothing."""
    with pytest.raises(ValueError) as error:
        main([str(path), "--out", str(tmp_path / "nothing")])
    assert not (tmp_path / "nothing").exists()
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


def test_caffenet_is_known_by_the_order_of_its_layers(p, tmp_path):
    """Pooling comes first there; its shapes are AlexNet's."""
    file = tmp_path / "caffenet.caffemodel"
    write_caffemodel(p, file, chain=CAFFENETS)
    why = refused(file, tmp_path)
    assert "after relu1 it has max pooling (size 3, stride 2, padding 0) (pool1)" in why
    assert "expected norm" in why and "CaffeNet" in why and "bvlc_alexnet" in why
    published.mat(p, tmp_path / "ref.mat", order=(0, 1, 3, 2))
    assert "CaffeNet" in refused(tmp_path / "ref.mat", tmp_path)
    model = published.onnx_model(p)
    nodes = list(model.graph.node)
    kinds = [node.op_type for node in nodes]
    norm, pool = nodes[kinds.index("LRN")], nodes[kinds.index("MaxPool")]
    for node in (norm, pool):
        node.output[0] += "b" if node is norm else ""
    pool.input[0], norm.input[0], norm.output[0] = norm.input[0], "early", pool.output[0]
    pool.output[0] = "early"
    nodes[2:4] = [pool, norm]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "caffenet.onnx")
    assert "CaffeNet" in refused(tmp_path / "caffenet.onnx", tmp_path)


def branched(p):
    """A chain in which pool1 reads conv1, past the norm; written by hand."""
    whole = published.caffemodel(p)
    reads = field(1, "pool1") + field(2, "Pooling") + field(3, "norm1")
    assert whole.count(reads) == 1
    return whole.replace(reads, field(1, "pool1") + field(2, "Pooling") + field(3, "conv1"))


def test_other_networks_are_refused_by_what_differs(p, tmp_path):
    file = tmp_path / "a.caffemodel"

    def why(**options):
        write_caffemodel(options.pop("p", p), file, **options)
        return refused(file, tmp_path)

    shape = {"conv2.weight": np.ones((12, 8, 5, 5), np.float32)}  # ungrouped, as VGG's and ZF's are
    assert "conv2.weight is [12, 8, 5, 5]; expected [12, 4, 5, 5]" in why(p=p | shape)
    assert "expected convolution (stride 4, padding 0)" in why(stride=2)
    assert "convolution (stride 1, padding 1) (conv4) after" not in why(stride=2)
    missing = [pair for pair in CHAIN if pair[0] != "norm2"]
    assert "after relu2 it has max pooling" in why(chain=missing)
    ninth = {f"fc9.{part}": p[f"fc8.{part}"] for part in ("weight", "bias")}
    more = [*CHAIN[:-1], ("fc9", "InnerProduct")]
    assert "after the eight layers" in why(chain=more, p=p | ninth)
    assert "size 3" in why(lrn=field(1, 3) + field(2, 1e-4))
    assert "unknown options" in why(lrn=field(1, 5) + field(4, 1))  # within a map
    file.write_bytes(branched(p))
    assert "pool1 reads conv1, and not what norm1 before it gives" in refused(file, tmp_path)
    file.write_bytes(field(2, field(1, field(1, "conv1"))))
    assert "of before 2014" in refused(file, tmp_path)
    bare = {name: own for name, own in p.items() if not name.startswith("fc7")}
    assert "fc7 holds 0 arrays" in why(p=bare)

    norms = published.onnx_model(p)
    next(node for node in norms.graph.node if node.op_type == "LRN").attribute[1].f = 1e-3
    onnx.save(norms, tmp_path / "a.onnx")
    assert "its two response norms differ" in refused(tmp_path / "a.onnx", tmp_path)
    quantised = published.onnx_model({**p, "fc7.weight": p["fc7.weight"].astype(np.int8)})
    onnx.save(quantised, tmp_path / "a.onnx")
    assert "fc7.weight holds int8 numbers" in refused(tmp_path / "a.onnx", tmp_path)
    write_npy({**p, "fc6.weight": np.ones((24, 9 * 12), np.float32)} | p, tmp_path / "a.npy")
    layers = published.toronto(p)
    layers["fc6"][0] = layers["fc6"][0][:-1]
    published.pickled_npy(layers, tmp_path / "a.npy")
    assert "fc6 reads 431 numbers; expected 12 maps of 6 x 6" in refused(
        tmp_path / "a.npy", tmp_path
    )
    save_file({"features.0.weight": p["conv1.weight"]}, tmp_path / "torchvision.safetensors")
    why_not = refused(tmp_path / "torchvision.safetensors", tmp_path)
    assert "alexnet export --to safetensors" in why_not
    (tmp_path / "a.h5").write_bytes(b"")
    assert "expected one in .caffemodel, .onnx" in refused(tmp_path / "a.h5", tmp_path)
    with pytest.raises(OSError, match="No such file"):
        main([str(tmp_path / "none.mat"), "--out", "none"])


def test_theano_alexnets_arrays_are_refused_with_the_reason(p, tmp_path):
    folder = tmp_path / "parameters_releasing"
    folder.mkdir()
    np.save(folder / "W_0_65.npy", p["conv1.weight"].transpose(1, 2, 3, 0))
    for path in (folder, folder / "W_0_65.npy"):
        why = refused(path, tmp_path)
        assert "theano_alexnet" in why and "pools before it normalises" in why


class Planted:
    """Pickled, it is a call of whatever it is given."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "function, name",
    [(os.mkdir, f"{os.name}.mkdir"), (eval, "__builtin__.eval"), (np.load, "numpy.load")],
    ids=["os", "eval", "numpy's own"],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(function, name, protocol, p, tmp_path):
    made = tmp_path / "made"
    argument = f"__import__('os').mkdir({str(made)!r})" if function is eval else str(made)
    layers = published.toronto(p) | {"conv1": Planted(function, argument)}
    published.pickled_npy(layers, tmp_path / "a.npy", protocol, old=False)
    name = name.replace("__builtin__", "builtins" if protocol > 2 else "__builtin__")
    name = name if function is not np.load else f"{np.load.__module__}.load"
    why = refused(tmp_path / "a.npy", tmp_path)
    assert f"would have to import {name}, which may run any code" in why
    assert not made.exists()


@pytest.mark.parametrize("name", [*FILES, "own.safetensors"])
def test_files_that_are_cut_short_are_refused(name, imported, p, tmp_path):
    file = tmp_path / name
    if name == "own.safetensors":
        export.main([str(imported), "--to", "safetensors", "--out", str(file)])
    else:
        write, options = FILES[name]
        write(p, file, **options)
    whole = file.read_bytes()
    for length in (*(int(share * len(whole)) for share in (0, 0.01, 0.3, 0.6, 0.99)), -1):
        file.write_bytes(whole[:length])
        refused(file, tmp_path)


def test_weights_that_nobody_trained_are_said_to_be_so(p, tmp_path, capsys):
    assert doubts(p) == []
    draws = np.random.default_rng(0).standard_normal(p["conv1.weight"].shape)
    (one,) = doubts(p | {"conv1.weight": draws})
    assert "neighbouring weights correlate by" in one and "at chance" in one
    (one,) = doubts(p | {"fc7.bias": np.full(24, np.nan)})
    assert "fc7.bias: some are not finite" in one
    (one,) = doubts(p | {"conv3.weight": np.ones_like(p["conv3.weight"])})
    assert "conv3.weight: all numbers are equal" in one
    equal = {name: np.ones_like(own) for name, own in p.items()}
    write_npy(equal, tmp_path / "a.npy")
    main([str(tmp_path / "a.npy"), "--out", str(tmp_path / "run")])
    printed = capsys.readouterr()
    assert "warning" not in printed.out and "all numbers are equal" in printed.err
    assert "does not say in which order its layers come" in printed.err


def zoos_graph():
    """The graph of bvlcalexnet-9.onnx, which onnx has for tests: all its weights are equal."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    return onnx.load(folder / "light_bvlc_alexnet.onnx")


@pytest.mark.slow
def test_the_zoos_graph_without_its_weights_is_read(tmp_path):
    onnx.save(zoos_graph(), tmp_path / "a.onnx")
    found = onnx_file.read(tmp_path / "a.onnx")
    ours = as_ours(found)
    assert ours.config.model.kernels == (96, 256, 384, 384, 256)
    assert ours.config.model.norm_alpha == 4e-5
    assert "all numbers are equal" in doubts(ours.weights)[0]
    assert any("crops of 224 pixels" in remark for remark in found.remarks)


def test_the_zoos_graph_with_weights_is_the_plain_network(p, tmp_path):
    """Its nodes and their options are the zoo's; the weights take the places of its constants."""
    model = zoos_graph()
    kept = [node for node in model.graph.node if node.op_type != "ConstantOfShape"]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    stored = {name.replace(".weight", "_w_0").replace(".bias", "_b_0"): p[name] for name in p}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(own, name) for name, own in stored.items()
    )
    onnx.save(model, tmp_path / "a.onnx")
    got = answers(in_float64(onnx_file.read(tmp_path / "a.onnx")), crops())
    torch.testing.assert_close(got, published.probabilities(p, crops()), rtol=0, atol=1e-10)


def test_a_folder_that_holds_something_is_left_alone(p, tmp_path):
    write_npy(p, tmp_path / "a.npy")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already; nothing was changed"):
        main([str(tmp_path / "a.npy"), "--out", str(tmp_path / "run")])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_onnx_is_asked_for_where_it_is_missing(p, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from alexnet_dali.tools.__main__ import main\n"
        "sys.argv[1:] = ['import-weights', 'a.onnx', '--out', 'run']\nmain()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "alexnet import-weights needs onnx: pip install 'alexnet-dali[export]'" in result.stderr


def test_the_form_is_the_papers():
    """What form.check compares with, beside the table that the network here is built from."""
    convolutions = [step for step in form.FORM if step.kind == "convolution"]
    ours = [layer for layer in PAPER if isinstance(layer, Conv)]
    assert [(one.stride, one.padding) for one in convolutions] == [
        (layer.stride, layer.padding) for layer in ours
    ]
