"""The validation part: which points are held out, what no longer trains, and what is not scored."""

import hashlib
import shutil

import numpy as np
import pytest
import scipy.sparse
from raw_folders import tiny_outfits, tiny_repository, write_pairs, write_repository

from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.loader import Loader
from mufin_jax.data.preparation.overlap import own_pairs, reversed_pairs
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.preparation.validation import hold_out
from mufin_jax.data.strings import Strings
from mufin_jax.data.validation import FILTER, HELD_OUT, POINTS
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json, load_sealed, save_sealed
from mufin_jax.training import finetune_batches, pretrain_batches

FILES = {HELD_OUT, POINTS, FILTER}
TRAIN, TEST, LABEL = "ABCDE", "TU", "ABCDTUX"
BOUGHT = {*("AB", "AC", "AD", "BC", "BT", "CX", "DT", "EX", "TU")}
"""Products bought together; X is a label alone."""


def pairs(points: str, wanted: set[str]) -> scipy.sparse.csr_matrix:
    """Points x labels, 1 for each pair "point label" that is wanted."""
    rows = [[float(point + label in wanted) for label in LABEL] for point in points]
    return scipy.sparse.csr_matrix(np.array(rows, np.float32))


def names(matrix: scipy.sparse.csr_matrix, points: str) -> set[str]:
    """The pairs of a matrix as "point label"."""
    found = matrix.tocoo()
    return {points[row] + LABEL[column] for row, column in zip(found.row, found.col, strict=True)}


SYMMETRIC = BOUGHT | {pair[::-1] for pair in BOUGHT}
IDS = {"train": Strings.pack(TRAIN), "test": Strings.pack(TEST), "label": Strings.pack(LABEL)}
RELEVANCE = {"train": pairs(TRAIN, SYMMETRIC), "test": pairs(TEST, SYMMETRIC)}
OWN = {item + item for item in LABEL}
REVERSED = {"TB", "TD"}  # BT and DT train; of U and T, neither trains
NOTHING: set[str] = set()


def held(chosen: str, cold: str = "", test=OWN | REVERSED, train=OWN):
    """What is held out if these products are validation points, under these filters."""
    masks = [np.array([item in some for item in TRAIN]) for some in (chosen, cold)]
    filters = {"train": pairs(TRAIN, train), "test": pairs(TEST, test)}
    held_out, validation = hold_out(*masks, IDS, RELEVANCE, filters)
    points = "".join(TRAIN[row] for row in validation.rows)
    assert points == chosen and names(validation.relevance, points) == {
        pair for pair in SYMMETRIC if pair[0] in chosen
    }
    return names(held_out, TRAIN), validation, names(validation.filter, points)


def test_all_pairs_of_a_validation_point_are_held_out():
    held_out, validation, _ = held("A")
    assert held_out == {"AB", "AC", "AD"} and validation.cold.tolist() == [False]


def test_a_cold_point_also_loses_the_pairs_of_its_own_label():
    held_out, validation, _ = held("A", cold="A")
    assert held_out == {"AB", "AC", "AD", "BA", "CA", "DA"} and validation.cold.tolist() == [True]


def test_reversed_pairs_that_still_train_are_not_scored_in_validation():
    """The trap: in the test they are not scored, so a walk over training pairs must not profit."""
    *_, filtered = held("A")
    assert filtered == {"AA", "AB", "AC", "AD"}


def test_a_reversed_pair_that_is_held_out_is_scored():
    *_, filtered = held("AB")  # neither AB nor BA trains
    assert filtered == {"AA", "AC", "AD", "BB", "BC"}
    *_, filtered = held("A", cold="A")  # no pair of label A trains
    assert filtered == {"AA"}


@pytest.mark.parametrize(
    "test, filtered",
    [
        (OWN | REVERSED, {"AA", "AB", "AC", "AD"}),
        (OWN | {"TB"}, {"AA", "AB", "AC", "AD"}),  # half of them
        (OWN, {"AA"}),
        ({"TT", "TB", "TD"}, {"AA", "AB", "AC", "AD"}),
        (REVERSED, {"AB", "AC", "AD"}),
        (NOTHING, NOTHING),
        ({"TX"}, NOTHING),
    ],
)
def test_the_validation_filter_has_the_kinds_of_pairs_that_the_test_filter_has(test, filtered):
    *_, found = held("A", test=test, train=NOTHING)
    assert found == filtered


def test_rows_of_the_training_filter_are_not_scored_and_do_not_count_as_trained():
    *_, found = held("A", train=OWN | {"AX", "BA"})
    assert found == {"AA", "AX", "AC", "AD"}  # BA does not train, so AB is no reversed pair


def test_kinds_of_pairs_that_no_test_point_has_are_not_scored_in_validation():
    ids = IDS | {"test": Strings.pack(["one", "two"])}  # test points are no labels
    filters = {"train": pairs(TRAIN, NOTHING), "test": pairs(TEST, NOTHING)}
    chosen = np.array([item == "A" for item in TRAIN])
    _, validation = hold_out(chosen, ~chosen, ids, RELEVANCE, filters)
    assert names(validation.filter, "A") == {"AA", "AB", "AC", "AD"}


def test_a_point_is_cold_if_its_item_is_no_label_or_its_label_no_longer_trains():
    ids = IDS | {"train": Strings.pack(["A", "B", "C", "D", "no label"])}
    chosen = np.array([True, True, True, True, False])
    filters = {name: pairs(some, OWN) for name, some in (("train", TRAIN), ("test", TEST))}
    _, validation = hold_out(chosen, ~chosen, ids, RELEVANCE, filters)
    assert validation.cold.tolist() == [True] * 4  # only the pair (no label, X) is left
    chosen = np.array([True, False, False, False, True])
    _, validation = hold_out(chosen, ~chosen, ids, RELEVANCE, filters)
    assert validation.cold.tolist() == [False, True]


def test_pairs_of_the_same_item_and_reversed_pairs_are_found_by_their_labels():
    own = np.array([LABEL.find(item) for item in TRAIN])
    own[1] = -1
    assert names(own_pairs(own, len(LABEL)), TRAIN) == {"AA", "CC", "DD"}
    found = reversed_pairs(RELEVANCE["train"], own, RELEVANCE["test"], np.array([4, 5]), 7)
    assert names(found, TEST) == {"TD"}  # B is no label, so (T, B) has no reverse


def products(folder, count=60):
    """A symmetric catalogue: product i is bought with its two neighbours on a ring; all train."""
    titles = [(f"P{i}", f"chair {i}") for i in range(count)]
    rows = [sorted({(i + 1) % count, (i - 1) % count}) for i in range(count)]
    sides = {"train": titles, "test": titles[:9], "label": titles}
    return write_repository(folder, sides, {"train": rows, "test": rows[:9]})


CONFIG = {"max_tokens": 8, "vocab_size": 200, "records": False, "image_size": 8}


def prepared(raw, out, share, **fields) -> Dataset:
    prepare(PrepareConfig(**CONFIG | fields, validation_share=share), raw, out)
    return Dataset.load(out, verify=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared products with a validation part."""
    folder = tmp_path_factory.mktemp("validation")
    prepared(products(folder / "raw"), folder / "out", 0.25)
    return folder / "out"


def number(text: str) -> float:
    return int(hashlib.sha1(text.encode()).hexdigest()[:8], 16) / 2**32


CHOSEN = [i for i in range(60) if number(f"validation:P{i}") < 0.25]


def test_points_are_chosen_by_a_hash_of_their_ids(folder):
    validation = Dataset.load(folder).validation
    assert validation is not None
    assert validation.rows.tolist() == CHOSEN and 5 < len(CHOSEN) < 25
    hidden = [number(f"cold:P{i}") < 0.5 for i in CHOSEN]
    assert 1 < sum(hidden) < len(hidden)
    assert all(validation.cold[hidden])


def test_points_without_a_label_are_no_validation_points(tmp_path):
    """There would be nothing to measure on them."""
    titles = [(f"P{i}", f"chair {i}") for i in range(60)]
    rows = [[(i + 1) % 60] if i % 3 else [] for i in range(60)]
    sides = {"train": titles, "test": titles[:9], "label": titles}
    raw = write_repository(tmp_path / "raw", sides, {"train": rows, "test": rows[:9]})
    validation = prepared(raw, tmp_path / "out", 0.25).validation
    assert validation is not None
    assert validation.rows.tolist() == [i for i in CHOSEN if i % 3] != CHOSEN


def test_nothing_of_a_validation_point_trains_and_no_cold_label_has_a_training_pair(folder):
    dataset = Dataset.load(folder)
    validation = dataset.validation
    assert validation is not None
    likes, blocked = training_pairs(dataset.train)
    assert likes[validation.rows].nnz == 0 < likes.nnz
    assert likes[:, validation.rows[validation.cold]].nnz == 0  # label i is point i
    assert all(likes[:, row].nnz for row in validation.rows[~validation.cold])
    assert (dataset.train.pairs.astype(bool) > blocked).nnz == 0  # held-out pairs are no negatives


def test_no_batch_holds_a_validation_point_or_a_cold_label_as_a_positive(folder):
    dataset = Dataset.load(folder)
    assert dataset.validation is not None
    out = {f"P{row}" for row in dataset.validation.rows}
    cold = {f"P{row}" for row in dataset.validation.rows[dataset.validation.cold]}
    config = pretrain_batches.PretrainConfig(batch_size=8)
    batches = pretrain_batches.Batches(config, dataset, Loader(dataset, "both"), 0)
    for step in range(12):
        ids = batches.ids(step)
        assert not out & set(ids["points"]) and not cold & set(ids["labels"])
    lists = np.tile(np.arange(60, dtype=np.int32), (60, 1))
    tuned = finetune_batches.FinetuneConfig(batch_size=8, negatives_from=40)
    batches = finetune_batches.Batches(tuned, dataset, Loader(dataset, "both"), lists, 0)
    for step in range(12):
        assert not out & set(batches.ids(step)["points"])
    assert not batches.relevance[:, dataset.validation.rows[dataset.validation.cold]].nnz


def test_opening_without_holding_out_gives_all_pairs_back(folder, tmp_path):
    whole = Dataset.load(folder, hold_out=False)
    assert whole.validation is None and whole.train.held_out is None
    plain = prepared(products(tmp_path / "raw"), tmp_path / "out", 0.0)
    assert plain.validation is None
    for found, wanted in zip(training_pairs(whole.train), training_pairs(plain.train), strict=True):
        np.testing.assert_array_equal(found.toarray(), wanted.toarray())


def test_a_validation_part_adds_files_and_changes_no_other(folder, tmp_path):
    raw = products(tmp_path / "raw")
    prepared(raw, tmp_path / "again", 0.25)
    prepared(raw, tmp_path / "plain", 0.25)
    prepared(raw, tmp_path / "plain", 0.0)  # what an earlier preparation left is removed
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "again").iterdir()} == files
    plain = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert set(files) - set(plain) == FILES and FILES < set(
        load_json(folder / "manifest.json")["files"]
    )
    changed = {name for name in plain if plain[name] != files[name]}
    assert changed == {"manifest.json", "prepare_report.json"}
    assert b"validation" not in plain["manifest.json"] + plain["prepare_report.json"]


def test_the_report_counts_validation_points_cold_ones_and_held_out_pairs(folder):
    kept, dataset = load_json(folder / "prepare_report.json")["kept"], Dataset.load(folder)
    assert dataset.validation is not None and dataset.train.held_out is not None
    assert kept["validation"] == len(dataset.validation)
    assert kept["validation_cold"] == dataset.validation.cold.sum()
    assert kept["train_held_out"] == dataset.train.held_out.nnz


def test_filter_files_decide_by_the_test_pairs_that_they_leave_out(tmp_path):
    raw = products(tmp_path / "raw")
    write_pairs(raw / "filter_labels_train.txt", [(i, i) for i in range(60)])
    write_pairs(raw / "filter_labels_test.txt", [(i, i) for i in range(9)])
    own = prepared(raw, tmp_path / "own", 0.25).validation
    assert own is not None and own.filter.nnz == len(own)
    found = [(i, j % 60) for i in range(9) for j in (i - 1, i, i + 1)]
    write_pairs(raw / "filter_labels_test.txt", found)
    both = prepared(raw, tmp_path / "both", 0.25).validation
    as_chosen = prepared(raw, tmp_path / "chosen", 0.25, filter="reciprocal").validation
    assert both is not None and as_chosen is not None
    assert both.filter.nnz > own.filter.nnz
    np.testing.assert_array_equal(both.filter.toarray(), as_chosen.filter.toarray())


def test_points_of_one_outfit_are_held_out_together(tmp_path):
    dataset = prepared(tiny_outfits(tmp_path / "raw"), tmp_path / "out", 0.5)
    outfits = [uid.split("_")[0] for uid in dataset.train.ids]
    wanted = [i for i, name in enumerate(outfits) if number(f"validation:{name}") < 0.5]
    assert 0 < len(wanted) < len(outfits) and dataset.validation is not None
    assert dataset.validation.rows.tolist() == wanted and dataset.validation.cold.all()


def test_a_share_that_holds_out_no_point_is_rejected(tmp_path):
    said = "validation_share is 1e-09: no training point is held out; expected a larger share"
    with pytest.raises(InputError, match=said):
        prepared(products(tmp_path / "raw"), tmp_path / "out", 1e-9)


def test_a_share_that_leaves_nothing_to_train_on_is_rejected(tmp_path):
    raw = tiny_repository(tmp_path / "raw")  # only its validation points get a label
    lines = ["0:1" if number(f"validation:A{i}") < 0.5 else "" for i in range(40)]
    (raw / "trn_X_Y.txt").write_text("\n".join(["40 20", *lines]) + "\n")
    said = r"validation_share is 0\.5: no pair is left to train on; expected a smaller share"
    with pytest.raises(InputError, match=said):
        prepared(raw, tmp_path / "out", 0.5)


def change(folder, name, **arrays):
    """Replace arrays of a prepared file, and update the list of files."""
    with np.load(folder / name) as found:
        np.savez(folder / name, **(dict(found) | arrays))
    manifest = load_sealed(folder / "manifest.json")
    manifest["files"][name]["bytes"] = (folder / name).stat().st_size
    save_sealed(folder / "manifest.json", manifest)


@pytest.mark.parametrize(
    "name, arrays, said",
    [
        (POINTS, {"rows": np.array([3, 60])}, "validation points go from 3 to 60, of 60"),
        (POINTS, {"rows": np.array([-1, 3])}, "validation points go from -1 to 3, of 60"),
        (POINTS, {"rows": np.array([3, 3])}, "or do not ascend"),
        (POINTS, {"rows": np.array([3.0])}, "validation points are float64"),
        (POINTS, {"cold": np.array([True])}, r"validation points, cold: bool \(1,\)"),
        (FILTER, {"shape": np.array([len(CHOSEN), 61])}, "the validation filter has the shape"),
        (HELD_OUT, {"shape": np.array([60, 61])}, r"a matrix of train has the shape \(60, 61\)"),
    ],
)
def test_a_damaged_validation_part_is_one_clear_error(name, arrays, said, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy, name, **arrays)
    with pytest.raises(InputError, match=said):
        Dataset.load(copy)


@pytest.mark.parametrize("share", [-0.1, 0.51, float("nan")])
def test_a_share_out_of_range_is_rejected(share):
    with pytest.raises(InputError, match=r"expected a share from 0 to 0\.5"):
        PrepareConfig(validation_share=share)
