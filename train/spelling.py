"""Which option was meant by a key that no option has."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import yaml


def did_you_mean(argv: Sequence[str], files: Sequence[str], options: Mapping[str, Any]) -> str:
    """A line for each unknown key on the command line or in `files`, or "" where there is none.

    `options` are values by section, by option and, for some options, by layer.
    """
    known = {*_keys(options, options), "config"}
    given = [("on the command line", _nested(word)) for word in argv if word.startswith("--")]
    given += [(f"in {file}", _read(file)) for file in files]
    unknown = [(key, where) for where, plain in given for key in _keys(plain, options)]
    lines = [f"{key} {where}: {_hint(key, known)}\n" for key, where in unknown if key not in known]
    return "".join(dict.fromkeys(lines))


def _keys(plain: Any, options: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """The keys in dotted form, down to those that are an option's own."""
    for key, value in plain.items() if isinstance(plain, Mapping) else ():
        yield f"{above}{key}"
        if isinstance(options.get(key), Mapping) and options[key]:
            yield from _keys(value, options[key], f"{above}{key}.")


def _hint(key: str, known: Iterable[str]) -> str:
    """The option most like `key`, if one is; `train.lr` means optim.lr. Never another layer's."""
    digits = re.findall(r"\d", key)

    def likeness(name: str) -> float:
        if name.count(".") != key.count(".") or (digits and digits != re.findall(r"\d", name)):
            return 0
        parts = zip(key.split("."), name.split("."), strict=True)
        return min(SequenceMatcher(None, *pair).ratio() for pair in parts)

    nearest = max(known, key=likeness)
    if likeness(nearest) >= 0.7:
        return f"did you mean {nearest}?"
    namesakes = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    return f"did you mean {namesakes[0]}?" if len(namesakes) == 1 else "no such option"


def _nested(word: str) -> Any:
    """`--section.field=value` as a config file has it, without the value."""
    plain: Any = None
    for key in reversed(word.removeprefix("--").split("=")[0].split(".")):
        plain = {key: plain}
    return plain


def _read(path: str) -> Any:
    try:
        return yaml.safe_load(Path(path).read_text())
    except Exception:  # yaml raises many kinds for damaged texts; the parser has said so
        return None
