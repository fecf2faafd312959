"""What newcomers give: a tiny catalogue in the forms of their mistakes, and the ways to call."""

import contextlib
import copy
import csv
import dataclasses
import inspect
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import minute
import numpy as np
from raw_folders import picture

from experiments import amazon
from mufin_jax.data.preparation import prepare as preparation
from mufin_jax.pipeline.cli import main
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.logs import set_up_logging

Product = dict[str, Any]
Edit = Callable[[int, Product], object]
Flags = list[str]
COUNT = 12


@dataclasses.dataclass(frozen=True)
class Mistake:
    """One mistake: its input, its call, and what must be told.

    Attributes:
        name: in words.
        call: makes the input in a folder, calls, and returns the exit code.
        words: that the error line has; of exit code 0, that a warning has ("": no warning).
        code: the exit code.
    """

    name: str
    call: Callable[[Path], int]
    words: str
    code: int = 2


def products(edit: Edit | None = None, count: int = COUNT) -> list[Product]:
    """Return products that each relate to the next four, after an edit of each."""
    found = []
    for i in range(count):
        following = [f"B{(i + k) % count:02d}" for k in (1, 2, 3, 4)]
        product = {
            "ASIN": f"B{i:02d}",
            "title": f"oak lamp {i}",
            "images": [f"images/b{i:02d}.png"],
            "also_buy": following,
        }
        if edit is not None:
            edit(i, product)
        found.append(product)
    return found


def pictures(raw: Path) -> None:
    """Write one small picture for each product."""
    (raw / "images").mkdir(parents=True)
    for i in range(COUNT):
        (raw / "images" / f"b{i:02d}.png").write_bytes(picture(i, (8, 8), "PNG"))


def json_lines(path: Path, items: Sequence[Mapping[str, Any]], end: str = "\n") -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(item) + end for item in items))


def table(items: Sequence[Product], separator: str = ",", between: str = "|") -> str:
    """Return products as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator="\n")
    writer.writerow(items[0])
    for item in items:
        lists = (between.join(v) if isinstance(v, list) else v for v in item.values())
        writer.writerow(lists)
    return text.getvalue()


def prepare(
    make: Callable[[Path], object] | None = None,
    *more: str,
    edit: Edit | None = None,
    settings: Mapping[str, str] | None = None,
) -> Callable[[Path], int]:
    """Prepare a catalogue of products, made or changed by the user.

    Args:
        make: writes into the data folder, which has products.jsonl only if this is None.
        more: further flags; RAW and RUN stand for the two folders.
        edit: changes each product.
        settings: of preparation, which need no command line; DIR stands for the folder of all.
    """

    def call(folder: Path) -> int:
        raw = folder / "raw"
        pictures(raw)
        if make is None:
            json_lines(raw / "products.jsonl", products(edit))
        else:
            make(raw)
        return command(*more)(folder) if more else _prepared(folder, settings or {})

    return call


def _prepared(folder: Path, settings: Mapping[str, str]) -> int:
    """Prepare without parsing a command line, which would take longer than all the rest."""
    set_up_logging()
    named = {name: value.replace("DIR", str(folder)) for name, value in settings.items()}
    config = dataclasses.replace(minute.MINUTE.prepare, records=False, **named)
    out = folder / "run" / "prepare"
    return main_guard(lambda: preparation.prepare(config, folder / "raw", out))


def command(*more: str) -> Callable[[Path], int]:
    """Call the command line of an experiment; see `prepare` for the flags."""

    def call(folder: Path) -> int:
        raw, run = str(folder / "raw"), str(folder / "run")
        own = [flag.replace("RAW", raw).replace("RUN", run) for flag in more]
        if not any(flag.startswith("--data") for flag in own):
            own.append(f"--data={raw}")
        if not any(flag.startswith("--workdir") for flag in own):
            own.append(f"--workdir={run}")
        if not any(flag.startswith("--stage") for flag in own):
            own.append("--stage=prepare")
        with contextlib.chdir(folder):
            return main(minute.PRESETS, [*own, "--prepare.no-records"])

    return call


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    """A data folder with one file next to the pictures."""
    written = content if isinstance(content, bytes) else content.encode()
    return lambda raw: (raw / name).write_bytes(written)


def sides(**files: list[Product]) -> Callable[[Path], object]:
    """A data folder with one JSON file a side."""

    def make(raw: Path) -> None:
        for name, items in files.items():
            json_lines(raw / f"{name}.jsonl", items)

    return make


def and_then(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    """Do several things in a folder."""
    return lambda raw: [step(raw) for step in steps]


def good(raw: Path) -> None:
    """Write the catalogue without a mistake."""
    json_lines(raw / "products.jsonl", products())


def calls(function: Callable[[Path], object]) -> Callable[[Path], int]:
    """Call Python code; its error becomes what a command would print."""
    return lambda folder: main_guard(lambda: function(folder))


def vectors(array: np.ndarray, kind: str = "text", ids: str | None = None):
    """Prepare the catalogue with ready vectors by id; `ids` is the text of their file."""
    lines = "".join(f"B{i:02d}\n" for i in range(COUNT)) if ids is None else ids

    def make(raw: Path) -> None:
        good(raw)
        folder = raw.with_name("vectors")
        folder.mkdir()
        np.save(folder / "x.npy", array)
        if lines:
            (folder / "x.ids.txt").write_text(lines)

    return prepare(make, settings={f"{kind}_vectors": "DIR/vectors"})


def unchecked(function: Callable[..., object]) -> Callable[..., object]:
    """Return a function as users have it, without the check of types that tests add."""
    return inspect.unwrap(function)


def built(kind: type, **values: object) -> object:
    """Return settings as users build them, without the check of types that tests add."""
    made: Any = copy.copy(kind())
    for name, value in values.items():
        object.__setattr__(made, name, value)
    made.__post_init__()
    return made


def amazon_help() -> int:
    """Print the help of the Amazon experiment in one line."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main(amazon.PRESETS, ["--help"])
    print(*re.sub("[│|]", " ", printed.getvalue()).split())
    return 0
