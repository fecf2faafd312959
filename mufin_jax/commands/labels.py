"""`mufin labels`: labels of a finished run are added, updated and removed without training."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Literal

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.id_lists import load_ids
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.item_files import ItemFile, read_labels
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.paths import settle_paths

Action = Literal["show", "add", "update", "remove", "rollback"]


@dataclasses.dataclass(frozen=True)
class LabelsCommand:
    """Change which labels a finished run recommends, without training."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run whose stage finetune is done."""
    action: tyro.conf.Positional[Action] = "show"
    """What to do: show how many labels there are, add, update or remove some, or return to the
    version before (rollback)."""
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE")] = None
    """Products to add or update: JSON lines, CSV, TSV or Parquet, also as .gz. To remove: ids, one
    a line."""
    columns: tuple[str, ...] | None = None
    """Names of the fields in FILE, as --prepare.columns; by default those of the run's data."""
    images: Path | None = None
    """A folder for the pictures that are not next to FILE."""

    def __post_init__(self) -> None:
        """Reject an action without its file, and a file without a use."""
        settle_paths(self, fields=["run", "file", "images"])
        changes = self.action in ("add", "update", "remove")
        if changes and self.file is None:
            what = "ids, one a line" if self.action == "remove" else "products, a row each"
            raise InputError(f"mufin labels RUN {self.action} FILE: expected a file of {what}")
        if not changes and self.file is not None:
            raise InputError(f"{self.action} reads no file: leave {self.file} out")


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(LabelsCommand, arguments, "labels")
    predictor = Predictor.load(command.run)
    if command.action == "rollback":
        predictor.roll_back()
    elif command.file is not None and command.action == "remove":
        predictor.remove_labels(load_ids(command.file))
    elif command.file is not None:
        items = read_labels(_source(command, command.file, predictor))
        change = predictor.add_labels if command.action == "add" else predictor.update_labels
        change(items)
    print(summary(predictor.catalogue))


def _source(command: LabelsCommand, file: Path, predictor: Predictor) -> ItemFile:
    """Return the products' file, with the names of fields that the run's data had."""
    columns = command.columns
    if columns is None:
        columns = predictor.dataset.manifest.get("config", {}).get("columns", ())
    return ItemFile(file, Columns.parse(columns), command.images)


def summary(catalogue: Catalogue) -> str:
    """Return one line on what a catalogue holds."""
    trained, removed = len(catalogue.base.ids), len(catalogue.changes.removed)
    added = len(catalogue.added)
    version = f"version {catalogue.version}" if catalogue.version else "as it was trained"
    return (
        f"{trained - removed + added:,} labels: {trained:,} of training, {removed:,} of them "
        f"removed; {added:,} added ({version})"
    )
