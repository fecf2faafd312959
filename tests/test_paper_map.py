"""The documentation: links lead to files, names and options exist, examples compile."""

import ast
import dataclasses
import functools
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

import mufin_jax
from experiments import amazon
from experiments.recipe_ablations import RecipeAblations
from mufin_jax.commands.predict import PredictCommand
from mufin_jax.pipeline.cli import parse
from mufin_jax.pipeline.embed import EmbedConfig
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.img_bin import ImgBinConfig
from mufin_jax.runtime.errors import InputError

PRESETS = {name: Experiment() for name in amazon.PRESETS}
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [ROOT / "benchmarks/README.md", *sorted((ROOT / "docs").glob("*.md"))]

_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_NAME = re.compile(r"`(?P<file>[\w./]+\.py):(?P<name>[\w.]+)`")
_OPTION = re.compile(r"(?<![\w-])(?P<flag>--[a-z][a-z.-]*[a-z])(?P<value>=[^\s`,;)]+)?")
_FENCED = re.compile(r"```(?P<language>\w*)\n(?P<code>.*?)```", re.DOTALL)


def wrong_links(text: str, page: Path) -> list[str]:
    """Return the links to a missing file or heading, and to a file that lacks the name."""
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
    """Return each wrong `path.py:name` outside of links; paths begin at the repository's root."""
    named = _NAME.finditer(_LINK.sub("", _prose(text)))
    return [found.group() for found in named if not defines(ROOT / found["file"], found["name"])]


def defines(path: Path, name: str) -> bool:
    """Return whether a file itself defines a dotted name; imported names do not count."""
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
    """Return the names that a statement defines."""
    match node:
        case ast.FunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Assign(targets=[ast.Name(name)]) | ast.AnnAssign(target=ast.Name(name)):
            return [name]
        case _:
            return []


def headings(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", _prose(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def wrong_options(text: str) -> list[str]:
    """Return the options that the main command does not have, or whose value it rejects."""
    own = {flag for flag in options(RecipeAblations) if not flag.startswith("--experiment.")}
    known = {"--help", *own, *options(Experiment)}
    others = {"--out", "--text-checkpoint", "--image-checkpoint"} & {*options(EmbedConfig)}
    others |= {"--pictures"} & {*options(ImgBinConfig)}
    wrong = []
    for line in text.splitlines():
        if re.search(r"^\s*hf |-m pytest ", line):  # options of others
            continue
        if "mufin predict" in line:
            found = [option["flag"] for option in _OPTION.finditer(line)]
            wrong += sorted(set(found) - {*options(PredictCommand)})
            continue
        for option in _OPTION.finditer(line):
            if option["flag"] in others:  # of another command
                continue
            given = option["value"] is not None
            if option["flag"] not in known or (given and not accepted(option.group())):
                wrong.append(option.group())
    return wrong


def options(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the flags of a configuration, including nested ones."""
    for name, kind in typing.get_type_hints(config).items():
        flag = f"{prefix}{name.replace('_', '-')}"
        kind = next(filter(dataclasses.is_dataclass, typing.get_args(kind)), kind)  # of a union
        if dataclasses.is_dataclass(kind):
            yield from options(typing.cast(type, kind), f"{flag}.")
        else:
            yield f"--{flag}"
        if kind is bool:
            yield f"--{prefix}no-{name.replace('_', '-')}"


@functools.cache  # pages name the same options
def accepted(option: str) -> bool:
    """Return whether the command takes an option with its value, next to others that it needs."""
    try:
        parse(PRESETS, [option], RecipeAblations)
    except InputError as error:
        return "does nothing here: it needs" in str(error)
    return True


def _prose(text: str) -> str:
    return _FENCED.sub("", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_that_has_the_name(page):
    assert wrong_links(page.read_text("utf-8"), page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_name_outside_of_links_exists(page):
    assert wrong_names(page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "name",
    ["README.md"]
    + [f"docs/{page}.md" for page in ("recipes", "paper", "data", "artefacts", "encoders")],
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


# The parts of the method that docs/paper.md must lead to: a file of the library, and names in it.
METHOD = {
    "training/losses.py": ["hinge_loss", "cosine_margin_loss"],
    "training/mining.py": ["draw_positives", "candidates"],
    "model/attention.py": ["AttentionBlock"],
    "model/item_encoder.py": ["ItemEncoder.describe"],
    "model/heads.py": ["Heads.embed", "Heads.adapt"],
    "model/label_table.py": ["combine", "update"],
    "retrieval/index.py": ["LabelIndex.shortlist"],
    "prediction/ranker.py": ["Ranker.rank"],
}


@pytest.mark.parametrize("file", METHOD)
def test_the_paper_map_links_every_part_of_the_method(file):
    page = ROOT / "docs/paper.md"
    names = {
        name["name"]
        for link in _LINK.finditer(page.read_text("utf-8"))
        if (name := _NAME.fullmatch(link["text"]))
        and (page.parent / link["target"]).resolve() == ROOT / "mufin_jax" / file
    }
    assert set(METHOD[file]) <= names


def linked(page: Path) -> set[Path]:
    """Return the files and folders that the links of a page lead to."""
    found = _LINK.finditer(page.read_text("utf-8"))
    return {(page.parent / link["target"].partition("#")[0]).resolve() for link in found}


def test_the_readme_links_every_package_of_the_library():
    packages = {path.parent for path in (ROOT / "mufin_jax").glob("*/__init__.py")}
    assert packages - linked(ROOT / "README.md") == set()


def test_the_page_on_the_house_links_every_file_of_the_library():
    files = {path for path in (ROOT / "mufin_jax").rglob("*.py") if path.stem[0] != "_"}
    assert files - linked(ROOT / "docs/house.md") == set()


def test_the_page_on_tests_links_every_file_of_tests():
    files = set((ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 50
    assert files - linked(ROOT / "docs/tests.md") == set()


def test_a_file_is_not_found_in_the_name_of_another(tmp_path):
    (tmp_path / "page.md").write_text("[`label_memory.py`](label_memory.py)")
    assert tmp_path / "memory.py" not in linked(tmp_path / "page.md")


def long_lines(text: str) -> list[str]:
    """Return the lines of prose beyond 100 columns; tables and one long word are exempt."""
    lines = [line.strip() for line in _prose(text).splitlines() if len(line) > 100]
    return [line for line in lines if not line.startswith("|") and " " in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_prose_has_at_most_100_columns(page):
    assert long_lines(page.read_text("utf-8")) == []


def test_a_line_of_prose_that_is_too_long_is_found():
    assert long_lines("word " * 21 + "\n| " + "cell " * 30 + "|\n" + "x" * 120) == [
        ("word " * 21).strip()
    ]


def test_the_readme_has_at_most_150_lines():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize(
    "link",
    [
        "[`losses.py:hinge_los`](../mufin_jax/training/losses.py)",
        "[`losses.py:hinge_loss`](../mufin_jax/training/mining.py)",
        "[`mufin.py:Heads.embed`](../mufin_jax/model/heads.py)",  # another file's name
        "[`heads.py:Heads.embedded`](../mufin_jax/model/heads.py)",
        "[`heads.py:Heads.embed.local`](../mufin_jax/model/heads.py)",
        "[`heads.py:unit`](../mufin_jax/model/heads.py)",  # imported there, defined elsewhere
        "[losses](../mufin_jax/loss.py)",
        "[data](data.md#no-such-heading)",
    ],
)
def test_a_wrong_link_is_found(link):
    assert len(wrong_links(f"See {link}.", ROOT / "docs/paper.md")) == 1


def test_a_wrong_name_is_found():
    right, wrong = (f"`mufin_jax/training/losses.py:{name}`" for name in ("hinge_loss", "hinge"))
    assert wrong_names(f"{right} {wrong}") == [wrong]


@pytest.mark.parametrize(
    "option", ["--pretrain.epoch=3", "--pretrain.epochs=many", "--modalities=text", "--stage=train"]
)
def test_a_wrong_option_is_found(option):
    assert wrong_options(f"`{option}` and `--pretrain.epochs=3`") == [option]
