"""Options as recipes and command lines give them, read by the types of a config's fields."""

import inspect
import math
import os
import re
import reprlib
import sys
from argparse import ArgumentParser
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from alexnet_dali.model.option_types import PathName

T = TypeVar("T")
_ON_LINE = "on the command line"

_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text (between quotes, where it reads as something else)",
    type(None): "null",
}


class ConfigError(ValueError):
    """A configuration that can't be run, and what to change."""


class _Mismatch(ValueError):
    """A value of another type."""


_FORMS = {
    "bool": "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
    "merge": "<<",
    "null": "null|Null|NULL|",
    "int": "[-+]?(0|[1-9][0-9]*)",
    "float": r"(?=[-+.]*[0-9])[-+]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][-+]?[0-9]+)?",
}


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are what they look like: 010, 1:30, 1_000 and .inf are texts.

    `~`, which is the home folder here, is a text, too.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        None: [
            (f"tag:yaml.org,2002:{tag}", re.compile(f"({form})$")) for tag, form in _FORMS.items()
        ]
    }


def _check_keys(node: yaml.Node | None, above: str = "") -> None:
    """ConfigError where a key occurs twice; no option is deeper than the third level."""
    lines: dict[str, int] = {}
    is_group = isinstance(node, yaml.MappingNode) and above.count(".") < 3
    for key, value in node.value if node and is_group else ():
        name, line = f"{above}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise ConfigError(f"{name} occurs twice, in lines {lines[name]} and {line}")
        lines[name] = line
        _check_keys(value, f"{name}.")


def from_file(path: str) -> Any:
    """What a recipe says, in plain terms; ConfigError, which names it, where it can't be read."""
    try:
        found = _parse(Path(os.path.expanduser(path)).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read ({error.strerror}); expected a recipe such as "
            "configs/alexnet.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not in UTF-8 ({error.reason}); save it as that") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if found is None:
        raise ConfigError(f"{path} is empty; expected sections such as train: {{epochs: 90}}")
    return found


def _parse(text: str) -> Any:
    """A text of YAML; ValueError of one line where it is none."""
    try:
        node, found = yaml.compose(text, _Loader), yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = " ".join(filter(None, (error.context, error.problem)))
        raise ValueError(f"not YAML ({what}{where})") from error
    except Exception as error:  # yaml raises many kinds for damaged texts
        raise ValueError(f"not YAML ({' '.join(str(error).split())})") from error
    _check_keys(node)  # of equal keys, PyYAML takes the last
    return found


def from_command_line(argv: list[str], defaults: Any, usage: str) -> list[tuple[str, Any]]:
    """Options and their values in plain terms, in order: the last is meant. `config` is a file.

    `defaults` is a config. ConfigError where an option is not known, or has no value; `--help`
    ends the process.
    """
    known = {"config": PathName, **kinds(type(defaults))}
    found: list[tuple[str, Any]] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if word in ("-h", "--help"):
            _help(defaults, usage).print_help()
            sys.exit()
        name, equals, text = word.removeprefix("--").partition("=")
        if name not in known or not word.startswith("--"):
            raise ConfigError(_not_known(name, _ON_LINE, known))
        kind = known[name]
        if not equals and words and not words[0].startswith("--"):
            text = words.popleft()
        elif not equals and kind is bool:
            text = "true"
        elif not equals:
            raise ConfigError(f"{name} {_ON_LINE} has no value; expected {_expected(kind)}")
        try:
            is_text = name == "config" or (_is_path(kind) and text not in ("", "null"))
            found.append((name, text if is_text else _parse(text)))
        except ValueError as error:
            raise ConfigError(f"{name} {_ON_LINE}: {error}") from error
    return found


def _help(defaults: Any, usage: str) -> ArgumentParser:
    """Every option with its sentence in the docstring of its section, and its default."""
    parser = ArgumentParser(usage=usage)
    parser.add_argument("--config", help="the recipe; the first one comes without --config")
    for section, kind in get_type_hints(type(defaults)).items():
        text = inspect.getdoc(kind) or ""
        group = parser.add_argument_group(section, text.partition("\n")[0])
        for name, about in re.findall(r"^    (\w+): (.+(?:\n        .+)*)", text, re.MULTILINE):
            default = shown(getattr(getattr(defaults, section), name))
            about = f"{about} (default: {default})".replace("%", "%%")
            group.add_argument(f"--{section}.{name}", help=about, metavar="VALUE")
    return parser


def _is_path(kind: Any) -> bool:
    return PathName in (kind, *get_args(kind))


def kinds(group: Any, above: str = "") -> dict[str, Any]:
    """The types of all options of a dataclass, and of its groups of options, by dotted names."""
    found = {}
    for key, kind in get_type_hints(group, include_extras=True).items():
        found[f"{above}{key}"] = kind
        if is_dataclass(kind):
            found |= kinds(kind, f"{above}{key}.")
    return found


def updated(config: T, given: Any, where: str) -> T:
    """The config with the options that are given in plain terms, by sections.

    ConfigError where one is not known, or is of another type; `where` says where they stand.
    """
    return _updated(config, given, "", where, kinds(type(config)))


def _updated(old: Any, given: Any, name: str, where: str, known: dict[str, Any]) -> Any:
    if not isinstance(given, dict):
        key, example = next(item for item in asdict(old).items() if item[1] is not None)
        raise ConfigError(
            f"{name or 'the config'} {where} is {shown(given)}; expected options by name, such as "
            f"{{{key}: {shown(example)}}}"
        )
    changed = {}
    for key, value in given.items():
        option = f"{name}.{key}" if name else str(key)
        if "." in str(key) and option in known:
            raise ConfigError(
                f"{option} {where} is written in one line; expected its section, {{"
                f"{option.replace('.', ': {', 1)}: {shown(value)}}}}}"
            )
        if option not in known:
            nested = next(iter(value), "") if isinstance(value, dict) and not name else ""
            raise ConfigError(_not_known(f"{option}.{nested}".rstrip("."), where, known))
        kind, before = known[option], getattr(old, key)
        if not is_dataclass(kind):
            changed[key] = _converted(kind, value, option, where)
        elif name or value is not None:  # an empty section changes nothing
            changed[key] = _updated(before, value, option, where, known)
    return replace(old, **changed)


def _converted(kind: Any, value: Any, option: str, where: str) -> Any:
    try:
        return _as(kind, value)
    except _Mismatch as error:
        expected = str(error) or _expected(kind)
        raise ConfigError(f"{option} {where} is {shown(value)}; expected {expected}") from None


def _as(kind: Any, value: Any) -> Any:
    """The value as the type has it: a list as a tuple, 1 as 1.0."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        is_path = kind == PathName and isinstance(value, str)
        found = _as(inner[0], os.path.expanduser(value) if is_path else value)
        return _if(inner[1].fits(found), found)
    if origin in (Union, UnionType):
        for one in inner:
            with suppress(_Mismatch):
                return _as(one, value)
        raise _Mismatch
    if origin is Literal:  # True is no 1
        return _if(any(value == one and type(value) is type(one) for one in inner), value)
    if origin in (list, tuple):
        of_any_length = origin is list or inner[-1] is Ellipsis
        items = _if(isinstance(value, list | tuple), value)
        expected = [inner[0]] * len(items) if of_any_length else inner
        _if(len(items) == len(expected), items)
        return origin(_as(one, item) for one, item in zip(expected, items))
    if origin is dict:
        pairs = _if(isinstance(value, dict), value).items()
        return {_as(inner[0], key): _as(inner[1], own) for key, own in pairs}
    if type(value) is int and abs(value) >= 2**63:
        raise _Mismatch("a whole number below 2^63")
    if type(value) is int and kind in (float, str):
        value = kind(value)
    is_sound = type(value) is kind and value != "" and (kind is not float or math.isfinite(value))
    return _if(is_sound, value)


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise _Mismatch
    return value


def _expected(kind: Any) -> str:
    """The values of a type, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return inner[1].expected
    if origin in (Union, UnionType):
        return ", or ".join(map(_expected, inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is dict:
        return f"for each name, {_expected(inner[1])}"
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return f"a list, each of it {_expected(inner[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_expected, inner))}]"
    return _WORDS[kind]


def shown(value: Any) -> str:
    """A value as one would write it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if is_dataclass(value) and not isinstance(value, type):
        value = {key: own for key, own in asdict(value).items() if own is not None}
    return reprlib.repr(list(value) if isinstance(value, tuple) else value)


def _not_known(name: str, where: str, known: Iterable[str]) -> str:
    """What to write in the place of an option that there is not.

    `train.lr` means optim.lr; never is another layer meant.
    """
    digits = re.findall(r"\d", name)
    alike = [one for one in known if not digits or digits == re.findall(r"\d", one)]
    namesakes = [one for one in alike if one.rpartition(".")[2] == name.rpartition(".")[2]]
    near = namesakes if len(namesakes) == 1 else get_close_matches(name, alike, n=1, cutoff=0.9)
    hint = f"did you mean {near[0]}?" if near else "no such option (alexnet train --help has all)"
    return f"{name} {where}: {hint}"
