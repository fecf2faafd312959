"""`mufin labels`: labels of a finished run are added, updated and removed without training."""

import dataclasses
import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.data.readers.field_values import parse_keep
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.id_lists import load_ids
from mufin_jax.data.readers.products import kept_fields_of
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.item_files import ItemFile, read_labels
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.paths import settle_paths

ACTIONS = ("show", "add", "update", "remove", "keep", "rollback")
_OTHER_NAMES = {
    "list": "show", "status": "show", "insert": "add", "append": "add", "replace": "update",
    "change": "update", "delete": "remove", "drop": "remove", "rm": "remove", "fields": "keep",
    "undo": "rollback", "revert": "rollback", "back": "rollback",
}  # fmt: skip
"""What people call the actions elsewhere."""


@dataclasses.dataclass(frozen=True)
class LabelsCommand:
    """Change which labels a finished run recommends, without training."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of a run whose stage finetune is done."""
    action: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="{" + ",".join(ACTIONS) + "}")
    ] = "show"
    """What to do: show how many labels there are, add, update or remove some, keep fields of them
    for filters, or return to the version before (rollback)."""
    file: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="FILE")] = None
    """Products to add or update, or with values of fields to keep: JSON lines, CSV, TSV or
    Parquet, also as .gz. To remove: ids, one a line."""
    fields: tuple[str, ...] = ()
    """Names of the fields to keep, such as category price; NAME:number or NAME:text where the
    values do not tell."""
    columns: tuple[str, ...] | None = None
    """Names of the fields in FILE, as --prepare.columns; by default those of the run's data."""
    images: Path | None = None
    """A folder for the pictures that are not next to FILE."""

    def __post_init__(self) -> None:
        """Reject an action without its file, and a file without a use."""
        settle_paths(self, fields=["run", "file", "images"])
        if self.action not in ACTIONS:
            called = _OTHER_NAMES | {name: name for name in ACTIONS}
            near = difflib.get_close_matches(self.action.lower(), called, 1, 0.6)
            advice = f"; did you mean {called[near[0]]}?" if near else ""
            raise InputError(
                f"mufin labels RUN: found the action {self.action!r:.80}; expected "
                f"{', '.join(ACTIONS)}{advice}"
            )
        changes = self.action in ("add", "update", "remove", "keep")
        if changes and self.file is None:
            what = "ids, one a line" if self.action == "remove" else "products, a row each"
            raise InputError(f"mufin labels RUN {self.action} FILE: expected a file of {what}")
        if not changes and self.file is not None:
            raise InputError(f"{self.action} reads no file: leave {self.file} out")
        if (self.action == "keep") != bool(self.fields):
            raise InputError(
                "mufin labels RUN keep FILE --fields NAME ...: both keep and --fields are needed"
            )


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(LabelsCommand, arguments, "labels")
    predictor = Predictor.load(command.run)
    if command.action == "rollback":
        predictor.roll_back()
    elif command.file is not None and command.action == "remove":
        predictor.remove_labels(load_ids(command.file))
    elif command.file is not None and command.action == "keep":
        _keep(command, command.file, predictor)
    elif command.file is not None:
        items = read_labels(
            _source(command, command.file, predictor, list(predictor.catalogue.fields.fields))
        )
        change = predictor.add_labels if command.action == "add" else predictor.update_labels
        change(items)
    print(summary(predictor.catalogue))
    if kept := kept_fields(predictor.catalogue):
        print(kept)


def _keep(command: LabelsCommand, file: Path, predictor: Predictor) -> None:
    """Keep fields of the labels, with the values that a file has."""
    names = list(parse_keep(command.fields, "--fields"))
    catalogue = predictor.catalogue

    def known(uid: str) -> bool:
        return next(catalogue.all_of(uid), None) is not None

    rows, others, without = read_kept(_source(command, file, predictor, names), known)
    predictor.keep_fields(rows, command.fields)
    print(f"{len(rows):,} of {len(rows) + others:,} products are labels")
    if without:
        print(f"{without:,} rows without an id of their own are left out")


def _source(
    command: LabelsCommand, file: Path, predictor: Predictor, keep: Sequence[str]
) -> ItemFile:
    """Return the products' file, with the names of fields that the run's data had.

    Args:
        command: names other fields.
        file: the products.
        predictor: of the run.
        keep: fields for filters that are read.
    """
    columns = command.columns
    if columns is None:
        columns = predictor.dataset.manifest.get("config", {}).get("columns", ())
    read = dataclasses.replace(Columns.parse(columns), keep=tuple(keep))
    return ItemFile(file, read, command.images)


def read_kept(
    source: ItemFile, known: Callable[[str], bool]
) -> tuple[list[dict[str, Any]], int, int]:
    """Return the labels of a file with the values of fields to keep.

    Args:
        source: the products.
        known: whether an id is that of a label.

    Returns:
        the labels' ids and values; how many products are no labels, and how many rows have no id,
        or that of an earlier label.

    Raises:
        InputError: if no row has one of the fields, or none is a label.
    """
    names, rows = source.columns.keep, dict[str, dict[str, Any]]()
    seen, first, others, without = set[str](), "", 0, 0
    for _, given in source.rows():
        if given is None:  # a blank line
            continue
        found = kept_fields_of(given, source.columns)
        if found is None or found[0] in rows:
            without += 1
            continue
        seen.update(name for name in given if name)
        if known(found[0]):
            rows[found[0]] = {"id": found[0]} | dict(zip(names, found[1], strict=True))
        else:
            first, others = first or found[0], others + 1
    if missing := [name for name in names if name not in seen]:
        shown = ", ".join(sorted(seen)[:12]) or "none"
        raise InputError(f"{source.path}: no row has the field {missing[0]!r:.80}; found {shown}")
    if not rows:
        raise InputError(
            f"{source.path}: none of {others:,} ids is a label's; the first: {first!r:.80}"
        )
    return list(rows.values()), others, without


def summary(catalogue: Catalogue) -> str:
    """Return one line on what a catalogue holds."""
    trained, removed = len(catalogue.base.ids), len(catalogue.changes.removed)
    added = len(catalogue.added)
    version = f"version {catalogue.version}" if catalogue.version else "as it was trained"
    return (
        f"{trained - removed + added:,} labels: {trained:,} of training, {removed:,} of them "
        f"removed; {added:,} added ({version})"
    )


def kept_fields(catalogue: Catalogue) -> str:
    """Return one line on the fields that are kept for filters, "" if there are none."""
    fields = catalogue.fields
    shown = (
        f"{name} ({fields.kinds()[name]}, {np.count_nonzero(field.known & catalogue.recommended):,}"
        " labels)"
        for name, field in fields.fields.items()
    )
    return f"fields for filters: {', '.join(shown)}" if fields.fields else ""
