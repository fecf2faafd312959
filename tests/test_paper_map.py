"""The documentation: links lead somewhere, names exist, options are taken, examples compile."""

import ast
import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

import mufin_jax
from experiments import amazon
from mufin_jax.pipeline.cli import parse
from mufin_jax.pipeline.comparison import Comparison
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.errors import InputError

PRESETS = {name: Experiment() for name in amazon.PRESETS}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_NAME = re.compile(r"`(?P<file>[\w./]+\.py):(?P<name>[\w.]+)`")
_OPTION = re.compile(r"(?<![\w-])(?P<flag>--[a-z][a-z.-]*[a-z])(?P<value>=[^\s`,;)]+)?")
_FENCED = re.compile(r"```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


def wrong_links(text: str, page: Path) -> list[str]:
    """Links to a file or heading that is not there, and names that the file they lead to lacks."""
    wrong = []
    for link in _LINK.finditer(_prose(text)):
        target, _, heading = link["target"].partition("#")
        if "://" in target:
            continue
        path = page.parent / target if target else page
        if not path.exists():
            wrong.append(link["target"])
        elif heading and heading not in headings(path.read_text("utf-8")):
            wrong.append(link["target"])
        elif name := _NAME.fullmatch(link["text"]):
            if path.name != name["file"] or not defines(path, name["name"]):
                wrong.append(link.group())
    return wrong


def wrong_names(text: str) -> list[str]:
    """`path.py:name` outside of links, with paths from the repository's root."""
    named = _NAME.finditer(_LINK.sub("", _prose(text)))
    return [found.group() for found in named if not defines(ROOT / found["file"], found["name"])]


def defines(path: Path, name: str) -> bool:
    """Whether a file itself defines a dotted name; what it merely imports does not count."""
    if not path.is_file():
        return False
    bodies = [ast.parse(path.read_text("utf-8")).body]
    for part in name.split("."):
        found = [node for body in bodies for node in body if part in names_of(node)]
        bodies = [node.body for node in found if isinstance(node, ast.ClassDef)]
        if not found:
            return False
    return True


def names_of(node: ast.stmt) -> list[str]:
    """The names that a statement defines."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return [name]
        case _:
            return []


def headings(text: str) -> set[str]:
    """The anchors that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", _prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def wrong_options(text: str) -> list[str]:
    """Options that the main command does not have, or whose value it rejects."""
    own = {flag for flag in options(Comparison) if not flag.startswith("--experiment.")}
    known = {"--help", *own, *options(Experiment)}
    wrong = []
    for line in text.splitlines():
        if re.search(r"^\s*hf |-m pytest ", line):  # options of others
            continue
        for option in _OPTION.finditer(line):
            if option["flag"] not in known or not (option["value"] is None or accepted(option)):
                wrong.append(option.group())
    return wrong


def options(config: type, prefix: str = "") -> Iterator[str]:
    """The flags of a configuration, those of nested ones included."""
    for name, kind in typing.get_type_hints(config).items():
        flag = f"{prefix}{name.replace('_', '-')}"
        kind = next(filter(dataclasses.is_dataclass, typing.get_args(kind)), kind)  # of a union
        if dataclasses.is_dataclass(kind):
            yield from options(typing.cast(type, kind), f"{flag}.")
        else:
            yield f"--{flag}"
        if kind is bool:
            yield f"--{prefix}no-{name.replace('_', '-')}"


def accepted(option: re.Match[str]) -> bool:
    """Whether the command takes the option's value."""
    try:
        parse(PRESETS, [option.group()], Comparison)
    except InputError:
        return False
    return True


def _prose(text: str) -> str:
    return _FENCED.sub("", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_that_has_the_name(page):
    assert wrong_links(page.read_text("utf-8"), page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_outside_of_links_exists(page):
    assert wrong_names(page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "name",
    ["README.md", "docs/paper.md", "docs/data.md", "docs/artefacts.md", "docs/encoders.md"],
)
def test_every_option_is_one_of_the_main_command(name):
    assert wrong_options((ROOT / name).read_text("utf-8")) == []


def test_python_examples_compile_and_use_what_the_package_has():
    blocks = [block for page in PAGES for block in _FENCED.finditer(page.read_text("utf-8"))]
    code = [block["code"] for block in blocks if block["language"] == "python"]
    assert len(code) >= 2
    for block in code:
        compile(block, "example", "exec")
        assert set(re.findall(r"\bmufin\.(\w+)", block)) <= set(mufin_jax.__all__)


def test_the_paper_map_names_every_part_of_the_method():
    mapped = {
        found.group() for found in _NAME.finditer((ROOT / "docs/paper.md").read_text("utf-8"))
    }
    method = """`losses.py:hinge_loss` `losses.py:cosine_margin_loss` `attention.py:AttentionBlock`
        `item_encoder.py:ItemEncoder.describe` `heads.py:Heads.embed` `heads.py:Heads.adapt`
        `classifiers.py:combine` `classifiers.py:update` `retrieval.py:LabelIndex.shortlist`
        `mining.py:draw_positives` `mining.py:candidates` `prediction.py:Predictor.rank`"""
    assert set(method.split()) <= mapped


def test_every_file_of_the_library_stands_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    files = {path.name for path in (ROOT / "mufin_jax").glob("*.py")} - {"__init__.py"}
    assert {name for name in files if name not in readme} == set()


@pytest.mark.parametrize(
    "link",
    [
        "[`losses.py:hinge_los`](../mufin_jax/losses.py)",
        "[`losses.py:hinge_loss`](../mufin_jax/model.py)",
        "[`model.py:Mufin.embedded`](../mufin_jax/model.py)",
        "[`model.py:Mufin.embed.local`](../mufin_jax/model.py)",
        "[`model.py:unit`](../mufin_jax/model.py)",  # imported there, defined elsewhere
        "[losses](../mufin_jax/loss.py)",
        "[data](data.md#no-such-heading)",
    ],
)
def test_a_wrong_link_is_found(link):
    assert len(wrong_links(f"See {link}.", ROOT / "docs/paper.md")) == 1


def test_a_wrong_name_is_found():
    assert wrong_names("`mufin_jax/losses.py:hinge_loss` `mufin_jax/losses.py:hinge`") == [
        "`mufin_jax/losses.py:hinge`"
    ]


@pytest.mark.parametrize(
    "option", ["--pretrain.epoch=3", "--pretrain.epochs=many", "--modalities=text", "--stage=train"]
)
def test_a_wrong_option_is_found(option):
    assert wrong_options(f"`{option}` and `--pretrain.epochs=3`") == [option]
