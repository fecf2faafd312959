"""Which pairs the overlap filter leaves out of scoring."""

import numpy as np
import pytest
import scipy.sparse
from raw_folders import RELEVANCE, TITLES, read_catalogue, write_pairs, write_repository

from mufin_jax.data.preparation.overlap import overlap_filter


def test_without_its_filter_file_a_side_is_unfiltered(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    write_pairs(folder / "filter_labels_test.txt", [(0, 2), (0, 2), (1, 3)])
    choice, filters = overlap_filter(read_catalogue(folder)[0], "given")
    assert choice == "given" and filters["train"].nnz == 0
    np.testing.assert_array_equal(filters["test"].toarray(), [[0, 0, 1, 0], [0, 0, 0, 1]])


def test_self_filters_equal_ids_and_reciprocal_also_reversed_pairs(tmp_path):
    # Training has (D, E) and ((A,B), D); testing has (E, E) and (E, D).
    catalogue, _ = read_catalogue(write_repository(tmp_path / "raw", TITLES, RELEVANCE))
    _, own = overlap_filter(catalogue, "self")
    np.testing.assert_array_equal(own["train"].toarray(), [[1, 0, 0, 0], [0] * 4, [0, 0, 0, 1]])
    np.testing.assert_array_equal(own["test"].toarray(), [[0, 0, 1, 0], [0] * 4])
    for choice in ("reciprocal", "given"):
        effective, both = overlap_filter(catalogue, choice)
        assert effective == "reciprocal"
        np.testing.assert_array_equal(both["test"].toarray(), [[0, 0, 1, 1], [0] * 4])
        np.testing.assert_array_equal(both["train"].toarray(), own["train"].toarray())


def test_a_reversed_pair_that_is_not_relevant_in_testing_stays_out(tmp_path):
    relevance = RELEVANCE | {"test": [[2], [0]]}  # training has (D, E), testing lacks (E, D)
    catalogue, _ = read_catalogue(write_repository(tmp_path / "raw", TITLES, relevance))
    _, both = overlap_filter(catalogue, "reciprocal")
    np.testing.assert_array_equal(both["test"].toarray(), [[0, 0, 1, 0], [0] * 4])


@pytest.mark.parametrize("side", ["test", "label"])
def test_an_unkept_row_that_repeats_an_id_is_not_filtered(side, tmp_path):
    titles = TITLES | {side: [*TITLES[side], ("E", "again")]}
    relevance = RELEVANCE | ({"test": [*RELEVANCE["test"], [0]]} if side == "test" else {})
    catalogue, _ = read_catalogue(
        write_repository(tmp_path / "raw", titles, relevance), max_bad=0.5
    )
    assert not catalogue.sides[side].kept[-1]
    _, own = overlap_filter(catalogue, "self")
    assert np.argwhere(own["test"].toarray()).tolist() == [[0, 2]]


def test_reciprocal_pairs_of_real_data_match_their_published_list(shared_data):
    source = shared_data("ikea") / "converted"
    catalogue, _ = read_catalogue(source)
    _, own = overlap_filter(catalogue, "self")
    _, both = overlap_filter(catalogue, "reciprocal")
    given = overlap_filter(catalogue, "given")[1]
    for name in ("train", "test"):
        np.testing.assert_array_equal(own[name].toarray(), given[name].toarray())
    reversed_pairs = (both["test"] - own["test"]).tocoo()
    found = {(int(i), int(j)) for i, j, v in zip(*scipy.sparse.find(reversed_pairs), strict=True)}
    wanted = np.loadtxt(source / "tst_reciprocal_pairs.txt", dtype=int)
    assert len(found) == 8124 and found == set(map(tuple, wanted.tolist()))
