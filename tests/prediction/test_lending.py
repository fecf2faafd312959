"""Added labels with training points have their votes and walks; to others, labels lend a share."""

import numpy as np
import pytest
from living import BASE, EVERY, NEW, by_parts, label_item, lending
from small import SIZES

from mufin_jax.prediction import added as added_module
from mufin_jax.prediction.part_files import (
    TrainingPairs,
)
from mufin_jax.prediction.parts import Known, Query
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError

pytestmark = [
    pytest.mark.usefixtures("exact_pixels"),
    pytest.mark.xdist_group("test_added_labels"),  # the predictors are made once
]


def points_of(predictor, label):
    """Return the ids of the training points of a label."""
    train = predictor.dataset.train
    return [train.ids[int(row)] for row in train.pairs[:, label].nonzero()[0]]


def test_an_added_label_has_the_votes_and_walks_of_a_trained_one_with_the_same_points(both):
    """Votes and walks read who goes with whom, and nothing else of a label."""
    one = by_parts(*(some[1] for some in both), weights=EVERY)
    twin = 4
    assert len(points_of(one, twin)) > 1 and twin not in TrainingPairs.read(one.dataset).own
    one.add_labels([NEW[0] | {"related": [*points_of(one, twin), "no product"]}, NEW[1]])
    try:
        ranking = one.added.ranking
        assert ranking.trained[[BASE, BASE + 1]].tolist() == [True, False]
        test = one.dataset.test
        for rows, pool, bags in one.read(test):
            points = one.embed(pool, bags)
            known = ranking.known_of(test, rows)
            query = Query(points, fetch(points.vector)[: len(rows)], known)
            labels = np.tile(np.array([[twin, BASE]], np.int32), (len(rows), 1))
            for name in ("mu", "v", "g", "sg", "tv"):
                values = ranking.parts[name].ask(query).at(labels)
                np.testing.assert_allclose(values[:, 1], values[:, 0], atol=1e-6, err_msg=name)
                assert name in ("g", "tv") or values.any(), name
    finally:
        one.change_to(type(one.catalogue).of(one.dataset.labels, 6))


def test_labels_related_to_no_training_point_are_told(predictor, caplog):
    predictor.add_labels([NEW[0] | {"related": ["nobody"]}])
    assert "1 of 1 labels are related to no training point; the first is 'label10'" in caplog.text
    with pytest.raises(InputError, match="unknown field 'related'"):
        predictor.predict([NEW[0] | {"related": ["nobody"]}])


def test_labels_of_training_lend_added_labels_a_share_of_what_they_know(predictor):
    """One label lends to a label with the same content: the share of its votes and its walks."""
    if predictor.ranking is None:
        return  # the paper's mix reads no training points of an added label
    # Several descriptors: none of its entries is the label's vector.
    alone = int(np.flatnonzero(np.diff(predictor.index.entries.offsets) > 2)[-1])
    predictor = lending(predictor, 1)
    predictor.add_labels([label_item(alone) | {"id": "twin"}])
    parts = predictor.added.ranking.parts
    ((_, pool, bags),) = predictor.read(predictor.dataset.test)
    points = predictor.embed(pool, bags)
    own = np.arange(SIZES["test"]) % BASE
    query = Query(points, fetch(points.vector)[: len(own)], Known([""] * len(own), own))
    pair = np.tile(np.array([alone, BASE], np.int32), (len(own), 1))
    for name in ("v", "g"):
        values = parts[name].ask(query).at(pair)
        assert values.any()
        np.testing.assert_allclose(values[:, 1], added_module._SHARE * values[:, 0], atol=1e-6)
    assert not parts["mu"].ask(query).at(pair)[:, 1].any()
    lists = parts["v"].ask(query).shortlist(9)
    assert (lists.labels == BASE).any()
