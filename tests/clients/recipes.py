"""Other frameworks, by the lines of docs/pipeline.md: run by `make clients`, not by CI.

Each reads what one plain loop reads: no batch twice, none left out, also after a stop.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torchvision.transforms import v2

from alexnet_dali.pipeline import DataLoader, Pixels, RandomResizedCrop
from tests.images import prepare

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/pipeline.md").read_text()
GLOBAL_BATCH_SIZE, EPOCHS, PER_EPOCH = 8, 3, 5
BEFORE = '''
import json, os, sys
from pathlib import Path
import torch
from torch import nn
from torch.nn import CrossEntropyLoss
from torch.nn.functional import cross_entropy
import alexnet_dali.pipeline
from alexnet_dali.pipeline import CentreCrop, Pixels, RandomResizedCrop

START, STOP_AT = int(os.environ["START"]), int(os.environ["STOP_AT"])

class DataLoader(alexnet_dali.pipeline.DataLoader):
    """Notes every batch that it hands out."""

    def __init__(self, folder, split="train", **options):
        options.setdefault("crops", RandomResizedCrop(32) if split == "train" else CentreCrop(32))
        super().__init__(folder, split, num_threads=1, **options)
        self.split = split

    def __iter__(self):
        return self._noted(super().__iter__())

    def _noted(self, batches):
        for batch in batches:
            if self.split == "train":
                if self.step - 1 == STOP_AT:
                    os._exit(3)
                noted = [self.rank, self.step - 1, batch[0].double().mean((1, 2, 3)).tolist()]
                with open(os.environ["NOTES"] + f".{self.rank}", "a") as file:
                    print(json.dumps(noted), file=file)
            yield batch

torch.manual_seed(0)
torch.set_num_threads(1)
model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2))
optimizer = torch.optim.SGD(model.parameters(), 0.01)

def step(network, images, labels):
    optimizer.zero_grad()
    cross_entropy(network(images), labels).backward()
    optimizer.step()
'''
BEFORE_A = {
    "Lightning": """
import lightning
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = model
    def training_step(self, batch, number):
        return cross_entropy(self.model(batch[0]), batch[1])
    def validation_step(self, batch, number):
        self.log("loss", cross_entropy(self.model(batch[0]), batch[1]), sync_dist=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)
module = Module()
""",
    "timm": """
import timm
model = timm.create_model("test_resnet", num_classes=2)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
""",
}
LAUNCHERS = {
    "Accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
    "others": [],
}


def recipe(name):
    """The lines of the docs, for a small folder and few epochs."""
    (block,) = re.findall(rf"^### {name}\n\n((?:    .*\n|\n)+)", DOCS, re.MULTILINE)
    code = "\n".join(line[4:] for line in block.splitlines())
    return re.sub(r"\b90\b", 'int(os.environ["EPOCHS"])', code).replace("=256", "=8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("clients"), {"a": 21, "b": 21}, {"a": 3, "b": 4})


def run(name, folder, work, *, epochs=EPOCHS, start=0, stop_at=-1):
    """Run the recipe in `work`; what was read there so far: (rank, step, images)."""
    code = recipe(name).replace("/prepared/imagenet", "prepared/imagenet")
    code = code.replace("prepared/imagenet", str(folder))
    (work / "recipe.py").write_text(f"{BEFORE}{BEFORE_A.get(name, '')}\n{code}")
    words = [sys.executable, *LAUNCHERS.get(name, LAUNCHERS["others"]), "recipe.py"]
    environment = os.environ | {
        "START": str(start),
        "STOP_AT": str(stop_at),
        "EPOCHS": str(epochs),
        "NOTES": str(work / "notes"),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "RAY_TRAIN_V2_ENABLED": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        words, cwd=work, env=environment, capture_output=True, text=True, timeout=500
    )
    assert (done.returncode == 0) == (stop_at < 0), done.stdout + done.stderr
    lines = [
        line for path in sorted(work.glob("notes.*")) for line in path.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines]


def plain(folder, **options):
    """What one plain loop reads, by step."""
    options = {"crops": RandomResizedCrop(32)} | options
    loader = DataLoader(folder, global_batch_size=GLOBAL_BATCH_SIZE, **options)
    read = {}
    while loader.epoch < EPOCHS:
        for images, _ in loader:
            read[loader.step - 1] = images.double().mean((1, 2, 3)).tolist()
    return read


def together(read):
    """By step, what the ranks have read, one after the other; a step is read once by each."""
    steps = defaultdict(dict)
    for rank, step, images in read:
        assert rank not in steps[step], f"rank {rank} has read step {step} twice"
        steps[step][rank] = images
    return {
        step: [image for rank in sorted(ranks) for image in ranks[rank]]
        for step, ranks in sorted(steps.items())
    }


RANKS = {"Lightning": 2, "Accelerate": 2, "fastai": 1, "Ray": 2, "timm": 1}


@pytest.mark.parametrize("name", RANKS)
def test_a_framework_reads_what_a_plain_loop_reads(name, folder, tmp_path):
    read = run(name, folder, tmp_path, epochs=1)  # and resume after it
    assert len(together(read)) == PER_EPOCH
    read = run(name, folder, tmp_path, start=1)
    assert {rank for rank, _, _ in read} == set(range(RANKS[name]))
    options = {}
    if name == "timm":
        means = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
        options = {"crops": RandomResizedCrop(160), "pixels": Pixels(**means)}
    found, expected = together(read), plain(folder, **options)
    assert found.keys() == expected.keys()
    for step, images in expected.items():
        assert found[step] == pytest.approx(images, abs=1e-9)
    print(name, version(name.lower()), "torch", torch.__version__)


def test_lightning_resumes_in_mid_epoch(folder, tmp_path, monkeypatch):
    """A checkpoint after every second step; a stop in the second epoch."""
    text = DOCS.replace(
        '"checkpoints", save_last', '"checkpoints", every_n_train_steps=2, save_last'
    )
    monkeypatch.setattr(sys.modules[__name__], "DOCS", text)
    read = run("Lightning", folder, tmp_path, stop_at=7)
    assert set(together(read)) == set(range(7))
    for path in tmp_path.glob("notes.*"):
        lines = path.read_text().splitlines()
        path.write_text("".join(line + "\n" for line in lines[:6]))  # the checkpoint is of step 6
    found, expected = together(run("Lightning", folder, tmp_path)), plain(folder)
    assert found.keys() == expected.keys()
    assert all(found[step] == pytest.approx(expected[step], abs=1e-9) for step in expected)


@pytest.mark.parametrize(
    ("transform", "together"),
    [
        (v2.RandAugment(), 1),
        (v2.ColorJitter(0.4, 0.4, 0.4), 1),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(1.0)]), 1),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.CutMix(num_classes=2)]), 2),
        (v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.MixUp(num_classes=2)]), 2),
    ],
)
def test_torchvisions_transforms_are_the_same_on_any_number_of_ranks(folder, transform, together):
    from runpy import run_path

    augment = run_path(str(ROOT / "examples/augment.py"))["augment"]

    def batches(rank, world_size, first):
        options = {"crops": RandomResizedCrop(32), "pixels": Pixels(dtype="uint8")}
        loader = DataLoader(
            folder, global_batch_size=8, rank=rank, world_size=world_size, **options
        )
        loader.step = first
        for images, labels in loader:
            row, step = loader.rank * len(images), loader.step - 1
            changed = augment(
                transform, images, labels, seed=0, step=step, first_row=row, together=together
            )
            assert not changed[0].equal(images)
            yield changed

    whole = list(batches(0, 1, 0))
    for world_size, first in ((2, 0), (4, 2), (1, 3)):
        ranks = [batches(rank, world_size, first) for rank in range(world_size)]
        for parts, expected in zip(zip(*ranks), whole[first:], strict=True):
            for own, one in zip(zip(*parts), expected, strict=True):
                assert torch.cat(own).equal(one)


def test_timm_reads_the_shards(tmp_path):
    from timm.data.readers.reader_wds import ReaderWds

    prepared = prepare(tmp_path, {"a": 12, "b": 9}, None, "--resize", "40", "--shards")
    reader = ReaderWds(str(prepared / "shards"), split="train", batch_size=1)
    labels = sorted(label for _, label in reader)
    assert len(reader) == 21 and labels == [0] * 12 + [1] * 9


def test_skorch_trains(folder):
    """It rebuilds batches; its loaders are classes or functions, which it calls itself."""
    from skorch import NeuralNetClassifier
    from torch import nn

    loader = DataLoader(folder, global_batch_size=8, crops=RandomResizedCrop(32))
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2), nn.Softmax(1))
    net = NeuralNetClassifier(
        network, max_epochs=2, train_split=None, iterator_train=lambda dataset, **_: loader
    )
    net.fit(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64))
    assert len(net.history) == 2 and loader.step == 10
