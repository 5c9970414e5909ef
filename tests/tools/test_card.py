"""The card beside an export: what it says is measured by other means, and its code runs."""

import hashlib
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from alexnet_dali.pipeline.dataset import Dataset
from alexnet_dali.tools.export import __main__ as export
from alexnet_dali.tools.export import plain_alexnet
from alexnet_dali.tools.export.card import card
from alexnet_dali.train.networks import open_network, predict
from alexnet_dali.train.parallel.ranks import join

FORMS = {
    "alexnet.py": ["module"],
    "weights.safetensors": ["safetensors"],
    "with.onnx": ["onnx", "--preprocessing"],
    "without.onnx": ["onnx"],
}


@pytest.fixture(scope="module")
def exports(trained, prepared, tmp_path_factory):
    """A folder with all exports, their cards, and a picture."""
    folder = tmp_path_factory.mktemp("exports")
    for name, form in FORMS.items():
        export.main([str(trained), "--to", *form, "--out", str(folder / name)])
    pictures = Path(Dataset.open(prepared).val.root)
    shutil.copy(sorted(pictures.rglob("*.jpg"))[0], folder / "picture.jpg")
    return folder


@pytest.fixture(scope="module")
def scored(trained, dataset):
    with join("cpu", num_columns=1) as ranks:
        network = open_network(trained, ranks.device)
        (scores,), labels = predict([network], dataset, ranks, num_views=1)
    return scores, labels


@pytest.mark.parametrize("name", FORMS)
def test_it_says_what_holds(name, exports, scored, dataset, tmp_path):
    text = (exports / f"{name}.md").read_text()
    scores, labels = scored
    wrong, n, z = (scores.argmax(1) != labels).sum(), len(labels), 1.959964
    middle = (wrong / n + z * z / (2 * n)) / (1 + z * z / n)  # Wilson's formula
    half = z * np.sqrt(wrong / n * (1 - wrong / n) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    interval = f"{middle - half:.1%} to {middle + half:.1%}"
    assert f"**Top-1 error {wrong / n:.1%}** (95 % interval {interval})" in text
    assert "on 15 validation images" in text and "guessing gives 66.7%" in text
    for path, digest in re.findall(r"^\| `(.+)` *\| (\w{64}) \|$", text, re.MULTILINE):
        assert hashlib.sha256((exports / path).read_bytes()).hexdigest() == digest
    assert f"| `{name}`" in text
    assert "42 images of 3 classes: `a`, `b`, `c`." in text and dataset.fingerprint[:16] in text
    assert (
        "resized to 64 pixels" in text and "rows and columns 4 to 59, from 0: [3, 56, 56]" in text
    )
    colour = ", ".join(f"{x:.1f}" for x in dataset.stats.mean_at(64)[4:60, 4:60].mean((0, 1)))
    assert f"(as colour: {colour})" in text
    changed = re.findall(r"^\| `([\w.]+)` *\| `(.*?)` *\| `(.*?)` *\|$", text, re.MULTILINE)
    assert ("model.fc_width", "4096", "24") in changed
    assert not {option for option, *_ in changed} & {"model.dropout", "train.compile"}
    assert "after 4 training steps of 12 pictures" in text and "so far: 1.3 epochs" in text
    assert "The terms of these images are not recorded" in text and "ImageNet's" not in text
    assert str(tmp_path.parent) not in text and "/tmp" not in text  # nobody's folders


def test_code_of_the_cards_runs_and_agrees(exports, scored, monkeypatch, capsys):
    """Beside the exports, with a picture there; Pillow resizes almost as DALI does."""
    monkeypatch.chdir(exports)
    monkeypatch.syspath_prepend(exports)
    for name in FORMS:
        (block,) = re.findall(r"```python\n(.*?)```", Path(f"{name}.md").read_text(), re.DOTALL)
        Path("use.py").write_text(block)
        found = runpy.run_path("use.py")
        if name == "weights.safetensors":
            assert found["weights"]["fc8.weight"].shape == (3, 24)
            assert found["about"]["classes"] == ["a", "b", "c"]
            continue
        given = found.get("logits", found.get("probabilities"))
        scores = torch.as_tensor(given).reshape(3)
        scores = scores.softmax(0) if "logits" in found else scores
        np.testing.assert_allclose(scores, scored[0][0], rtol=0, atol=0.01)
    del sys.modules["alexnet"]
    assert set(capsys.readouterr().out.split()) == {"abc"[scored[0][0].argmax()]}


def test_files_name_their_card_and_weights_can_be_loaded(exports):
    assert plain_alexnet.load(exports / "weights.safetensors").class_folders == ["a", "b", "c"]
    model = onnx.load(exports / "with.onnx")
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["card"] == "with.onnx.md" and json.loads(about["network"])["crop"] == 56


def text_of(network, dataset=None):
    return card(network, "onnx", False, Path("x.onnx"), {}, dataset)


def test_imagenets_terms_and_odd_names_and_missing_images(trained):
    """Wnids mean ImageNet's terms; names can't break the Markdown."""
    network = open_network(trained, torch.device("cpu"))
    wnids, names = ["n01440764", "n01443537", "n01484850"], ["a`b", "new\nline", "\udcff"]
    text = text_of(network._replace(classes=wnids, names=names))
    assert "non-commercial research" in text and "not recorded" not in text
    assert "3 classes: `a'b`, `new\\nline`, `" in text
    assert "Not measured" in text and "images of 3" not in text
    recipe = {**network.recipe, "train": {**network.recipe["train"], "init_from": "/x/other.pt"}}
    text = text_of(network._replace(recipe=recipe))
    assert "layers of another network" in text and "other.pt" not in text


def test_images_that_are_gone_or_other_ones_are_said_to_be(trained, dataset):
    network = open_network(trained, torch.device("cpu"))
    gone = replace(dataset, val=replace(dataset.val, root="gone"))
    assert "Not measured" in text_of(network, gone)
    text = text_of(network, replace(dataset, fingerprint="f" * 64))
    assert f"are of others: `{'f' * 16}`" in text and "**Top-1 error" in text


def test_the_exported_module_carries_the_licence():
    root = Path(__file__).parents[2]
    source = (root / "tools/export/plain_alexnet.py").read_text()
    licence = (root / "LICENSE").read_text()
    assert source.endswith("".join(f"# {line}".rstrip() + "\n" for line in licence.splitlines()))
