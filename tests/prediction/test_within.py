"""Which labels a query allows: ids, conditions on kept fields, and what is wrong with them."""

import numpy as np
import pytest

from mufin_jax.commands.conditions import read_within
from mufin_jax.data.kept_fields import KeptFields
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.catalogue import Catalogue, Names
from mufin_jax.prediction.segment import Changes, Segment
from mufin_jax.prediction.within import allowed_labels
from mufin_jax.runtime.errors import InputError

NAMES = ["category", "price"]
ROWS = [(("chair", "oak"), 20.0), (("lamp",), None), (None, 5.0), (("chair",), 7.5)]


def names(*ids):
    return Strings.pack(ids)


@pytest.fixture
def catalogue():
    """Four labels of training, the last one removed, and two that were added."""
    base = Names(names(*"abcd"), names(*"abcd"), KeptFields.build(NAMES, ROWS))
    z = np.ones((2, 4), np.float32)
    starts = np.zeros(3, np.int64)
    kept = KeptFields.build(NAMES, [(("lamp", "chair"), 30.0), (("bed",), 5.0)])
    added = Segment(names("e", "f"), names("", ""), z, np.arange(3), z, starts[:0], starts, kept)
    return Catalogue(base, Changes(added, np.array([3], np.int32)))


@pytest.mark.parametrize(
    "within, ids",
    [
        (["a", "d", "nobody"], "ad"),  # ids name removed labels, too: these are barred anyway
        ({"category": "chair"}, "ae"),
        ({"category": ["oak", "bed", "nothing"]}, "af"),
        ({"category": ("lamp", "bed")}, "bef"),
        ({"price": 5}, "cf"),
        ({"price": "20"}, "a"),
        ({"price": [5.0, 30]}, "cef"),
        ({"price": (None, 20)}, "acf"),
        ({"price": (6, None)}, "ae"),
        ({"price": (5, np.float32(20))}, "acf"),
        ({"category": "chair", "price": (None, 25)}, "a"),
        ({"id": ["a", "b", "d"], "category": ["lamp", "chair"]}, "ab"),
    ],
)
def test_all_conditions_hold_and_any_value_of_one_does(catalogue, within, ids):
    found = allowed_labels(catalogue, within)
    assert [catalogue.id_of(int(label)) for label in found] == list(ids)


@pytest.mark.parametrize(
    "within, said",
    [
        ({"colour": "red"}, "'colour' is not kept; expected one of category .text., price .number"),
        ({"colour": "red"}, "`mufin labels RUN keep FILE --fields colour`"),
        ({"price": "cheap"}, "price: found 'cheap'; expected a number, a list of numbers, or a p"),
        ({"price": (None, "much")}, r"price: found \(None, 'much'\); expected a number"),
        ({"price": None}, "price: found None"),
        ({"price": float("nan")}, "price: found nan"),
        ({"category": (None, 20.0)}, "category: found .*for ranges, keep it as category:number"),
        ({"category": {"a": 1}}, "expected a text or a list of texts"),
        ({"category": "Chiar"}, "none of the 5 labels has category Chiar; did you mean 'chair'"),
        ({"category": "x"}, "category is 'bed', 'chair', 'lamp', 'oak'$"),
        ({"price": (100, None)}, "price from 100 to any; price goes from 5 to 30"),
        ({"category": "oak", "price": 5}, "has category oak and price 5$"),
        ({}, "found no condition"),
    ],
)
def test_what_is_wrong_with_a_condition_is_told_in_one_line(catalogue, within, said):
    with pytest.raises(InputError, match=said) as error:
        allowed_labels(catalogue, within)
    assert "\n" not in str(error.value)


def test_without_kept_fields_the_error_tells_how_to_keep_some():
    catalogue = Catalogue(Names(names("a"), names("a")), Changes.none(4))
    with pytest.raises(InputError, match="no field is kept for filters yet; keep it by `mufin lab"):
        allowed_labels(catalogue, {"price": (None, 20)})


def test_options_become_conditions(tmp_path):
    (tmp_path / "a=b.txt").write_text("x\ny\n")
    ids = str(tmp_path / "a=b.txt")
    assert read_within([]) is None
    assert read_within([ids]) == ["x", "y"]
    assert read_within(["category=chair", "category=a<b", " type = x y"]) == {
        "category": ["chair", "a<b"], "type": ["x y"],
    }  # fmt: skip
    assert read_within(["price<=20", "price>=5.5", "price<=$1,000"]) == {"price": (5.5, 20.0)}
    (low, high) = read_within(["price>5", "price<20"])["price"]
    assert 5 < low < 5.0001 and 19.999 < high < 20
    assert read_within([ids, "price<=20"]) == {"id": ["x", "y"], "price": (None, 20.0)}


@pytest.mark.parametrize(
    "options, said",
    [
        (["none.txt"], "no such file; expected a text file of ids, one a line, or a condition"),
        (["=chair"], "no such file"),
        (["price<=cheap"], "found 'cheap'; expected a number after <="),
        (["price<=20", "price=5"], "'price' has both a value and a bound"),
    ],
)
def test_an_option_that_is_no_condition_is_rejected(options, said):
    with pytest.raises(InputError, match=said):
        read_within(options)
