"""Fields that are kept for filters: their values, their kinds, and their file."""

import datetime
import decimal
import math

import numpy as np
import pytest

from mufin_jax.data.kept_fields import KeptFields, kind_of, number_of
from mufin_jax.data.readers.field_values import parse_keep, read_value
from mufin_jax.runtime.errors import InputError

NAMES = ["category", "price"]
ROWS = [(("chair", "oak"), 20.0), (("lamp",), None), (None, 5.0), (("chair",), 7.5)]


def values(fields):
    return {name: list(field.rows()) for name, field in fields.fields.items()}


@pytest.mark.parametrize(
    "raw, value",
    [
        (3, 3.0), (np.float32(0.5), 0.5), (decimal.Decimal("2.5"), 2.5), (math.nan, None),
        (10**400, None), (None, None), ("", None), (" chair ", ("chair",)), (True, ("true",)),
        ("chair|table", ("chair", "table")), ("['chair', 'table']", ("chair", "table")),
        ("Home &amp; Garden", ("Home & Garden",)), ("oak; steel, glass", ("oak; steel, glass",)),
        ([["Home", "Sofas"], ["Home"]], ("Home", "Sofas")), ([1, 2.5, None], ("1", "2.5")),
        ({"rank": 3}, None), (datetime.date(2026, 12, 1), ("2026-12-01",)), ([], None),
    ],
)  # fmt: skip
def test_a_value_is_a_number_or_texts_or_missing(raw, value):
    assert read_value(raw) == value


@pytest.mark.parametrize(
    "text, number",
    [
        ("20", 20), (" $1,299.00 ", 1299), ("12.50 €", 12.5), ("-.5", -0.5), ("1e3", 1000),
        ("12,5", None), ("nan", None), ("1e999", None), ("$12 - $20", None), ("a", None),
    ],
)  # fmt: skip
def test_a_text_that_shows_a_number_is_one(text, number):
    assert number_of((text,)) == number
    assert kind_of([(text,), None]) == ("text" if number is None else "number")


def test_a_field_is_of_numbers_if_all_of_its_values_are_or_if_it_is_chosen():
    rows = [(("5",),), (("about 6",),), (7.0,), (None,)]
    assert values(KeptFields.build(["x"], rows)) == {"x": [("5",), ("about 6",), ("7",), None]}
    chosen = KeptFields.build(["x"], rows, {"x": "number"})
    assert values(chosen) == {"x": [5.0, None, 7.0, None]} and chosen.kinds() == {"x": "number"}
    assert KeptFields.build(["x"], [(None,), (None,)]).kinds() == {"x": "text"}


def test_fields_are_saved_cut_and_joined(tmp_path):
    fields = KeptFields.build(NAMES, ROWS)
    fields.save(tmp_path / "fields.npz")
    found = KeptFields.load(tmp_path / "fields.npz")
    assert values(found) == values(fields) == {
        name: [row[place] for row in ROWS] for place, name in enumerate(NAMES)
    }  # fmt: skip
    some = found.at(np.array([3, -1, 0]))
    assert values(some) == {"category": [("chair",), None, ("chair", "oak")],
                            "price": [7.5, None, 20.0]}  # fmt: skip
    more = KeptFields.build(["brand", "category"], [(("a",), ("bed",))])
    assert values(some.followed_by(more)) == {
        "category": [("chair",), None, ("chair", "oak"), ("bed",)],
        "price": [7.5, None, 20.0, None],
        "brand": [None, None, None, ("a",)],
    }
    assert values(KeptFields(2).followed_by(more))["brand"] == [None, None, ("a",)]


def test_replacing_values_of_some_labels_leaves_the_others():
    fields = KeptFields.build(NAMES, ROWS)
    new = KeptFields.build(["price", "size"], [(9.0, ("L",)), (None, ("S",))])
    found = fields.replaced(np.array([2, 0]), new, {})
    assert values(found) == {
        "category": [row[0] for row in ROWS],
        "price": [None, None, 9.0, 7.5],
        "size": [("S",), None, ("L",), None],
    }
    texts = fields.replaced(np.array([2]), new.at(np.array([0])), {"price": "text"})
    assert values(texts)["price"] == [("20",), None, ("9",), ("7.5",)]


@pytest.mark.parametrize(
    "name, array",
    [
        ("1_values", np.zeros(3)), ("1_values", np.zeros(4, np.int64)),
        ("0_codes", np.full(4, 3, np.int32)), ("0_offsets", np.arange(4)), ("ends", np.arange(2)),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_together_is_rejected(tmp_path, name, array):
    KeptFields.build(NAMES, ROWS).save(tmp_path / "fields.npz")
    with np.load(tmp_path / "fields.npz") as arrays:
        changed = dict(arrays) | {name: array}
    np.savez(tmp_path / "fields.npz", **changed)
    with pytest.raises(ValueError):
        KeptFields.load(tmp_path / "fields.npz")


def test_the_option_names_fields_and_perhaps_their_kinds():
    found = parse_keep(["category", "price:number", "a:b"], "prepare.keep")
    assert found == {"category": None, "price": "number", "a:b": None}
    for wrong in (["category", "category:text"], ["a,b"], [" "], ["category=x"]):
        with pytest.raises(InputError, match=r"prepare.keep: .*expected names of fields"):
            parse_keep(wrong, "prepare.keep")
