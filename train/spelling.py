"""Which option was meant by a key that no option has."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml


def did_you_mean(argv: Sequence[str], files: Sequence[str], config: Any) -> str:
    """A line for each unknown key on the command line or in `files`, or "" where there is none.

    `config` is a config of dataclasses, whose fields are the options.
    """
    known = dict(_options(config))
    on_line = [word.removeprefix("--").split("=")[0] for word in argv if word.startswith("--")]
    lines = [_hint(key, "on the command line", known) for key in on_line]
    for file in files:
        lines += [_hint(key, f"in {file}", known) for key in _keys(_read(file), known)]
    return "".join(line + "\n" for line in dict.fromkeys(lines) if line)


def _options(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each option by its dotted name: sections, too, with their value."""
    for field in fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        yield name, value
        if is_dataclass(value):
            yield from _options(value, name + ".")


def _keys(plain: Any, known: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys of a config file, as far as they name options and not what an option holds."""
    for key, value in plain.items() if isinstance(plain, dict) else ():
        name = f"{prefix}{key}"
        yield name
        if name not in known or is_dataclass(known[name]):
            yield from _keys(value, known, name + ".") if name in known else ()


def _hint(key: str, where: str, known: Collection[str]) -> str:
    """What to write in place of `key`; "" where it is known."""
    if key in known or key in ("config", "help"):
        return ""
    meant = _near(key, known)
    return f"{key} {where}: did you mean {meant}?" if meant else f"{key} {where}: no such option"


def _near(key: str, known: Collection[str]) -> str:
    """The option that is most like `key`, or ""; `lr` and `train.lr` mean optim.lr."""
    section, _, last = key.rpartition(".")
    beside = {name: name.rpartition(".") for name in known}
    own = {part: name for name, (other, _, part) in beside.items() if other == section}
    namesakes = [name for name, (_, _, part) in beside.items() if part == last]
    if close := difflib.get_close_matches(last, own, n=1, cutoff=0.7):
        return own[close[0]]
    if len(namesakes) == 1:
        return namesakes[0]
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.9)), "")


def _read(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except Exception:  # yaml raises many kinds for damaged texts; the parser has said so
        return None
