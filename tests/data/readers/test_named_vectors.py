"""Ready vectors by item id: any order, other items among them, several files; what is rejected."""

import numpy as np
import pytest

from mufin_jax.data.readers.named_vectors import NamedVectors
from mufin_jax.runtime.errors import InputError

WANTED = {"A": 0, "B,C": 1, "D": 2}


def write(folder, name, ids, vectors, ending="\n"):
    """Write one pair of files; return the vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", vectors)
    (folder / f"{name}.ids.txt").write_text("".join(f"{uid}{ending}" for uid in ids))
    return vectors


def vectors_of(count, width=3, dtype=np.float32):
    return np.random.default_rng(count).normal(size=(count, width)).astype(dtype)


def read(found):
    return found.read(slice(0, len(found.rows)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_vectors_are_found_by_id_in_any_order_among_others_and_in_several_files(tmp_path, dtype):
    one = write(tmp_path / "v", "00", ["D", "other", "A"], vectors_of(3, dtype=dtype))
    two = write(tmp_path / "v", "01", ["more", "B,C"], vectors_of(2, dtype=dtype), "\r\n")
    found = NamedVectors.load(tmp_path / "v", WANTED, "text")
    assert found.items.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(read(found), np.stack([one[2], two[1], one[0]]))
    assert read(found).dtype == np.float32
    np.testing.assert_array_equal(found.read(slice(1, 2)), two[1:])


@pytest.mark.parametrize("name", ["v/00", "v/00.npy"])
def test_one_pair_of_files_is_named_with_or_without_its_ending(tmp_path, name):
    write(tmp_path / "v", "00", ["A"], vectors_of(1))
    write(tmp_path / "v", "01", ["A"], vectors_of(1))  # another embedding of the same items
    assert len(NamedVectors.load(tmp_path / name, WANTED, "text").rows) == 1


def test_several_rows_of_an_id_are_its_pictures_in_their_order(tmp_path):
    own = write(tmp_path, "v", ["D", "A", "D", "D"], vectors_of(4))
    found = NamedVectors.load(tmp_path / "v", WANTED, "image")
    assert found.items.tolist() == [0, 2, 2, 2]
    np.testing.assert_array_equal(read(found), own[[1, 0, 2, 3]])


def test_two_text_vectors_of_an_item_are_rejected_with_both_rows(tmp_path):
    write(tmp_path, "v", ["D", "A", "x", "D"], vectors_of(4))
    expected = r"v.npy: row 1 and .*v.npy: row 4 are of one item, 'D': expected one"
    with pytest.raises(InputError, match=expected):
        NamedVectors.load(tmp_path / "v", WANTED, "text")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_rejected_with_its_row(tmp_path, value):
    vectors = vectors_of(3)
    vectors[1, 2] = value
    write(tmp_path, "v", ["A", "D", "B,C"], vectors)
    with pytest.raises(InputError, match=r"v.npy: row 2 holds NaN or infinity"):
        read(NamedVectors.load(tmp_path / "v", WANTED, "text"))


def test_ids_of_other_items_alone_are_rejected(tmp_path):
    write(tmp_path, "v", ["X", "Y"], vectors_of(2))
    with pytest.raises(InputError, match=r"none of its ids is an item .* such as 'A'"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (np.zeros((2, 3)), r"float64 \(2, 3\): expected float32 or float16"),
        (np.zeros((2, 3), np.int32), r"int32 \(2, 3\): expected"),
        (np.zeros(2, np.float32), r"float32 \(2,\): expected"),
        (np.zeros((2, 0), np.float32), r"float32 \(2, 0\): expected"),
        (np.asfortranarray(vectors_of(2)), r"float32 \(2, 3\), Fortran order: expected"),
        (np.zeros((3, 3), np.float32), "v.ids.txt has 2 ids, but v.npy has 3 rows"),
        (np.zeros((1, 3), np.float32), "v.ids.txt has 2 ids, but v.npy has 1 rows"),
    ],
)
def test_arrays_of_another_form_are_rejected(tmp_path, vectors, expected):
    write(tmp_path, "v", ["A", "D"], vectors)
    with pytest.raises(InputError, match=expected):
        NamedVectors.load(tmp_path / "v", WANTED, "text")


def test_damaged_and_missing_files_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"found no vectors; expected a folder, or v.npy"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty has no vectors: expected NAME.npy"):
        NamedVectors.load(tmp_path / "empty", WANTED, "text")
    write(tmp_path, "v", ["A", "D"], vectors_of(2))
    whole = (tmp_path / "v.npy").read_bytes()
    (tmp_path / "v.npy").write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"v.npy is not an npy file of vectors"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")
    np.save(tmp_path / "v.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"v.npy is not an npy file of vectors"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")
    (tmp_path / "v.npy").write_bytes(whole)
    (tmp_path / "v.ids.txt").write_bytes(b"A\n\xff\n")
    with pytest.raises(InputError, match=r"v.ids.txt:2: expected UTF-8"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")
    (tmp_path / "v.ids.txt").unlink()
    with pytest.raises(InputError, match=r"v.npy has no ids: expected v.ids.txt next to it"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")


def test_files_of_different_widths_are_rejected(tmp_path):
    write(tmp_path / "v", "00", ["A"], vectors_of(1))
    write(tmp_path / "v", "01", ["D"], vectors_of(1, width=4))
    with pytest.raises(InputError, match=r"different widths: {'00.npy': 3, '01.npy': 4}"):
        NamedVectors.load(tmp_path / "v", WANTED, "text")
