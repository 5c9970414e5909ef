"""All ranks must start alike: the same options, the same step, the same data."""

from typing import Any

from train.config import Config, ConfigError, to_dict
from train.distributed import Ranks

_MACHINES_OWN = ("data.root", "data.num_threads", "run.dir", "run.device")
"""Options that may differ from one machine to the next."""


def check_options(config: Config, ranks: Ranks) -> None:
    """ConfigError unless every rank was started with the same options."""
    own = _options(config)
    for rank, other in enumerate(ranks.gather(own)):
        unlike = [f"{key}: {own[key]} and {other[key]}" for key in own if own[key] != other[key]]
        if unlike:
            raise ConfigError(
                f"ranks {ranks.rank} and {rank} were started with different options: "
                f"{'; '.join(unlike)}; give the same command on every machine"
            )


def check_beginning(step: int, fingerprint: str, ranks: Ranks) -> None:
    """ConfigError unless every rank begins at the same step of the same data."""
    found = ranks.gather((step, fingerprint))
    if len(set(found)) > 1:
        raise ConfigError(
            f"the ranks do not begin at the same step of the same data: found {found}; "
            "run.dir and data.root must be the same folders on every machine"
        )


def _options(config: Config) -> dict[str, Any]:
    sections = to_dict(config).items()
    options = {
        f"{name}.{key}": value for name, section in sections for key, value in section.items()
    }
    return {key: value for key, value in options.items() if key not in _MACHINES_OWN}
