"""The run's configuration: typed sections, from a YAML file and command-line overrides."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from alexnet_dali.model.config import ModelConfig
from alexnet_dali.model.config import check as check_model
from alexnet_dali.model.option_types import NonNegativeFloat, NonNegativeInt, PathName, PositiveInt
from alexnet_dali.train.optim import OptimConfig
from alexnet_dali.train.optim import check as check_optim
from alexnet_dali.train.options import ConfigError, from_command_line, from_file, updated

_COMPARED = {"optim.lr", "optim.schedule", "train.batch_size", "train.seed"}
_PLACES = {"data.root", "data.num_threads"}

USAGE = "alexnet train CONFIG.yaml [--section.field value ...]"


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

    root: PathName | None = None
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
            bf16; or fp64 for all numbers, slowly: the losses then do not depend on how many ranks
            there are, but for the last digits.
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
    precision: Literal["fp32", "tf32", "bf16", "fp64"] = "fp32"
    compile: bool = True
    cuda_graph: bool = False
    epochs: PositiveInt = 90
    seed: NonNegativeInt = 0
    init_from: PathName | None = None


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

    dir: PathName | None = None
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
    if argv and not argv[0].startswith("-"):
        argv = ["--config", *argv]
    config, files, line = Config(), list[str](), list[str]()
    for name, value in from_command_line(argv, config, USAGE):
        if name == "config":
            file = _installed(value)
            config = updated(config, from_file(file), f"in {file}")
            files.append(file)
        else:
            for key in reversed(name.split(".")):
                value = {key: value}
            config = updated(config, value, "on the command line")
            line = ["the command line"]
    if not files:
        raise ConfigError(
            f"no config file given; expected one such as configs/alexnet.yaml\nusage: {USAGE}"
        )
    try:
        _check(config)
    except ValueError as error:
        raise ConfigError(f"{' and '.join([*files, *line])}: {error}") from error
    if config.run.dir is None:
        name = "-".join(Path(file).stem for file in files)
        config = replace(config, run=replace(config.run, dir=f"runs/{name}"))
    return config


def _installed(word: str) -> str:
    """The path of one of the project's recipes, `configs/NAME.yaml`, from any folder."""
    ours = Path(__file__).resolve().parents[1] / word
    is_recipe = word.startswith("configs/") and not Path(word).exists() and ours.is_file()
    return str(ours) if is_recipe else word


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
        config = updated(Config(), plain, "in it")
        check_model(config.model)
    except ValueError as error:
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
    check_optim(config.optim)
    data = config.data
    if data.root is None:
        raise ConfigError(
            "data.root is not set; expected --data.root FOLDER, as `alexnet prep` makes it"
        )
    if data.resize > 4096 or data.crop > data.resize:
        raise ConfigError(
            f"data.resize is {data.resize} and data.crop {data.crop}; expected at most 4096 "
            "pixels, and a crop of at most data.resize"
        )
