"""Which option was meant by a key that no option has."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

_UNKNOWN = (
    r"unrecognized arguments: --([^\s=]+)|Group '(.+)' does not accept option '(.+)'|"
    r"Option '(.+)' is not accepted"
)
"""How jsonargparse names a key that it does not know."""


def did_you_mean(error: str, files: Sequence[str], options: Mapping[str, Any]) -> str:
    """Where the unknown key is that jsonargparse's `error` names, and what to write in its place.

    Empty where it names none. `files` are the config files; `options` is a config of plain dicts.
    """
    found = re.search(_UNKNOWN, error)
    if not found:
        return ""
    key = ".".join(part for part in found.groups() if part)
    where = next((f"in {file}" for file in files if key in _read(file)), "on the command line")
    meant = _nearest(key, list(_keys(options)))
    return f"{key} {where}: " + (f"did you mean {meant}?\n" if meant else "no such option\n")


def _nearest(key: str, known: Iterable[str]) -> str:
    """The option most like `key`, or ""; `train.lr` means optim.lr. Never another layer's."""
    digits = re.findall(r"\d", key)
    alike = [name for name in known if not digits or digits == re.findall(r"\d", name)]
    namesakes = [name for name in alike if name.rpartition(".")[2] == key.rpartition(".")[2]]
    near = namesakes if len(namesakes) == 1 else get_close_matches(key, alike, n=1, cutoff=0.9)
    return near[0] if near else ""


def _read(file: str) -> list[str]:
    with suppress(Exception):  # yaml raises many kinds for damaged texts, which are no concern here
        return list(_keys(yaml.safe_load(Path(file).read_text())))
    return []


def _keys(plain: Any, above: str = "") -> Iterator[str]:
    is_group = isinstance(plain, Mapping) and above.count(".") < 3  # no option is deeper
    for key, value in plain.items() if is_group else ():
        yield f"{above}{key}"
        yield from _keys(value, f"{above}{key}.")
