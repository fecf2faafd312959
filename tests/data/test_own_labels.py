"""Which label each point is itself."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.data.own_labels import own_labels, warm_points
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


def test_no_points_and_no_labels_are_fine():
    assert own([], ["a"]) == [] and own(["a"], []) == [-1] and own([], []) == []


def test_a_point_is_warm_if_it_is_a_label_with_a_training_pair():
    pairs = csr_matrix((np.array([1.0, 0.0, 1.0]), [0, 1, 2], [0, 2, 3]), shape=(2, 4))
    assert (
        warm_points(np.array([0, 1, 2, 3, -1]), pairs).tolist() == [True, False, True] + [False] * 2
    )
    assert pairs.nnz == 3  # the argument is not changed
