"""The fields of labels that are kept for filters, written to the prepared folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mufin_jax.data.kept_fields import FILE, FieldValue, KeptFields, Numbers, number_of
from mufin_jax.data.readers.catalogue import Catalogue
from mufin_jax.data.readers.field_values import parse_keep
from mufin_jax.data.readers.tally import Fact


def save_kept_fields(catalogue: Catalogue, keep: Sequence[str], folder: Path) -> list[Fact]:
    """Write label_fields.npz, if fields are kept; return how many labels lack a value of each.

    Args:
        catalogue: the items.
        keep: the option: names of fields, and perhaps their kinds.
        folder: the prepared folder.
    """
    kinds = parse_keep(keep, "prepare.keep")
    if not kinds:
        return []
    label = catalogue.sides["label"]
    kept: list[int] = np.flatnonzero(label.kept).tolist()
    rows = [label.kept_fields[i] for i in kept]
    chosen = {name: kind for name, kind in kinds.items() if kind}
    fields = KeptFields.build(list(kinds), rows, chosen)
    fields.save(folder / FILE)
    facts = []
    for place, (name, field) in enumerate(fields.fields.items()):
        missing = np.flatnonzero(~field.known)
        first = f"label {label.ids[kept[missing[0]]]!r}" if len(missing) else ""
        facts.append(Fact(f"labels without {name[:40]}", len(missing), len(rows), first))
        values = [row[place] for row in rows]
        facts += _no_numbers(name, values, isinstance(field, Numbers))
    return facts


def _no_numbers(name: str, values: Sequence[FieldValue], number: bool) -> list[Fact]:
    """Return how many values of a field are no numbers, where most are, or the user chose so."""
    known = [value for value in values if value is not None]
    odd = [value for value in known if number_of(value) is None]
    if not odd or (not number and len(odd) > len(known) / 2):
        return []
    shown = f"such as {odd[0]!r:.40}"
    what = "left out" if number else f"so {name[:40]} is kept as texts (or: {name[:40]}:number)"
    return [Fact(f"values of {name[:40]} that are no numbers", len(odd), len(known),
                 f"{shown}; {what}")]  # fmt: skip
