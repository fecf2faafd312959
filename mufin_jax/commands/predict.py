"""`mufin predict`: the ranked labels of items, on the screen or as JSON."""

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mufin_jax.commands.conditions import read_within
from mufin_jax.commands.parsing import parse
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.id_lists import load_ids
from mufin_jax.prediction.answer_files import form_of
from mufin_jax.prediction.answers import Prediction, as_json
from mufin_jax.prediction.item_files import ItemFile
from mufin_jax.prediction.items import check_k
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.prediction.stream import answer_file
from mufin_jax.prediction.within import Allowed
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.fingerprint import fingerprint
from mufin_jax.runtime.storage.paths import settle_paths

_WIDTH = 100
"""Columns of a table that no terminal prints."""
_MADE_OF = (
    "prepare/manifest.json", "finetune/done.json", "finetune/predictor/index/index.json",
    "finetune/predictor/labels/manifest.json", "select/mixes.json", "catalogue/current",
)  # fmt: skip
"""Small files of a run that change if its answers do."""


@dataclasses.dataclass(frozen=True)
class PredictCommand:
    """Rank the labels of a finished run for items."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run whose stage finetune is done."""
    title: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The item's title; several are further texts of the same item."""
    image: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A picture of the item."""
    id: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A product of the run's data: what is known of it asks, and it does not get itself."""
    items: Path | None = None
    """A file of items: JSON lines, CSV, TSV or Parquet, also as .gz."""
    out: Path | None = None
    """The file of answers to --items: .jsonl, .csv or .tsv, also with .gz, or .parquet."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Labels of an item."""
    exclude: Path | None = None
    """A file of ids that no item gets, one a line."""
    within: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The only labels that items get: a file of ids, one a line, or a condition on a kept field,
    such as category=chair or "price<=20"; repeat it for several."""
    explain: tyro.conf.FlagCreatePairsOff[bool] = False
    """Tell why each label has its score: its parts, and with --json the attention."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a line of JSON an item instead of a table."""
    columns: tuple[str, ...] | None = None
    """Names of the fields in --items, as --prepare.columns; by default those of the run's data."""
    images: Path | None = None
    """A folder for the pictures of --items that are not next to the file."""
    max_bad: float = 0.05
    """The largest tolerated share of bad rows of --items, or of broken pictures."""

    def __post_init__(self) -> None:
        """Reject a command without an item, or with two kinds of them."""
        settle_paths(self, fields=["run", "items", "out", "exclude", "images"])
        given = {"--title or --image": self.title or self.image}
        given |= {"--id": self.id, "--items": self.items}
        named = [name for name, value in given.items() if value]
        if len(named) != 1:
            found = " and ".join(named) if named else "no item"
            raise InputError(f"found {found}; expected one of {', '.join(given)}")
        if (self.items is None) != (self.out is None):
            raise InputError("--items=FILE and --out=FILE belong together: give both")
        if self.items is not None and (self.explain or self.json):
            raise InputError("--explain and --json are for --title, --image and --id")
        if not 0 <= self.max_bad < 1:
            raise InputError(f"--max-bad={self.max_bad}: expected a share from 0 to below 1")


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(PredictCommand, arguments, "predict")
    limits: dict[str, Any] = {
        "exclude": load_ids(command.exclude) if command.exclude else [],
        "within": read_within(command.within),
    }
    if command.items is not None and command.out is not None:
        _answer_file(command, command.items, command.out, limits)
        return
    predictor = Predictor.load(command.run)
    items: list[Any] = [{"id": uid} for uid in command.id]
    items = items or [{"titles": list(command.title), "images": list(command.image)}]
    answers = predictor.predict(items, command.k, explain=command.explain, **limits)
    names = command.id or (" / ".join(command.title),)
    for name, answer in zip(names, answers, strict=True):
        if command.json:
            print(json.dumps({"labels": as_json(answer)}, ensure_ascii=False))
        else:
            _print_table(name, answer)


def _answer_file(command: PredictCommand, items: Path, out: Path, limits: dict[str, Any]) -> None:
    """Answer for all items of a file."""
    form_of(out)
    source = ItemFile(items, Columns.parse(command.columns or ()), command.images)
    predictor = Predictor.load(command.run)
    check_k(command.k, predictor.config.shortlist)
    if command.columns is None:  # those of the run, whose data may have had these names
        given = predictor.dataset.manifest.get("config", {}).get("columns", ())
        source = dataclasses.replace(source, columns=Columns.parse(given))
    settings = {
        "k": command.k, "columns": source.columns, "images": command.images,
        "exclude": _digest(limits["exclude"]), "within": _conditions(limits["within"]),
        "run": fingerprint(command.run, _MADE_OF) | {"config": predictor.config},
    }  # fmt: skip
    answer = functools.partial(predictor.predict, k=command.k, **limits)
    reader = source.reader(predictor.dataset, predictor.known_items.check)
    print(answer_file(source, out, reader, answer, settings, command.max_bad))
    print(f"{out} has the answers")


def _digest(ids: list[str] | None) -> str | None:
    """Return what tells other ids from these, in a line of text; None for no list."""
    if ids is None:
        return None
    return f"{len(ids):,} ids, {hashlib.sha256(' '.join(ids).encode()).hexdigest()[:16]}"


def _conditions(within: Allowed | None) -> Any:
    """Return what tells other conditions from these, as JSON has it."""
    if not isinstance(within, Mapping):
        return _digest(None if within is None else [str(uid) for uid in within])
    ids = {"id": _digest(within["id"])} if "id" in within else {}
    return dict(within) | ids


def _print_table(name: str, answer: Sequence[Prediction]) -> None:
    """Print the labels of an item for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name[:200]), title_justify="left", box=None, pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    table.add_column("id", no_wrap=True)
    table.add_column("title")
    explained = any(one.why for one in answer)
    if explained:
        table.add_column("value x weight of each part")
    for rank, one in enumerate(answer, 1):
        row = [str(rank), f"{one.score:.4f}", Text(one.id), Text(one.title)]
        table.add_row(*row, *([_parts(one)] if explained else []))
    Console(width=None if Console().is_terminal else _WIDTH).print(table)
    if not answer:
        print("no label is left")


def _parts(one: Prediction) -> str:
    """Return the parts of a score in a line; those of no value are left out."""
    parts = one.why.parts if one.why else {}
    shown = (f"{name} {p.value:.3g} x {p.weight:.3g}" for name, p in parts.items() if p.value)
    return "  ".join(shown)
