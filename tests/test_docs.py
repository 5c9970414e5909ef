"""What the docs name is there: links and their headings, files, commands and their options."""

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import get_type_hints

import pytest

from alexnet_dali.tools.__main__ import COMMANDS
from alexnet_dali.train.config import Config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob(".github/**/*.md")])
OF_THE_PAST = ("CHANGELOG.md", "LOG.md")  # they name what was there then
CURRENT = [page for page in PAGES if page.name not in OF_THE_PAST]
ROOMS = "configs|docs|examples|figures|model|pipeline|tests|tools|train"
MADE_BY_COMMANDS = {"figures/curves.png", "figures/predictions.png", "figures/neighbors.png"}


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def links(text):
    """The targets of [text](target) and ![text](target)."""
    return re.findall(r"\]\(([^)\s]+)\)", text)


@cache
def headings(page):
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page, text):
    """Why relative links of a page lead nowhere."""
    for target in links(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{target}: no such file"
        elif anchor and anchor not in headings(file):
            yield f"{target}: no such heading"


def commands(text):
    """Each `alexnet NAME OPTIONS`, or `torchrun OPTIONS -m MODULE OPTIONS`: module, options.

    They stand in indented lines, which may go on behind a backslash, or between backticks.
    """
    text = text.replace("\\\n", " ")
    code = re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)
    code += re.findall(r"`([^`]+)`", re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE))
    for line in code:
        for command in re.split(r"&&|  # ", line.replace("\n", " ")):
            found = re.search(r"(?:python|torchrun)\b.* -m alexnet_dali\.([\w.]+)(.*)", command)
            short = re.search(r"(?:^|bin/| )alexnet ([a-z][\w-]*)(?= |$)(.*)", command)
            if found:
                yield found[1], re.findall(r"(?<!\S)--([\w.-]+)", found[2])
            elif short and short[1] != "import":
                name = "tools." + COMMANDS.get(short[1], (short[1],))[0].removesuffix(".__main__")
                name = "train" if short[1] == "train" else name
                yield name, re.findall(r"(?<!\S)--([\w.-]+)", short[2])


def fields(kind, before=""):
    """The names of a config's fields, and of theirs: `model.init_std.conv1`."""
    for name, own in get_type_hints(kind).items():
        yield before + name
        if dataclasses.is_dataclass(own):
            yield from fields(own, f"{before}{name}.")


@cache
def known_options(module):
    """All options in the source of a command; of `train`, every field of the config."""
    if module == "train":
        return {"config", "help"} | set(fields(Config))
    path = ROOT / module.replace(".", "/")
    files = list(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    source = "".join(file.read_text() for file in files)
    return {"help"} | set(re.findall(r'"--([\w-]+)"', source))


def is_there(module):
    path = ROOT / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def wrong(text):
    """What is wrong with the commands of a text."""
    for module, options in commands(text):
        if not is_there(module):
            yield f"{module}: no such command"
            continue
        known = known_options(module)
        # They pass others on to train
        if module in ("tools.paper.ablate", "tools.paper.figures"):
            known = known | known_options("train") | known_options("tools.paper")
        yield from (f"{module} --{option}" for option in options if option not in known)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    assert not list(broken(page, page.read_text()))


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_commands_have_the_options_that_they_are_given(page):
    assert not list(wrong(page.read_text()))


@pytest.mark.parametrize("page", CURRENT, ids=names(CURRENT))
def test_named_files_exist(page):
    """Paths of the rooms, between backticks or in commands; not those that a command writes."""
    found = set(re.findall(rf"(?<![\w/.-])(?:{ROOMS})/[\w./-]+\.\w+", page.read_text()))
    missing = {path for path in found if not (ROOT / path).exists()} - MADE_BY_COMMANDS
    assert not missing


def test_faults_are_found():
    page = ROOT / "README.md"
    text = "[a](docs/nowhere.md) [b](docs/train.md#nowhere) [c](docs/train.md#resume)"
    assert list(broken(page, text)) == [
        "docs/nowhere.md: no such file",
        "docs/train.md#nowhere: no such heading",
    ]
    text = (
        "    torchrun --nproc_per_node=2 -m alexnet_dali.train \\\n"
        "        --optim.rate 1 --model.init_std.conv1 0 --model.init_std.conv0 0\n"
        "`alexnet predict RUN --views 10`, `alexnet predict RUN --view 10`\n"
        "    python -m alexnet_dali.tools.nothing && alexnet demo --data DIR\n"
    )
    assert list(wrong(text)) == [
        "train --optim.rate",
        "train --model.init_std.conv0",
        "tools.nothing: no such command",
        "tools.predict --view",
    ]
