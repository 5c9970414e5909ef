"""A config means what it says: over every option, generated from the types of the fields."""

import dataclasses
import math
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from alexnet_dali.model.config import PerLayer
from alexnet_dali.train.config import Config, ConfigError, from_dict, load, to_dict
from tests.fuzz.harness import PLAIN

DEFAULTS = to_dict(Config())
TYPES = {
    f"{section.name}.{name}": hint
    for section in dataclasses.fields(Config)
    for name, hint in typing.get_type_hints(section.default_factory).items()
}
LAYERS = ("model.init_std", "model.init_bias")
OPTIONS = [*TYPES, *(f"{group}.{layer}" for group in LAYERS for layer in PerLayer.__annotations__)]
TYPES |= {
    f"{group}.{layer}": hint
    for group in LAYERS
    for layer, hint in typing.get_type_hints(PerLayer).items()
}
PATHS = {"data.root", "run.dir", "train.init_from"}
ODD: tuple[typing.Any, ...] = (
    *(True, False, 0, 1, -1, 7, 2**70, 10**400, 0.5, -0.5, 2.0, 1e308, math.inf, -math.inf),
    *(math.nan, "text", "010", "1:30", "0x10", "1_000", "1e999", "null ", "no such", [], {}, [1]),
    *([[1]], [[1, 0.5]], [[1, 0.5, 2]], [None], [True], {"fc8": 1}, {"fc8": None}, {"conv3": "x"}),
    *({"conv3": 0.5}, {1: 2}, {"fc8": [[0, 1], [0, 2]]}),
)
"""Values of every kind; most are of a wrong one for most options."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes") / "recipe.yaml"


def nested(option, value):
    for key in reversed(option.split(".")):
        value = {key: value}
    return value


def read(config, option):
    """The option's value in plain terms."""
    value = to_dict(config)
    for key in option.split("."):
        value = value[key]
    return value


def refused(arguments, option, where):
    """The error, of one line, which names the option and where it stands; None if it is loaded."""
    try:
        return load([*arguments, *([] if "data.root" in option else ["--data.root", "x"])])
    except ConfigError as error:
        message = str(error)
        assert "\n" not in message and message.isprintable() and len(message) < 500, message
        assert option.rpartition(".")[2] in message and where in message, message
        assert option.partition(".")[0] in message, message
        return None


def is_meant(value, found, default):
    """Whether an option is what was given: no other number, and no default in its place."""
    if isinstance(value, dict) and isinstance(default, dict):  # numbers by layer go into the others
        return found == default | {str(key): own for key, own in value.items()}
    if isinstance(value, list):
        return isinstance(found, list) and all(map(is_meant, value, found, value))
    if isinstance(found, str) and type(value) in (int, float):  # a folder may be called 2012
        return found == yaml.safe_dump(value).split("\n")[0]
    if isinstance(value, bool) or isinstance(found, bool):
        return found is value
    return found == value


@pytest.mark.parametrize("option", OPTIONS)
def test_null_is_meant_or_refused(option, recipe):
    kinds = typing.get_args(TYPES[option])
    for text in ("null", "Null", "", "~"):
        lines = [f"{'  ' * depth}{key}:" for depth, key in enumerate(option.split("."))]
        recipe.write_text("\n".join(lines) + f" {text}\n")
        config = refused([str(recipe)], option, str(recipe))
        if text == "~" and option in PATHS:
            assert read(config, option) == str(Path.home())
        elif type(None) not in kinds or text == "~" or option == "data.root":
            assert config is None
        elif option != "run.dir":  # which then follows from the recipe's name
            assert read(config, option) is None
    recipe.write_text("data: {root: x}")
    config = refused([str(recipe), f"--{option}", "null"], option, "the command line")
    assert (config is not None) == (type(None) in kinds and option != "data.root")


@pytest.mark.parametrize("option", OPTIONS)
def test_what_occurs_twice_is_refused_with_both_lines(option, recipe):
    *above, key = option.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(above)]
    value = yaml.safe_dump(read(Config(), option), default_flow_style=True, width=999)
    value = value.splitlines()[0]
    twice = f"{'  ' * len(above)}{key}: {value}"
    recipe.write_text("\n".join([*lines, twice, "", twice]) + "\n")
    with pytest.raises(ConfigError) as error:
        load([str(recipe), "--data.root", "x"])
    message = f"{option} occurs twice, in lines {len(lines) + 1} and {len(lines) + 3}"
    assert str(error.value) == f"{recipe}: {message}"


@pytest.mark.parametrize("section", DEFAULTS)
def test_a_section_that_is_empty_changes_nothing_and_any_other_thing_is_refused(section, recipe):
    first, second = recipe.with_name("first.yaml"), recipe.with_name("second.yaml")
    first.write_text("data: {root: x, resize: 64, crop: 56}\noptim: {lr: 0.5}\ntrain: {seed: 7}\n")
    second.write_text(f"{section}:\n  # all of it is commented out\n")
    for files in ([first, second], [second, first]):
        words = [str(files[0]), "--config", str(files[1])]
        config = load([*words, "--run.dir", "y", "--data.num_threads", "3"])
        assert to_dict(config) == to_dict(load([str(first), "--run.dir", "y"])) | {
            "data": DEFAULTS["data"] | {"root": "x", "resize": 64, "crop": 56, "num_threads": 3}
        }
    for value in ("x", "[]", "3", "false", "[{lr: 1}]", "''"):
        second.write_text(f"{section}: {value}\n")
        assert refused([str(first), "--config", str(second)], section, str(second)) is None
    second.write_text(f"{section}: {{}}\n\n{section}: {{}}\n")
    with pytest.raises(ConfigError, match=rf"second\.yaml: {section} occurs twice, in lines 1 and"):
        load([str(first), "--config", str(second)])


@pytest.mark.parametrize("option", OPTIONS)
def test_values_of_every_kind_are_meant_or_refused(option, recipe):
    default = read(Config(), option)
    for value in ODD:
        recipe.write_text(yaml.safe_dump(nested(option, value)))
        config = refused([str(recipe)], option, str(recipe))
        assert config is None or is_meant(value, read(config, option), default), (value, config)
        if not isinstance(value, str | list | dict):
            words = [f"--{option}", str(value).lower() if isinstance(value, bool) else str(value)]
            recipe.write_text("data: {root: x}")
            config = refused([str(recipe), *words], option, "the command line")
            found = None if config is None else read(config, option)
            meant = found == words[1] or is_meant(value, found, default)
            assert config is None or meant, (value, config)


@given(option=st.sampled_from(OPTIONS), value=PLAIN)
@example(option="optim.lr_at", value=[[3, 0.1], [3, 0.2]])
def test_a_run_s_own_config_is_meant_or_refused_too(option, value):
    try:
        found = read(from_dict(nested(option, value)), option)
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert is_meant(value, found, read(Config(), option)) or value is None


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("optim.milestones", [25, 51, 25], "optim.milestones has epoch 25 twice"),
        ("optim.lr_at", [[3, 0.1], [3, 0.2]], "optim.lr_at has epoch 3 twice"),
        ("optim.lr_factors", {"fc8": [[0, 1], [0, 2]]}, "optim.lr_factors: fc8 has epoch 0 twice"),
        ("train.epochs", "010", "train.epochs in {file} is '010'; expected a whole number from 1"),
        ("model.activation", "Relu", "in {file} is 'Relu'; expected relu or tanh"),
        ("model.init_std", [0.1, 0.1], "expected options by name, such as {{default: 0.01}}"),
    ],
)
def test_an_error_says_what_is_expected(option, value, message, recipe):
    recipe.write_text(yaml.safe_dump(nested(option, value)))
    with pytest.raises(ConfigError) as error:
        load([str(recipe), "--data.root", "x"])
    assert message.format(file=recipe) in str(error.value)


def test_a_number_means_the_same_in_a_file_and_on_the_command_line(recipe):
    for text, seed in (("10", 10), ("+7", 7), ("0", 0)):
        recipe.write_text(f"train: {{seed: {text}}}\n")
        assert load([str(recipe), "--data.root", "x"]).train.seed == seed
        assert load([str(recipe), "--data.root", "x", f"--train.seed={text}"]).train.seed == seed
    for text, lr in (("1e-3", 1e-3), (".5", 0.5), ("2.", 2.0), ("3", 3.0), ("1.5E+2", 150.0)):
        recipe.write_text(f"optim: {{lr: {text}}}\n")
        assert load([str(recipe), "--data.root", "x"]).optim.lr == lr
        assert load([str(recipe), "--data.root", "x", "--optim.lr", text]).optim.lr == lr


@pytest.mark.parametrize(
    "content, message",
    [
        ("train: {epochs: 3}".encode("utf-16"), "not in UTF-8"),
        ("run: {dir: Prüfung}".encode("latin-1"), "not in UTF-8"),
        (b"", "is empty; expected sections"),
        (b"# train: {epochs: 3}\n", "is empty; expected sections"),
        (b"train:\n\tepochs: 3\n", r"'\\t' .* in line 2"),
        (b"train: {epochs: 3}\n---\ntrain: {epochs: 4}\n", "not YAML"),
        (b"train: {epochs: 3}\0", "not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"- train\n", r"the config in .* is \['train'\]"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(content, message, recipe):
    recipe.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        load([str(recipe), "--data.root", "x"])
    assert str(recipe) in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_and_windows_line_ends_are_no_error(recipe):
    recipe.write_bytes("train:\r\n  epochs: 3\r\n".encode("utf-8-sig"))
    assert load([str(recipe), "--data.root", "x"]).train.epochs == 3


def test_a_folder_is_the_text_that_it_is_and_a_tilde_is_the_home_folder(recipe, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    recipe.write_text("data: {root: ~/prepared}\nrun: {dir: '~/runs/x'}")
    config = load([str(recipe), "--train.init_from=~/old"])
    found = config.data.root, config.run.dir, config.train.init_from
    assert found == tuple(f"/home/somebody/{name}" for name in ("prepared", "runs/x", "old"))
    for folder in (".", "..", "-x", "+", ".e5", "1e", "2012-09-30", "2012"):
        recipe.write_text(f"data: {{root: x}}\nrun:\n  dir: {folder}")
        assert load([str(recipe)]).run.dir == folder
        assert load([str(recipe), f"--run.dir={folder}"]).run.dir == folder
    assert refused([str(recipe), "--run.dir=~no-such-user/x"], "run.dir", "command line") is None


def test_a_flag_needs_no_value_and_anything_else_does(recipe):
    recipe.write_text("data: {root: x}")
    assert load([str(recipe), "--run.dry_run"]).run.dry_run
    assert load([str(recipe), "--run.dry_run", "--optim.lr", "1"]).optim.lr == 1
    for words in (["--config", "null"], ["--config="]):
        with pytest.raises(ConfigError, match="can't be read"):
            load([str(recipe), *words])
    for words in (["--optim.lr"], ["--run.dir", "--run.dry_run"]):
        assert refused([str(recipe), *words], words[0][2:], "has no value; expected a ") is None


def test_a_name_with_dots_in_a_file_says_how_to_write_it(recipe):
    recipe.write_text("data.resize: 64\n")
    with pytest.raises(
        ConfigError, match=r"data\.resize in .* expected .* \{data: \{resize: 64\}\}$"
    ):
        load([str(recipe)])


def test_a_folder_without_a_possible_name_is_named(recipe):
    recipe.write_text('run: {dir: "a\\0b"}\n')
    with pytest.raises(ConfigError, match=r"run\.dir in .*expected a path"):
        load([str(recipe)])
