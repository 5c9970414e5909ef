from pathlib import Path

import pytest
import yaml

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.layers import layers
from alexnet_dali.train.config import (
    Config,
    ConfigError,
    DataConfig,
    TrainConfig,
    differing_keys,
    from_dict,
    load,
    to_dict,
    to_yaml,
)
from alexnet_dali.train.optim import OptimConfig

CONFIGS = Path(__file__).parents[2] / "configs"


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
        (["--data.mean", "median"], "data.mean"),
        (["--data.crop", "300"], "at most data.resize"),
        (["--model.init_std", "[0.01, 0.01]"], "numbers by layer"),
    ],
)
def test_an_invalid_option_is_named(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load([str(CONFIGS / "alexnet.yaml"), "--data.root", "x", *arguments])


def test_unknown_keys_and_broken_or_missing_files_are_named(tmp_path):
    for text, message in [
        ("optim: {rate: 1}", "rate"),
        ("optimizer: {lr: 1}", "optimizer"),
        ("data: [1", "config"),
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


def test_only_differences_that_change_results_are_listed():
    old = load([str(CONFIGS / "small.yaml"), "--data.root", "x"])
    assert differing_keys(old, to_dict(old)) == []
    new = load(
        [
            str(CONFIGS / "small.yaml"),
            "--data.root",
            "x",
            "--run.log_seconds",
            "3",
            "--data.num_threads",
            "3",
        ]
    )
    assert differing_keys(new, to_dict(old)) == []
    new = load([str(CONFIGS / "small.yaml"), "--data.root", "y", "--optim.lr", "0.5"])
    assert differing_keys(new, to_dict(old)) == ["optim.lr: 0.01 -> 0.5"]


def test_a_variant_changes_only_what_it_names():
    variants = {path.stem: path for path in (CONFIGS / "variants").glob("*.yaml")}
    assert len(variants) == 14
    recipes = {path.stem: path for path in CONFIGS.glob("*.yaml")}
    for name, path in variants.items():
        base = recipes["alexnet"]
        config = load([str(base), "--config", str(path), "--data.root", "x"])
        assert config.run.dir == f"runs/{base.stem}-{name}"
        named = {
            f"{section}.{key}"
            for section, values in yaml.safe_load(path.read_text()).items()
            for key in values
        }
        if "model.half_kernels" in named:  # listed as the numbers of kernels that it gives
            named = named - {"model.half_kernels"} | {"model.kernels"}
        changed = differing_keys(config, to_dict(load([str(base), "--data.root", "x"])))
        may_be_the_same = {"model.within_channel_norm"}
        assert {line.split(":")[0] for line in changed} - named == set(), name
        assert named - may_be_the_same <= {line.split(":")[0] for line in changed}, name


def test_a_key_missing_from_an_old_config_has_its_default():
    config = load([str(CONFIGS / "small.yaml"), "--data.root", "x"])
    old = to_dict(config)
    del old["model"]["columns"]
    assert differing_keys(config, old) == []
    other = load([str(CONFIGS / "small.yaml"), "--data.root", "x", "--model.columns", "1"])
    assert differing_keys(other, old) == ["model.columns: 2 -> 1"]


def test_defaults_need_no_file():
    assert from_dict(to_dict(Config())).train == TrainConfig()


def test_a_config_of_version_0_1_is_understood():
    """Version 0.1 had a list with a number for each layer.

    A sixth number of kernels stood for a sixth convolution.
    """
    small, variants = str(CONFIGS / "small.yaml"), CONFIGS / "variants"
    sixth, half = (str(variants / f"{name}.yaml") for name in ("sixth-convolution", "half-column"))
    for more, kernels, std, bias in [
        ([], [48, 128, 192, 192, 128], [0.02, 0.02, 0.03, 0.03, 0.03], [0, 1, 0, 1, 1]),
        (
            ["--config", sixth],
            [48, 128, 192, 192, 128, 128],
            [0.02, 0.02, 0.03, 0.03, 0.03, 0.03],
            [0, 1, 0, 1, 1, 1],
        ),
        (
            ["--config", half],
            [24, 64, 96, 96, 128],
            [0.02, 0.02, 0.03, 0.03, 0.03],
            [0, 1, 0, 1, 1],
        ),
    ]:
        config = load([small, *more, "--data.root", "x"])
        old = to_dict(config)
        del old["model"]["sixth_convolution"], old["model"]["half_kernels"]
        old["model"] |= {
            "kernels": kernels,
            "init_std": [*std, *[0.04] * 3],
            "init_bias": [*bias, 1, 1, 0],
        }
        old["model"]["cross_talk"] = ["conv3", "conv6"] if len(kernels) == 6 else ["conv3"]
        assert differing_keys(config, old) == []
        assert layers(from_dict(old).model, 10) == layers(config.model, 10)
        if len(kernels) == 6:
            unlike = old | {"model": old["model"] | {"kernels": [*kernels[:5], 10]}}
            with pytest.raises(ValueError, match=r"use version 0\.1 for this network"):
                from_dict(unlike)
        old["model"]["init_std"][2] = 0.5
        assert [line.split(":")[0] for line in differing_keys(config, old)] == ["model.init_std"]
