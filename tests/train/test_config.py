import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.train.checkpoints.run_folder import changed_options
from alexnet_dali.train.config import (
    Config,
    ConfigError,
    DataConfig,
    TrainConfig,
    from_dict,
    load,
    to_dict,
    to_yaml,
)
from alexnet_dali.train.optim import OptimConfig

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = sorted((CONFIGS / "variants").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    config = load([str(path), "--data.root", "x"])
    assert config.run.dir == f"runs/{path.stem}"
    assert from_dict(yaml.safe_load(to_yaml(config))) == from_dict(to_dict(config))


def test_the_defaults_are_the_papers_recipe():
    config = load([str(CONFIGS / "alexnet.yaml"), "--data.root", "x"])
    assert (
        config.model == ModelConfig()
        and config.optim == OptimConfig()
        and config.train == TrainConfig()
    )
    assert config.data == DataConfig(root="x")


def test_the_command_line_overrides_the_file():
    config = load(
        [
            str(CONFIGS / "alexnet.yaml"),
            "--data.root",
            "x",
            "--optim.lr",
            "0.02",
            "--run.dir=elsewhere",
        ]
    )
    assert config.optim.lr == 0.02 and config.run.dir == "elsewhere"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--optim.rate", "1"], "optim.rate"),
        (["--train.batch_size", "many"], "train.batch_size"),
        (["--train.batch_size", "-1"], "train.batch_size"),
        (["--data.decoder", "tpu"], "data.decoder"),
        (["--data.crop", "300"], "at most data.resize"),
        (["--model.init_std", "[0.01, 0.01]"], "by name, such as {default: 0.01}"),
    ],
)
def test_an_invalid_option_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load([str(CONFIGS / "alexnet.yaml"), "--data.root", "x", *arguments])


def test_unknown_keys_and_broken_or_missing_files_are_named(tmp_path):
    for text, message in [
        ("optim: {rate: 1}", "rate"),
        ("optimizer: {lr: 1}", "optimizer"),
        ("data: [1", r"bad\.yaml: not YAML .* in line 1"),
    ]:
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=message):
            load([str(tmp_path / "bad.yaml"), "--data.root", "x"])
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        load([str(tmp_path / "none.yaml")])
    with pytest.raises(ConfigError, match="no config file"):
        load([])
    with pytest.raises(ConfigError, match=r"data\.root is not set"):
        load([str(CONFIGS / "alexnet.yaml")])


@pytest.mark.parametrize("section", dataclasses.fields(Config), ids=lambda section: section.name)
def test_every_option_earns_its_place_by_a_sentence_in_help(section):
    kind = section.default_factory
    explained = re.findall(r"^ {4}(\w+): \S+ \S+", inspect.getdoc(kind), re.MULTILINE)
    assert explained == [field.name for field in dataclasses.fields(kind)]


def test_only_differences_that_change_results_are_listed():
    def small(*more):
        return load([str(CONFIGS / "small.yaml"), "--data.root", "x", *more])

    assert changed_options(small(), small()) == []
    free = ["--run.log_seconds", "3", "--data.num_threads", "3", "--data.root", "y"]
    assert changed_options(small(), small(*free, "--data.max_bad_fraction", "0.5")) == []
    (change,) = changed_options(small(), small(*free, "--optim.lr", "0.5"))
    assert str(change) == "optim.lr: 0.01 -> 0.5"
    (change,) = changed_options(Config(), from_dict({"model": {"init_std": {"conv3": 0.5}}}))
    values = "{'default': 0.01} -> {'default': 0.01, 'conv3': 0.5}"
    assert str(change) == f"model.init_std: {values}"


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_variant_changes_only_what_it_names(path):
    base = [str(CONFIGS / "alexnet.yaml"), "--data.root", "x"]
    config = load([*base, "--config", str(path)])
    assert config.run.dir == f"runs/alexnet-{path.stem}"
    sections = yaml.safe_load(path.read_text()).items()
    named = {f"{section}.{key}" for section, values in sections for key in values}
    changed = {change.option for change in changed_options(load(base), config)}
    assert changed and changed <= named <= changed | {"model.within_channel_norm"}


def test_a_key_missing_from_a_config_has_its_default():
    config = load([str(CONFIGS / "small.yaml"), "--data.root", "x"])
    plain = to_dict(config)
    del plain["model"]["columns"]
    assert from_dict(plain) == from_dict(to_dict(config))


def test_defaults_need_no_file():
    assert from_dict(to_dict(Config())).train == TrainConfig()
