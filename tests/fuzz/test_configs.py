"""Configs: YAML and command lines for a new run, and the config.yaml of one that is resumed."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.train.checkpoints.run_folder import changed_options, claim, read_config
from alexnet_dali.train.config import Config, DataConfig, from_dict, load, to_dict, to_yaml
from tests.fuzz.harness import NUMBERS, PLAIN, TEXTS, altered, damaged, slow, works_or_says
from tests.recipes import TINY

CONFIG = Config(DataConfig("x"))
PLAIN_CONFIG = to_dict(CONFIG)
RECIPE = (TINY + "\ndata: {root: x}\n").encode()
BOMB = b"a: &a [x,x]\nb: &b [*a,*a]\nmodel: {kernels: *b}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("configs")


@slow
@given(data=damaged(to_yaml(CONFIG).encode(), RECIPE, BOMB))
@example(data=b"train: {epochs: !!int ''}")
@example(data=b"train: !!bool x")
@example(data=b"[" * 500)
@example(data=b"\xff")
def test_recipes(data, place):
    path = place / "recipe.yaml"
    path.write_bytes(data)
    works_or_says(lambda: load([str(path), "--data.root", "x"]))


@slow
@given(plain=altered(PLAIN_CONFIG))
def test_recipes_of_other_values(plain, place):
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), errors="replace")
    works_or_says(lambda: load([str(path)]))


OPTIONS = [f"--{section}.{key}" for section, values in PLAIN_CONFIG.items() for key in values]
OPTIONS += [
    "--data",
    "--model",
    "--optim",
    "--config",
    "--model.init_std.conv3",
    "--optim.lr_factors.fc8",
]
ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(OPTIONS),
        st.builds("{}={}".format, st.sampled_from(OPTIONS), st.one_of(TEXTS, NUMBERS)),
        TEXTS,
        NUMBERS.map(str),
        st.sampled_from(("null", "{}", "[]", "{default: x}", "[1", "{a: [[1, 2]]}", "!!int ''")),
    ),
    max_size=5,
)


@slow
@given(arguments=ARGUMENTS)
@example(arguments=["--train.epochs", "!!int ''"])
@example(arguments=["--train.seed", "[" * 3000])
@example(arguments=["--config", "\0"])
def test_command_lines(arguments, place):
    path = place / "sound.yaml"
    path.write_bytes(RECIPE)
    works_or_says(lambda: load([str(path), *arguments]))


@slow
@given(plain=st.one_of(altered(PLAIN_CONFIG), PLAIN))
def test_configs_as_checkpoints_keep_them(plain):
    works_or_says(lambda: to_yaml(from_dict(plain)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with a checkpoint, which is not opened here."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/step-0000000010.pt").touch()
    return folder


def resumed(run, data):
    path = run / "config.yaml"
    path.write_bytes(data)
    works_or_says(lambda: read_config(run), str(path))
    works_or_says(lambda: changed_options(read_config(run), CONFIG), str(path))

    def resume():
        claim(run, CONFIG).release()

    works_or_says(resume, str(run))


@slow
@given(data=damaged(to_yaml(CONFIG).encode()))
@example(data=b"train: {epochs: !!int ''}")
@example(data=b"[" * 500)
@example(data=b"\xff")
@example(data=b"")
def test_the_config_of_a_run(data, run):
    resumed(run, data)


@slow
@given(plain=altered(PLAIN_CONFIG))
def test_the_config_of_a_run_with_other_values(plain, run):
    resumed(run, yaml.safe_dump(plain).encode(errors="replace"))
