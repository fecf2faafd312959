"""The made-up shop: its rows are read as they are, and tomorrow's are today's with the changes."""

import csv
import re

import pytest

from mufin_jax.commands.app import main
from mufin_jax.data import readers
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.synthetic.shop import COLUMNS, ShopConfig, write_shop
from mufin_jax.runtime.errors import InputError

SIZES = {"products": 40, "new": 6, "gone": 5, "picture": 16}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample") / "shop"
    write_shop(ShopConfig(folder, **SIZES))
    return folder


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_tomorrow_is_today_with_the_new_products_and_without_those_that_go(shop):
    today, new, tomorrow = (rows(shop / f"{name}.csv") for name in ("products", "new", "tomorrow"))
    gone = (shop / "gone.txt").read_text().split()
    assert (len(today), len(new), len(gone)) == (40, 6, 5)
    assert tomorrow.keys() == (today.keys() | new.keys()) - set(gone)
    assert not today.keys() & new.keys() and set(gone) <= today.keys()
    for row in tomorrow.values():
        assert set(filter(None, row["related"].split("|"))) <= tomorrow.keys() - {row["id"]}
    for row in today.values():
        assert set(filter(None, row["related"].split("|"))) <= today.keys() - {row["id"]}
    for row in new.values():
        assert set(filter(None, row["related"].split("|"))) <= today.keys() - set(gone)
    same = [name for name in COLUMNS if name != "related"]
    for uid, row in (today | new).items():
        later = tomorrow.get(uid, row)
        assert [later[name] for name in same] == [row[name] for name in same]
        assert re.fullmatch(r"\d+\.\d\d", row["price"]) and float(row["price"]) > 0


def test_every_photo_of_a_row_is_there_and_no_other(shop):
    everything = rows(shop / "products.csv") | rows(shop / "new.csv")
    named = [photo for row in everything.values() for photo in row["images"].split("|") if photo]
    found = [path.relative_to(shop).as_posix() for path in shop.glob("photos/*")]
    assert sorted(named) == sorted(found)


def test_the_reader_of_a_users_products_finds_nothing_bad(shop):
    tally = Tally(0.0)
    catalogue = readers.load_catalogue(shop / "products.csv", tally, 15, 10_000_000)
    points = [uid for name in ("train", "test") for uid in catalogue.sides[name].ids]
    assert sorted(points) == sorted(rows(shop / "products.csv"))
    assert set(catalogue.sides["label"].ids) <= set(points)


def test_the_same_seed_makes_the_same_shop_and_another_seed_another(shop, tmp_path):
    for seed, same in ((0, True), (1, False)):
        write_shop(ShopConfig(tmp_path / str(seed), **SIZES, seed=seed))
        for name in ("products.csv", "gone.txt", "tomorrow.csv"):
            found = (tmp_path / str(seed) / name).read_bytes()
            assert (found == (shop / name).read_bytes()) == same


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"products": 10}, "--products=10: expected at least 24"),
        ({"gone": 30}, "--gone=30: expected at most 16, which leaves 24 of 40 products"),
        ({"picture": 3}, "--picture=3: expected at least 16"),
    ],
)
def test_sizes_that_make_no_shop_are_rejected(tmp_path, wrong, line):
    with pytest.raises(InputError, match=re.escape(line)):
        ShopConfig(tmp_path, **(SIZES | wrong))


def test_a_folder_with_files_is_left_alone(shop, capsys):
    before = sorted(shop.rglob("*"))
    assert main(["sample", f"--to={shop}"], {}) == 2
    assert "expected a new or an empty folder" in capsys.readouterr().err
    assert sorted(shop.rglob("*")) == before
