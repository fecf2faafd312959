"""Fields of labels that are kept for filters, such as category and price: texts and numbers.

A field holds numbers, one a label, or texts, any number a label. Either may be missing.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

from mufin_jax.data.strings import Strings, check_offsets
from mufin_jax.runtime.storage.npy import load_arrays

FILE = "label_fields.npz"
"""In a prepared folder."""
_CURRENCY = "$€£¥ "
_GROUPED = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d*)?")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

FieldValue = float | tuple[str, ...] | None
"""A number, or texts; None if it is missing."""


def text_of(number: float) -> str:
    """Return a number as people write it: 3.0 as 3."""
    whole = number.is_integer() and abs(number) < 2**53
    return str(int(number) if whole else number)


def number_of(value: FieldValue) -> float | None:
    """Return a value as a number; None for texts that show none.

    A currency sign at either end and commas between thousands are allowed.
    """
    if not isinstance(value, tuple):
        return value
    text = value[0].strip(_CURRENCY) if len(value) == 1 else ""
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    found = float(text) if _NUMBER.fullmatch(text) else math.inf
    return found if math.isfinite(found) else None


def texts_of(value: FieldValue) -> tuple[str, ...]:
    """Return a value as texts; a number as it is written."""
    if isinstance(value, tuple):
        return value
    return () if value is None else (text_of(value),)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A field of numbers.

    Attributes:
        values: one a label, NaN where it is missing.
    """

    values: Float64[np.ndarray, " n"]

    @classmethod
    def of(cls, rows: Iterable[FieldValue]) -> "Numbers":
        """Return the field of values that are numbers; others are missing."""
        found = (number_of(value) for value in rows)
        return cls(np.array([math.nan if one is None else one for one in found], np.float64))

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which labels have a value."""
        return ~np.isnan(self.values)

    def rows(self) -> Iterator[FieldValue]:
        """Yield the value of each label."""
        return (None if math.isnan(one) else one for one in self.values.tolist())

    def at(self, rows: Int[np.ndarray, " k"]) -> "Numbers":
        """Return the values of some labels; row -1 has none."""
        return Numbers(np.append(self.values, np.nan)[rows])

    def followed_by(self, other: "Numbers") -> "Numbers":
        """Return the values of both."""
        return Numbers(np.concatenate([self.values, other.values]))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a file holds of the field."""
        return {"values": self.values}


@dataclasses.dataclass(frozen=True)
class Texts:
    """A field of texts.

    Attributes:
        names: the distinct texts, sorted.
        codes: numbers of names, label after label.
        offsets: where the codes of each label start, and where the last ones end.
    """

    names: Strings
    codes: Int32[np.ndarray, " e"]
    offsets: Int64[np.ndarray, " n_plus_1"]

    @classmethod
    def of(cls, rows: Iterable[FieldValue]) -> "Texts":
        """Return the field of these values; numbers become texts."""
        found = [texts_of(value) for value in rows]
        names = sorted({text for texts in found for text in texts})
        code_of = {name: code for code, name in enumerate(names)}
        codes = np.array([code_of[text] for texts in found for text in texts], np.int32)
        return cls(Strings.pack(names), codes, np.cumsum([0, *map(len, found)], dtype=np.int64))

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        """Which labels have a value."""
        return np.diff(self.offsets) > 0

    @functools.cached_property
    def code_of(self) -> dict[str, int]:
        """The number of each name."""
        return {name: code for code, name in enumerate(self.names)}

    def rows(self) -> Iterator[FieldValue]:
        """Yield the value of each label."""
        names = list(self.names)
        for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield tuple(names[code] for code in self.codes[start:stop]) or None

    def at(self, rows: Int[np.ndarray, " k"]) -> "Texts":
        """Return the values of some labels; row -1 has none. Names stay."""
        counts = np.append(np.diff(self.offsets), 0)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Texts(self.names, self.codes[places], offsets)

    def followed_by(self, other: "Texts") -> "Texts":
        """Return the values of both."""
        names = sorted({*self.names, *other.names})
        code_of = {name: code for code, name in enumerate(names)}
        codes = [
            np.array([code_of[name] for name in one.names], np.int32)[one.codes]
            for one in (self, other)
        ]
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        return Texts(Strings.pack(names), np.concatenate(codes), offsets)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what a file holds of the field."""
        names = {"blob": self.names.blob, "name_offsets": self.names.offsets}
        return {"codes": self.codes, "offsets": self.offsets} | names


Field = Numbers | Texts


@dataclasses.dataclass(frozen=True)
class KeptFields:
    """The fields of some labels that are kept for filters.

    Attributes:
        count: how many labels there are.
        fields: by their names.
    """

    count: int
    fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    @classmethod
    def build(
        cls,
        names: Sequence[str],
        rows: Sequence[Sequence[FieldValue]],
        kinds: Mapping[str, str] | None = None,
    ) -> "KeptFields":
        """Return the fields of labels.

        Args:
            names: of the fields.
            rows: the values of each label, a value a field.
            kinds: "number" or "text", by the name of a field; without, a field is of numbers if all
                of its values are numbers, or texts that show one.
        """
        fields = {}
        for place, name in enumerate(names):
            values = [row[place] for row in rows]
            kind = (kinds or {}).get(name) or kind_of(values)
            fields[name] = (Numbers if kind == "number" else Texts).of(values)
        return cls(len(rows), fields)

    def __len__(self) -> int:
        """Return the number of labels."""
        return self.count

    def kinds(self) -> dict[str, str]:
        """Return "number" or "text" for each field."""
        return {
            name: "number" if isinstance(field, Numbers) else "text"
            for name, field in self.fields.items()
        }

    def at(self, rows: Int[np.ndarray, " k"]) -> "KeptFields":
        """Return the fields of some labels; row -1 is a label without any value."""
        return KeptFields(len(rows), {name: one.at(rows) for name, one in self.fields.items()})

    def followed_by(self, other: "KeptFields") -> "KeptFields":
        """Return the fields of both; a field that one lacks is missing there.

        A field that is of numbers here and of texts there is of texts.
        """
        ours, theirs = (some.widened(self.fields.keys() | other.fields.keys(), apart)
                        for some, apart in ((self, other), (other, self)))  # fmt: skip
        fields: dict[str, Field] = {}
        for name in [*self.fields, *(name for name in other.fields if name not in self.fields)]:
            a, b = ours.fields[name], theirs.fields[name]
            if isinstance(a, Numbers) and isinstance(b, Numbers):
                fields[name] = a.followed_by(b)
            else:
                a, b = (one if isinstance(one, Texts) else Texts.of(one.rows()) for one in (a, b))
                fields[name] = a.followed_by(b)
        return KeptFields(len(self) + len(other), fields)

    def widened(self, names: Iterable[str], like: "KeptFields") -> "KeptFields":
        """Return the fields with further ones that no label has, of the kinds that others have."""
        nowhere = np.full(self.count, -1)
        more = {name: like.fields[name].at(nowhere) for name in names if name not in self.fields}
        return KeptFields(self.count, dict(self.fields) | more)

    def replaced(
        self, rows: Int[np.ndarray, " k"], new: "KeptFields", kinds: Mapping[str, str]
    ) -> "KeptFields":
        """Return the fields with other values for some labels.

        Args:
            rows: the labels.
            new: their values; fields that are new here are missing for other labels.
            kinds: of the fields, where they are not to stay, or be those of `new`.
        """
        fields = dict(self.fields)
        for name, field in new.fields.items():
            here = fields.get(name)
            values: list[FieldValue] = [None] * self.count
            if here is not None:
                values = list(here.rows())
            for row, value in zip(rows.tolist(), field.rows(), strict=True):
                values[row] = value
            kind = kinds.get(name) or self.kinds().get(name) or new.kinds()[name]
            fields[name] = (Numbers if kind == "number" else Texts).of(values)
        return KeptFields(self.count, fields)

    def save(self, path: Path) -> None:
        """Write the fields to an npz file without objects."""
        names = Strings.pack(self.fields)
        arrays = {"count": np.int64(self.count), "names": names.blob, "ends": names.offsets}
        for number, field in enumerate(self.fields.values()):
            arrays |= {f"{number}_{name}": array for name, array in field.arrays().items()}
        np.savez(path, **arrays)

    @classmethod
    def load(cls, path: Path) -> "KeptFields":
        """Return what `save` wrote; raise ValueError if it cannot be read."""
        arrays = load_arrays(path)
        fields, count = {}, int(arrays["count"])
        for number, name in enumerate(Strings.checked(arrays["names"], arrays["ends"])):
            own = {key.partition("_")[2]: array for key, array in arrays.items()
                   if key.startswith(f"{number}_")}  # fmt: skip
            fields[name] = _checked(own, name)
            if len(fields[name].known) != count:
                raise ValueError(f"field {name!r} has {len(fields[name].known)} of {count} labels")
        return cls(count, fields)


def _checked(arrays: Mapping[str, np.ndarray], name: str) -> Field:
    """Return the field of a file's arrays; raise ValueError if they are none."""
    if "values" in arrays:
        values = arrays["values"]
        if values.dtype != np.float64 or values.ndim != 1:
            raise ValueError(f"field {name!r} is {values.dtype} {values.shape}")
        return Numbers(values)
    names = Strings.checked(arrays["blob"], arrays["name_offsets"])
    codes, offsets = arrays["codes"], arrays["offsets"]
    check_offsets(offsets, len(codes))
    if codes.dtype != np.int32 or (len(codes) and not 0 <= codes.min() <= codes.max() < len(names)):
        raise ValueError(f"field {name!r} names texts that are not there")
    return Texts(names, codes, offsets)


def kind_of(values: Iterable[FieldValue]) -> str:
    """Return "number" if there are values and all of them show one number, else "text"."""
    known = [value for value in values if value is not None]
    return "number" if known and all(number_of(one) is not None for one in known) else "text"
