"""Which label each point is itself."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.data import own_labels as own_labels_module
from mufin_jax.data.own_labels import LabelFinder, own_labels, warm_points
from mufin_jax.data.strings import Strings


def own(points, labels):
    found = own_labels(Strings.pack(points), Strings.pack(labels))
    assert found.dtype == "int64" and found.shape == (len(points),)
    return found.tolist()


def test_a_point_is_the_label_with_the_same_whole_id():
    assert own(["b", "x", "a,b", ""], ["a", "b", "a,b"]) == [1, -1, 2, -1]


def test_points_with_the_same_id_are_the_same_label_whichever_side_is_smaller():
    assert own(["a", "b", "a"], ["b", "a"]) == [1, 0, 1]
    assert own(["a", "b", "a"], ["b", "a", "c", "d"]) == [1, 0, 1]


@pytest.mark.parametrize("more", [[], ["c", "d", "e"]])
def test_of_labels_with_the_same_id_the_last_counts(more):
    assert own(["a", "z", "b"], ["a", "b", "a", *more]) == [2, -1, 1]


@pytest.mark.parametrize("hashed", [hash, len, lambda uid: 0])
def test_an_id_finds_the_last_of_its_labels_also_where_hashes_are_equal(hashed, monkeypatch):
    monkeypatch.setattr(own_labels_module, "hash", hashed, raising=False)
    ids = Strings.pack(["a", "b", "a", "", "long", "c"])
    finder = LabelFinder(ids, np.array([0, 1, 2, 3, 4]))
    wanted = {"a": 2, "b": 1, "": 3, "long": 4, "c": -1, "d": -1, "lung": -1}
    assert {uid: finder.find(uid) for uid in wanted} == wanted
    assert LabelFinder(ids, np.array([], np.int64)).find("a") == -1


def test_no_points_and_no_labels_are_fine():
    assert own([], ["a"]) == [] and own(["a"], []) == [-1] and own([], []) == []


def test_a_point_is_warm_if_it_is_a_label_with_a_training_pair():
    pairs = csr_matrix((np.array([1.0, 0.0, 1.0]), [0, 1, 2], [0, 2, 3]), shape=(2, 4))
    assert (
        warm_points(np.array([0, 1, 2, 3, -1]), pairs).tolist() == [True, False, True] + [False] * 2
    )
    assert pairs.nnz == 3  # the argument is not changed
