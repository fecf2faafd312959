"""Weights of the parts of a score: by hand, for warm and cold queries, and on the disk."""

import dataclasses
import json

import numpy as np
import pytest

from mufin_jax.data.dataset import Side
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.mix import Mix, Weights, _checked, load_mixes, save_mixes
from mufin_jax.prediction.part_ranking import Candidates, PartRanking, union
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import save_sealed

VALUES = {
    "z": np.array([[0.5, 0.25, 0], [1, 0, 0.5]], np.float32),
    "g": np.array([[0, 1, 0], [0, 0, 2]], np.float32),
}
TRAINED = np.array([[True, False, True], [True, True, False]])
WARM = Weights({"z": 2.0, "g": 1.0}, untrained_scale=0.5, untrained_offset=3.0)
COLD = Weights({"z": 1.0})
MIX = Mix(WARM, COLD)
FOUND = Candidates(
    np.array([[3, 5, -1], [0, 3, 7]], np.int32), VALUES, TRAINED, np.array([True, False])
)


def test_a_score_is_the_weighted_sum_and_untrained_labels_are_shifted():
    found = WARM.scores(VALUES, TRAINED)
    assert found.tolist() == [[1, 0.5 * 1.5 + 3, 0], [2, 0, 0.5 * 3 + 3]]


def test_warm_and_cold_queries_have_their_own_weights():
    mixed = FOUND.mixed(MIX)
    assert mixed.tolist() == [[1, 3.75, -np.inf], [1, 0, 0.5]]
    labels, scores = FOUND.ranked(mixed, 2)
    assert labels.tolist() == [[5, 3], [0, 7]] and scores.tolist() == [[3.75, 1], [1, 0.5]]


def test_a_list_longer_than_the_candidates_ends_in_free_places():
    labels, scores = FOUND.ranked(FOUND.mixed(MIX), 4)
    assert labels.tolist() == [[5, 3, -1, -1], [0, 7, 3, -1]]
    assert scores[:, -1].tolist() == [-np.inf, -np.inf]


def test_a_part_without_a_weight_is_not_read():
    assert MIX.names == ["z", "g"] and Mix(COLD, Weights({"z": 0.0, "t": 0.0})).names == ["z"]
    assert COLD.scores({"z": VALUES["z"]}, TRAINED).tolist() == VALUES["z"].tolist()


def test_the_union_of_lists_names_each_label_once():
    lists = [
        Shortlist(np.array(rows, np.int32), np.zeros((2, 2), np.float32))
        for rows in ([[4, 1], [-1, -1]], [[1, 7], [2, -1]])
    ]
    assert union(lists).tolist() == [[1, 4, 7], [2, -1, -1]]


def test_joined_blocks_rank_as_each_block_alone():
    other = Candidates(
        np.array([[2]], np.int32), {name: value[:1, :1] for name, value in VALUES.items()},
        TRAINED[:1, :1], np.array([True]),
    )  # fmt: skip
    joined = Candidates.joined([FOUND, other])
    labels, _ = joined.ranked(joined.mixed(MIX), 3)
    alone = [block.ranked(block.mixed(MIX), 3)[0] for block in (FOUND, other)]
    assert labels.tolist() == np.concatenate(alone).tolist()
    assert joined.at(np.array([2])).labels.tolist() == [[2, -1, -1]]


def test_an_item_that_is_a_label_without_a_training_pair_is_cold():
    ids = Strings.pack(["a", "b", "c"])
    ranking = PartRanking({}, MIX, np.array([True, False, True]), ids)
    given = ["c", "b", "new", "a"]
    titles, none = Strings.pack(["", "", "", ""]), np.zeros(0, np.int64)
    side = Side(
        "test", Strings.pack(given), titles, np.zeros(4, np.int32), np.zeros(5, np.int64), none
    )
    assert ranking.known_of(side, np.array([0, 1, 2, 3])).own.tolist() == [2, -1, -1, 0]
    assert ranking.known([""] * 4, given).own.tolist() == [2, -1, -1, 0]


def test_mixes_are_saved_and_a_changed_file_is_rejected(tmp_path):
    path = tmp_path / "mixes.json"
    save_mixes(path, {"all": MIX, "content": Mix(COLD, COLD)})
    assert load_mixes(path) == {"all": MIX, "content": Mix(COLD, COLD)}
    facts = json.loads(path.read_text())
    facts["all"]["warm"]["parts"]["z"] = 7
    path.write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"mixes\.json"):
        load_mixes(path)


@pytest.mark.parametrize("field", ["untrained_scale", "untrained_offset"])
def test_scales_and_offsets_that_are_no_numbers_are_rejected(tmp_path, field):
    """JSON holds null in the place of NaN and infinity."""
    sides = {side: {"parts": {}, field: None} for side in ("warm", "cold")}
    save_sealed(tmp_path / "mixes.json", {"all": sides})
    with pytest.raises(InputError, match=r"mixes\.json: not weights"):
        load_mixes(tmp_path / "mixes.json")
    with pytest.raises(ValueError, match="a weight is inf"):
        _checked(dataclasses.replace(COLD, **{field: float("inf")}))
