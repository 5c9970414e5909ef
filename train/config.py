"""The run's configuration: typed sections, from a YAML file and command-line overrides."""

import json
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeFloat, NonNegativeInt, PositiveInt

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.config import check as check_model
from alexnet_dali.train.optim import OptimConfig
from alexnet_dali.train.spelling import did_you_mean

_COMPARED = {"optim.lr", "optim.schedule", "train.batch_size", "train.seed"}
_PLACES = {"data.root", "data.num_threads"}

USAGE = "alexnet train CONFIG.yaml [--section.field value ...]"


class ConfigError(ValueError):
    """A configuration that can't be run, and what to change."""


@dataclass(frozen=True)
class DataConfig:
    """Which images, and what the network sees of them.

    Args:
        root: prepared folder, as `alexnet prep` writes it.
        resize: pixels that the shorter side is resized to; the central square of this side is used
            (section 2).
        crop: side of the random crops taken from that square (section 4.1).
        augment: random crops, mirrored half of the time; without, the central crop as it is
            (section 4.1).
        lighting_std: standard deviation of the noise along each principal component of colour
            (section 4.1).
        lighting_epochs: epochs after which that noise stops (2012 code: 67); null means never.
        lighting_rescale: divide images with noise by 1 + lighting_std, less mean, as the noise
            widens them (2012 code).
        decoder: what decodes on a machine with a GPU; the CPU gives the same pixels as on every
            other machine.
        num_threads: threads that decode for each rank; null shares out the cores, 16 at most for
            each GPU.
        max_bad_fraction: the share of the training images that may have gone bad in an epoch, or
            one image; others of their class replace them. With more, the run stops; with 0, at the
            first.
    """

    root: str | None = None
    resize: PositiveInt = 256
    crop: PositiveInt = 224
    augment: bool = True
    lighting_std: NonNegativeFloat = 0.1
    lighting_epochs: NonNegativeInt | None = None
    lighting_rescale: bool = False
    decoder: Literal["gpu", "cpu"] = "gpu"
    num_threads: PositiveInt | None = None
    max_bad_fraction: NonNegativeFloat = 0.01


@dataclass(frozen=True)
class TrainConfig:
    """How long, and in what batches.

    Args:
        batch_size: images in a step, over all ranks together.
        precision: numbers of the forward and backward pass: fp32, tf32 (on GPUs that have it) or
            bf16.
        compile: fuse the response norm with torch.compile; uses a C++ compiler, and half a minute
            the first time.
        cuda_graph: replay steps as a CUDA graph, which takes less of the host, and more of the
            GPU's memory. GPUs only. Not measured yet.
        epochs: passes over the training images, at most.
        seed: decides the weights, the order of the images, every augmentation and every dropout
            mask.
        init_from: a checkpoint whose layers are taken where they fit; the others start afresh.
    """

    batch_size: PositiveInt = 128
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = True
    cuda_graph: bool = False
    epochs: PositiveInt = 90
    seed: NonNegativeInt = 0
    init_from: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """Where the run lives and how it is watched; nothing here changes a number that it computes.

    Args:
        dir: folder of the run; null means runs/<names of the config files, joined by ->.
        device: cpu, cuda, or auto: cuda where there is a GPU for each rank of this machine.
        max_steps: stop after this many steps in all; the same command without it goes on.
        log_seconds: about how many seconds pass between two progress lines; one also ends each
            epoch. 0 means after every step.
        checkpoint_minutes: minutes between two checkpoints; one is also written after each epoch. 0
            means after every step.
        keep_checkpoints: how many of the newest checkpoints are kept.
        watchdog_seconds: after so long without progress on any rank, the watchdog names the stuck
            rank, and after three times that it ends the run; ten times as long at the start and
            while saving. 0 means never.
        profile: record this many steps, after the first five, into trace-rank<N>.json in the run's
            folder; a run that ends before them writes none.
        pictures: show the batch, the first kernels and some predictions in TensorBoard, after the
            first step and each epoch.
        dry_run: print what the run takes, from ten timed steps, and end; nothing is written.
    """

    dir: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    max_steps: PositiveInt | None = None
    log_seconds: NonNegativeFloat = 5.0
    checkpoint_minutes: NonNegativeFloat = 10.0
    keep_checkpoints: PositiveInt = 2
    watchdog_seconds: NonNegativeFloat = 60.0
    profile: NonNegativeInt = 0
    pictures: bool = True
    dry_run: bool = False


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)


def load(argv: list[str]) -> Config:
    """The config from `FILE.yaml [--section.field value ...]`.

    ConfigError where it can't be understood or run.
    """
    parser = _parser()
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    argv = [_installed(word) for word in argv]
    argv = [
        "--run.dry_run=true" if word == "--run.dry_run" and not following[:1].isalpha() else word
        for word, following in pairwise([*argv, ""])
    ]
    try:
        values = parser.parse_args(argv)
        config = _config(values)
    except Exception as error:  # jsonargparse and yaml raise many kinds for damaged texts
        by_layer = "init_std" in str(error) or "init_bias" in str(error)
        hint = "give numbers by layer, such as {default: 0.01, conv3: 0.03}\n" if by_layer else ""
        hint += did_you_mean(str(error), _files(argv), to_dict(Config()))
        raise ConfigError(
            f"{error}\n{hint}usage: {USAGE}\nEvery section and field: alexnet train --help"
        ) from error
    if not values.config:
        raise ConfigError(
            f"no config file given; expected one such as configs/alexnet.yaml\nusage: {USAGE}"
        )
    _check(config)
    if config.run.dir is None:
        name = "-".join(Path(str(path)).stem for path in values.config)
        config = replace(config, run=replace(config.run, dir=f"runs/{name}"))
    return config


def _installed(word: str) -> str:
    """The path of one of the project's recipes, `configs/NAME.yaml`, from any folder."""
    ours = Path(__file__).resolve().parents[1] / word
    is_recipe = word.startswith("configs/") and not Path(word).exists() and ours.is_file()
    return str(ours) if is_recipe else word


@lru_cache(maxsize=1)
def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="alexnet train", usage=USAGE, exit_on_error=False)
    parser.add_argument(
        "--config", action="config", help="the recipe; the first argument does without the --config"
    )
    for section, kind in Config.__annotations__.items():
        parser.add_argument(f"--{section}", type=kind, default=kind())
    return parser


def _config(values: Any) -> Config:
    """The sections among parsed values; TypeError where one of them is none."""
    found = _parser().instantiate(values)
    for section, kind in Config.__annotations__.items():
        if not isinstance(found[section], kind):
            raise TypeError(f"{section} is {found[section]!r}; expected its fields")
    return Config(**{section: found[section] for section in Config.__annotations__})


def _files(argv: list[str]) -> list[str]:
    """The config files that the arguments name."""
    after = [name for option, name in pairwise(argv) if option == "--config"]
    return after + [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]


def to_dict(config: Config) -> dict[str, Any]:
    """The config in plain dicts, lists and numbers, as YAML and checkpoints keep it."""
    return json.loads(json.dumps(asdict(config)))


def hyperparameters(config: Config) -> dict[str, str | float]:
    """Options by their dotted names: those that are usually compared, and all that are no default.

    They decide what a run computes; where it lives is left out.
    """
    default = options(Config())
    return {
        name: value if type(value) in (int, float) else str(value)
        for name, value in options(config).items()
        if not name.startswith("run.") and name not in _PLACES
        if name in _COMPARED or value != default[name]
    }


def from_dict(plain: dict[str, Any]) -> Config:
    """The inverse of `to_dict`; what `plain` does not name has its default.

    ConfigError where it is none.
    """
    try:
        config = _config(_parser().parse_object(plain))
        check_model(config.model)
    except Exception as error:  # jsonargparse raises many kinds for values of other kinds
        raise ConfigError(f"not the config of a run ({error})") from error
    return config


def to_yaml(config: Config) -> str:
    """The resolved config, in a form that `load` reads."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def options(config: Config) -> dict[str, Any]:
    """Each option's value, in plain terms, by its name: `section.field`."""
    sections = to_dict(config).items()
    return {f"{section}.{key}": value for section, own in sections for key, value in own.items()}


def _check(config: Config) -> None:
    check_model(config.model)
    data, seed = config.data, config.train.seed
    if data.root is None:
        raise ConfigError(
            "data.root is not set; expected --data.root FOLDER, as `alexnet prep` makes it"
        )
    if data.resize > 4096 or data.crop > data.resize:
        raise ConfigError(
            f"data.resize is {data.resize} and data.crop {data.crop}; expected at most 4096 "
            "pixels, and a crop of at most data.resize"
        )
    if seed >= 2**63:
        raise ConfigError(f"train.seed is {seed}; expected less than 2^63")
