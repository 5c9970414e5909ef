"""All ranks must start alike: the same options, the same step, the same data."""

from typing import Any

from alexnet_dali.train.config import Config, ConfigError, to_dict
from alexnet_dali.train.parallel.ranks import Ranks

_MACHINES_OWN = ("data.root", "data.num_threads", "run.dir", "run.device")
"""Options that may differ from one machine to the next."""


def check_options(config: Config, ranks: Ranks) -> None:
    """ConfigError unless every rank was started with the same options."""
    own = _options(config)
    for rank, other in enumerate(ranks.all_gather_object(own)):
        unlike = [f"{key}: {own[key]} and {other[key]}" for key in own if own[key] != other[key]]
        if unlike:
            raise ConfigError(
                f"ranks {ranks.rank} and {rank} were started with different options: "
                f"{'; '.join(unlike)}; give the same command on every machine"
            )


def check_folder(refused: str, newest: str, fingerprint: str, ranks: Ranks) -> None:
    """Before anything is loaded: ConfigError unless the main rank has the run's folder.

    `refused` is why it has not, or empty. All must see the same `newest` checkpoint and data.
    """
    found = ranks.all_gather_object((refused, newest, fingerprint))
    if found[0][0]:
        raise ConfigError(found[0][0])
    _check_same([f"{where or 'no checkpoint'} and data {data[:8]}" for _, where, data in found])


def check_beginning(step: int, ranks: Ranks) -> None:
    """ConfigError unless every rank begins at the same step."""
    _check_same([f"step {found}" for found in ranks.all_gather_object(step)])


def _check_same(found: list[str]) -> None:
    if len(set(found)) > 1:
        listed = "; ".join(f"rank {rank}: {one}" for rank, one in enumerate(found))
        raise ConfigError(
            f"the ranks do not begin at the same step of the same data: found {listed}; "
            "run.dir and data.root must be the same folders on every machine"
        )


def _options(config: Config) -> dict[str, Any]:
    sections = to_dict(config).items()
    options = {
        f"{name}.{key}": value for name, section in sections for key, value in section.items()
    }
    return {key: value for key, value in options.items() if key not in _MACHINES_OWN}
