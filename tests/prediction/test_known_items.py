"""Products of the run's own data ask by their ids, with what the prepared folder holds of them."""

import dataclasses

import numpy as np
import pytest
from small import label_predictor

from mufin_jax.data.loader import Loader
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.items import read_query
from mufin_jax.prediction.known_items import KnownItems
from mufin_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, dataset, one_device):
    return label_predictor(tmp_path_factory.mktemp("known"), dataset, one_device)


def test_a_known_product_asks_with_what_the_prepared_folder_holds(predictor, dataset):
    side = dataset.train
    bare = [{"id": side.ids[i]} for i in (5, 0, 7)]
    mixed = [bare[0], {"title": "lamp"}, bare[1]["id"], bare[2]]
    found = predictor.predict(mixed, 3)
    ranked = [row for block in predictor.rank_side(side) for row in zip(*block, strict=True)]
    for place, i in ((0, 5), (2, 0), (3, 7)):
        assert [one.label for one in found[place]] == ranked[i][0][:3].tolist()
        scores = [one.score for one in found[place]]
        np.testing.assert_allclose(scores, ranked[i][1][:3], atol=1e-5)
    assert found[1] == predictor.predict([{"title": "lamp"}], 3)[0]


def test_a_known_product_does_not_get_itself(predictor):
    for label in range(3):
        (found,) = predictor.predict([f"label{label}"], 9)
        assert len(found) == 9 and label not in {one.label for one in found}


def test_an_id_that_no_product_has_is_rejected(predictor):
    with pytest.raises(InputError, match=r"^item 1: no product of the run has the id 'lamp'"):
        predictor.predict(["train0", "lamp"], 3)


def test_an_id_stands_for_the_first_product_that_shows_something(dataset):
    """train3 has no title, and a model of texts sees no pictures."""
    ids = [*dataset.labels.ids][:-1]
    labels = dataclasses.replace(dataset.labels, ids=Strings.pack([*ids, "train3"]))
    for side, found in ((dataset.labels, None), (labels, (labels, len(labels) - 1))):
        data = dataclasses.replace(dataset, labels=side)
        known = KnownItems(data, Loader(data, "text"))
        assert known.find("train3") == found
    known = KnownItems(dataset, Loader(dataset, "text"))
    with pytest.raises(InputError, match=r"^item 0: no product of the run has the id 'train3' and"):
        known.check(*read_query(["train3"]))


def test_a_file_checks_items_as_the_predictor_does(predictor):
    check = predictor.known_items.check
    for item in read_query(["train0", {"title": "lamp"}]):
        check(item)
    bare, empty = read_query(["nobody", {"title": " "}])
    with pytest.raises(InputError, match="no product of the run has the id 'nobody'"):
        check(bare)
    with pytest.raises(InputError, match="nothing to see; expected a title"):
        check(empty)


def test_items_are_encoded_as_the_model_embeds_them(predictor, dataset):
    found = predictor.encode(["train5", {"title": "red lamp"}])
    assert found.shape == (2, 6) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    pool, bags = predictor.batch(dataset.train, np.array([5]))
    wanted = np.asarray(predictor.embed(pool, bags).vector)[0]
    np.testing.assert_allclose(found[0], wanted, atol=1e-6)
    assert predictor.encode([]).shape == (0, 6)


def test_a_predictor_shows_its_size_in_a_notebook(predictor, dataset):
    assert repr(predictor) == "Predictor(13 labels, D = 6, lists of 9, 0.7 c + 0.3 a)"
    assert repr(dataset).endswith("/prepared': 26 train, 11 test, 13 label)")
