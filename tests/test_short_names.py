"""What a notebook shows of an object: one short line with its sizes."""

import pytest

from mufin_jax.data.dataset import Dataset
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist


@pytest.fixture(scope="module")
def shown(minute_run, one_device):
    """By its type, what the objects of a finished run show."""
    predictor = Predictor.load(minute_run, one_device)
    dataset = Dataset.load(minute_run / "prepare")
    (answer,) = predictor.predict([{"title": "lamp"}], k=1, explain=True)
    objects = [
        predictor, predictor.catalogue, predictor.catalogue.base, predictor.model, predictor.index,
        predictor.index.entries, predictor.cache, dataset, dataset.train, dataset.labels,
        dataset.labels.ids, answer[0], Shortlist.load(minute_run / "retrieve" / "test"),
    ]  # fmt: skip
    return [repr(one) for one in objects]


def test_every_object_shows_one_short_line(shown):
    assert [text for text in shown if "\n" in text or len(text) > 200 or " at 0x" in text] == []


def test_the_line_has_the_sizes(shown):
    text = "\n".join(shown)
    for expected in (
        "Catalogue(30 labels of training, 0 added, 0 removed, version 0)",
        "Mufin(images: ViT, texts: DistilBert, D = 8, ",
        "LabelIndex(LabelEntries(30 labels, ",
        "Side('label': 30 items, ",
        "Strings(30: '",
        "Shortlist(24 datapoints, 21 labels each)",
    ):
        assert expected in text


def test_validation_points_questions_and_tables_show_their_sizes():
    import numpy as np
    import scipy.sparse

    from mufin_jax.data.questions import Questions
    from mufin_jax.data.validation import Validation
    from mufin_jax.model.label_table import LabelTable, Rows

    pairs = scipy.sparse.csr_matrix((2, 3), dtype=np.float32)
    assert repr(Validation(np.arange(2), np.array([True, False]), pairs, pairs)) == (
        "Validation(2 points, 1 of them cold)"
    )
    fields = {"answers": np.zeros((2, 4), np.int32), "right": np.zeros(2, np.int32)}
    fields |= {"unseen": np.zeros(2, bool), "compatible": np.ones(1, bool)}
    fields |= {"offsets": np.array([0, 2]), "items": np.zeros(2, np.int32)}
    assert repr(Questions(**fields)) == "Questions(2 questions, 1 outfits)"
    rows = Rows(np.zeros((4, 3), np.float32), np.zeros(4, np.float32))
    assert repr(LabelTable(rows, None, rows, np.int32(0))) == "LabelTable(4 x 3)"
