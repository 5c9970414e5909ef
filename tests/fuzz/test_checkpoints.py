"""Checkpoints: damaged archives, sound ones of other content, and what is restored from them."""

import io
import math
import pickle
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.model.alexnet import AlexNet
from alexnet_dali.model.config import ModelConfig, PerLayer
from alexnet_dali.pipeline.stats import STATS_SIZE
from alexnet_dali.train.checkpoints import checkpoint, checksum
from alexnet_dali.train.checkpoints.checkpoint import check_shapes
from alexnet_dali.train.checkpoints.run_folder import take_layers
from alexnet_dali.train.checkpoints.state import TrainingState, new_sums
from alexnet_dali.train.config import Config, DataConfig, to_dict
from alexnet_dali.train.networks import open_network
from alexnet_dali.train.optim import OptimConfig, PaperSGD, schedule
from alexnet_dali.train.parallel.ranks import join
from tests.fuzz.harness import PLAIN, altered, damaged, slow, works_or_says, zipped

MODEL = ModelConfig(kernels=(4, 4, 4, 4, 4), fc_width=4, init_std=PerLayer(0.1), pool_size=2)
CONFIG = Config(DataConfig("x", resize=64, crop=64), MODEL, OptimConfig())
CLASSES = ["a", "b", "c"]
RIGHT = {"eigenvalues": (3,), "eigenvectors": (3, 3), "channel_mean": (3,)}


def network():
    return AlexNet(MODEL, len(CLASSES), 64)


def sound_state():
    full = network().full_state()
    stats = {key: torch.ones(shape, dtype=torch.float64) for key, shape in RIGHT.items()}
    return {
        "format": 2,
        "targets": "classes",
        "step": 7,
        "model": full,
        "momentum": {key: torch.zeros_like(value) for key, value in full.items()},
        "lr": 0.01,
        "schedule": {
            "drops": 0,
            "best_error": math.inf,
            "stalled_epochs": 1,
            "completed": 1,
            "by_hand": None,
        },
        "intervals": torch.zeros(1, 3, dtype=torch.float64),
        "config": to_dict(CONFIG),
        "classes": CLASSES,
        "names": CLASSES,
        "stats": {**stats, "mean_image": torch.ones(STATS_SIZE, STATS_SIZE, 3)},
        "dataset": "0" * 64,
        "best": {"top1_error": 0.5, "epoch": 1, "last_error": 0.5},
    }


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return sealed(file.getvalue())


def sealed(data):
    """The archive with the checksum that `checkpoint.save` gives it; without, nothing reads it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        checksum.seal(file)
        file.flush()
        return Path(file.name).read_bytes()


STATE = sound_state()
SMALL = saved({**STATE, "stats": {}})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints") / "step-0000000007.pt"


@pytest.fixture(scope="module")
def ranks():
    with join("cpu", num_columns=2) as ranks:
        yield ranks


def restored(path, ranks):
    """As a run that resumes does."""
    _, state, _ = checkpoint.newest_sound(path.parent)
    model = network()
    check_shapes(path, state["model"], model)
    optimizer = PaperSGD(model.named_parameters(), CONFIG.optim)
    new = TrainingState(model, optimizer, schedule(CONFIG.optim, 3), new_sums(torch.device("cpu")))
    new.restore(state, state["step"] // 5, ranks.pair, ranks.num_pairs)
    new.schedule.end_epoch(0.5)
    assert new.schedule.lr >= 0 and isinstance(new.step, int) and new.is_finite() in (True, False)


def use(path, ranks):
    """Everything that reads checkpoints."""
    errors = [
        works_or_says(lambda: restored(path, ranks), "checkpoint"),
        works_or_says(lambda: open_network(path, torch.device("cpu")), str(path)),
        works_or_says(lambda: take_layers(network(), path, CLASSES), str(path)),
    ]
    assert not any(path.parent.glob("*.tmp"))
    return errors


def test_a_sound_one(path, ranks):
    path.write_bytes(saved(STATE))
    assert use(path, ranks) == [None] * 3


@given(data=damaged(SMALL))
def test_damaged_archives(data, path, ranks):
    path.write_bytes(data)
    works_or_says(lambda: checkpoint.load(path), str(path))


def members():
    with zipfile.ZipFile(io.BytesIO(SMALL)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


MEMBERS = members()
PICKLE = next(name for name in MEMBERS if name.endswith("data.pkl"))


@given(data=damaged(MEMBERS[PICKLE]))
def test_damaged_pickles_under_right_checksums(data, path, ranks):
    path.write_bytes(sealed(zipped(MEMBERS | {PICKLE: data})))
    works_or_says(lambda: checkpoint.load(path), str(path))


class Evil:
    """Unpickled by pickle, it would make a file."""

    def __reduce__(self):
        return open, ("/tmp/a-checkpoint-was-here", "w")


OTHERS = [Evil(), torch.nn.Linear, print, slice(1), {1, 2}, b"x", torch.float32, PLAIN]


@given(
    value=st.one_of(PLAIN, st.sampled_from(OTHERS[:-1])),
    protocol=st.integers(0, 5),
    key=st.sampled_from(sorted(STATE)),
)
@example(value=Evil(), protocol=2, key="lr")
def test_pickles_of_other_classes(value, protocol, key, path, ranks):
    content = {name: None for name in STATE} | {"format": 2, key: value}
    path.write_bytes(sealed(zipped(MEMBERS | {PICKLE: pickle.dumps(content, protocol)})))
    error = works_or_says(lambda: checkpoint.load(path), str(path))
    assert error is not None
    assert not Path("/tmp/a-checkpoint-was-here").exists()


@st.composite
def tensors(draw):
    """Tensors of any kind; some claim more than they hold."""
    shape = draw(st.sampled_from(((), (0,), (1,), (3,), (1, 3), (0, 3), (4, 3), (2, 2, 2))))
    kind = draw(
        st.sampled_from((torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16))
    )
    value = torch.full(shape, draw(st.sampled_from((0, 1, -1)))).to(kind)
    how = draw(st.sampled_from(("", "", "sparse", "meta", "wide", "nan")))
    if how == "sparse":
        return value.to_sparse()
    if how == "meta":
        return value.to("meta")
    if how == "wide":
        return torch.zeros(1).expand(1 << 40)
    return value * math.nan if how == "nan" else value


@slow
@given(state=altered(STATE, st.one_of(PLAIN, tensors())))
@example(state={**STATE, "format": torch.ones(2)})
@example(state={**STATE, "lr": "0.1"})
@example(state={**STATE, "momentum": {}})
@example(state={**STATE, "model": {"conv1.weight": 1}})
@example(
    state={
        **STATE,
        "config": to_dict(CONFIG) | {"model": to_dict(CONFIG)["model"] | {"fc_width": 2**33}},
    }
)
@example(state={**STATE, "schedule": {"completed": 3, "by_hand": None}})
@example(state={**STATE, "schedule": {"completed": 3, "by_hand": []}})
@example(state={**STATE, "intervals": torch.zeros(0, 3, dtype=torch.float64)})
def test_states_of_other_content(state, path, ranks):
    try:
        path.write_bytes(saved(state))
    except Exception:  # torch can't write it
        return
    use(path, ranks)


@slow
@given(config=altered(to_dict(CONFIG)))
def test_configs_in_checkpoints(config, path):
    path.write_bytes(saved({**STATE, "config": config}))
    works_or_says(lambda: open_network(path, torch.device("cpu")), str(path))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(path):
    """zipfile would check the last one, torch may read the first."""
    path.write_bytes(SMALL)
    name = next(name for name in MEMBERS if name.endswith("/data/0"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, MEMBERS[name])
    with pytest.raises(checkpoint.CheckpointError, match="twice"):
        checkpoint.load(path)
