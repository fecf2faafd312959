"""The generated outfits: their questions, their ceiling, and what titles show."""

import json
from collections import Counter

import numpy as np
import pytest

from mufin_jax.data.readers import load_catalogue, load_ceiling
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.synthetic import titles
from mufin_jax.data.synthetic.outfits import OutfitsConfig, write_outfits
from mufin_jax.runtime.errors import InputError

CONFIG = OutfitsConfig(outfits=30, test_outfits=120, themes=3, copies=2, picture=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("outfits") / "out"
    write_outfits(CONFIG, out)
    return out


def load(folder, name):
    return json.loads((folder / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def named(folder):
    """Items of test by the names that questions use."""
    outfits = load(folder, "disjoint/test.json")
    return {f"{o['set_id']}_{i['index']}": i["item_id"] for o in outfits for i in o["items"]}


def sort_of(item: str) -> tuple[int, int, int]:
    """Theme, style and kind of an item, from its place on its shelf."""
    number = int(item) % 100_000_000 // CONFIG.copies
    return number // 40, number // 10 % 4, number % 10


def test_the_reader_finds_no_defect(folder):
    tally = Tally(0.0)
    found = load_catalogue(folder, tally, 15, 10**6)
    assert found.form == "outfits" and not tally.counts
    assert found.questions is not None
    assert len(found.questions.right) == 120 and found.questions.unseen.all()
    assert found.questions.compatible.sum() == 120 == (~found.questions.compatible).sum()


def test_items_of_training_and_test_are_disjoint(folder):
    train, test = (
        {i["item_id"] for o in load(folder, f"disjoint/{name}.json") for i in o["items"]}
        for name in ("train", "test")
    )
    assert train and test and not train & test


def test_wrong_answers_share_the_theme_the_style_or_neither(folder, named):
    shares, kinds = Counter(), 0
    for question in load(folder, "disjoint/fill_in_blank_test.json"):
        set_of = question["question"][0].split("_")[0]
        own = [sort_of(named[name])[:2] for name in question["question"]]
        theme, style = max(own, key=own.count)
        items = [named[name] for name in question["answers"]]
        assert len(set(items)) == 4
        kinds += len({sort_of(item)[2] for item in items}) == 1
        right = [name.split("_")[0] == set_of for name in question["answers"]]
        assert sum(right) == 1
        for item, is_right in zip(items, right, strict=True):
            known = sort_of(item)
            shares[is_right, known[0] == theme, known[1] == style] += 1
    assert kinds > 100  # a small test set lacks some sorts
    assert shares[True, True, True] > 100
    assert min(shares[False, True, False], shares[False, False, True]) > 90
    assert shares[False, True, True] < 12


def test_the_ceiling_counts_all_answers_that_do_not_stray(folder):
    ceiling = load_ceiling(folder)
    assert ceiling is not None and 94 < ceiling["FITB"] < 100


def test_titles_show_the_theme_and_not_the_style(folder):
    facts = load(folder, "polyvore_item_metadata.json")
    hues, named = Counter(), 0
    for item, found in facts.items():
        words = set(found["title"].split())
        named += bool(words & set(titles.theme_words(sort_of(item)[0])))
        hues.update(words & set(titles.HUES))
    assert named > 0.85 * len(facts) and hues.total() < 0.2 * len(facts)


def test_the_same_configuration_gives_the_same_bytes(folder, tmp_path):
    write_outfits(CONFIG, tmp_path / "again")
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(paths) == 7 + 2 * 3 * 4 * 10 * 2
    for path in np.random.default_rng(0).choice(len(paths), 40, replace=False):
        assert (folder / paths[path]).read_bytes() == (
            tmp_path / "again" / paths[path]
        ).read_bytes()


def test_a_folder_with_other_files_is_rejected(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files, expected an empty folder"):
        write_outfits(CONFIG, tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("outfits", 1),
        ("test_outfits", 1),
        ("themes", 1),
        ("copies", 0),
        ("picture", 8),
        ("stray", 1.5),
    ],
)
def test_impossible_sizes_are_rejected_by_field(field, value):
    with pytest.raises(InputError, match=f"miniature: {field}={value}"):
        OutfitsConfig(**{field: value})
