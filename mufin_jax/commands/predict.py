"""`mufin predict`: the ranked labels of items, on the screen or as JSON."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.data.readers.id_lists import load_ids
from mufin_jax.prediction.answers import Prediction, as_json
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.paths import settle_paths

_WIDTH = 100
"""Columns of a table that no terminal prints."""


@dataclasses.dataclass(frozen=True)
class PredictCommand:
    """Rank the labels of a finished run for items."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run whose stage finetune is done."""
    title: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """The item's title; several are further texts of the same item."""
    image: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """A picture of the item."""
    k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = 10
    """Labels of an item."""
    exclude: Path | None = None
    """A file of ids that no item gets, one a line."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print a line of JSON an item instead of a table."""

    def __post_init__(self) -> None:
        """Reject a command without an item."""
        settle_paths(self, fields=["run", "exclude"])
        if not self.title and not self.image:
            raise InputError("found no item; expected --title or --image")

    @property
    def items(self) -> list[Any]:
        """The items, as `Predictor.predict` takes them."""
        return [{"titles": list(self.title), "images": list(self.image)}]


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(PredictCommand, arguments, "predict")
    excluded = load_ids(command.exclude) if command.exclude else ()
    predictor = Predictor.load(command.run)
    answers = predictor.predict(command.items, command.k, exclude=excluded)
    names = (" / ".join(command.title),)
    for name, answer in zip(names, answers, strict=True):
        if command.json:
            print(json.dumps({"labels": as_json(answer)}, ensure_ascii=False))
        else:
            _print_table(name, answer)


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
    for rank, one in enumerate(answer, 1):
        table.add_row(str(rank), f"{one.score:.4f}", Text(one.id), Text(one.title))
    Console(width=None if Console().is_terminal else _WIDTH).print(table)
    if not answer:
        print("no label is left")
