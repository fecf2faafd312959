"""Several requests in one call of the predictor: each gets what it would get alone."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from mufin_jax.prediction.answers import Prediction
from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.asking import Asker, Question


class FakePredictor:
    """Ranks labels 0 to 9, minus what an item excludes; notes what it was asked."""

    def __init__(self):
        self.asked, self.catalogue, self.changes = [], SimpleNamespace(version=3), []

    def predict(self, items, k, *, within=None, explain=False):
        self.asked.append(([item.titles[0] for item in items], k, within, explain))
        if self.changes:
            self.catalogue = self.changes.pop(0)
        return [
            [
                Prediction(label, str(label), f"{item.titles[0]}/{self.catalogue.version}", 1.0)
                for label in range(10)
                if str(label) not in item.exclude
            ][:k]
            for item in items
        ]

    def encode(self, items):
        return np.array([[float(item.titles[0]), 1.0] for item in items], np.float32)


def asked(*questions):
    return [SimpleNamespace(asked=question) for question in questions]


def titles(*names):
    return [{"title": name} for name in names]


def test_requests_that_go_together_get_their_own_labels_in_one_call():
    predictor = FakePredictor()
    first = Question.read(titles("a", "b"), k=2, exclude=["0"])
    second = Question.read(titles("c"), k=4)
    assert first.key == second.key
    answers = Asker(predictor).predict(asked(first, second))
    assert predictor.asked == [(["a", "b", "c"], 4, None, False)]
    assert [[[one.id for one in row] for row in answer.labels] for answer in answers] == [
        [["1", "2"], ["1", "2"]],
        [["0", "1", "2", "3"]],
    ]
    assert [answer.labels[0][0].title for answer in answers] == ["a/3", "c/3"]
    assert {answer.version for answer in answers} == {3}


def test_requests_with_other_restrictions_or_explained_do_not_go_together():
    given = titles("a")
    keys = [
        Question.read(given, **options).key
        for options in ({}, {"within": ["1"]}, {"within": []}, {"explain": True})
    ]
    assert len(set(keys)) == 4
    same = [Question.read(given, within=ids).key for ids in (["2", "1"], ["1", "2", "2"])]
    assert same[0] == same[1]


def test_vectors_are_cut_by_request():
    questions = [Question.read(titles(*names)) for names in (("1", "2"), ("3",))]
    first, second = Asker(FakePredictor()).encode(asked(*questions))
    np.testing.assert_array_equal(first, [[1, 1], [2, 1]])
    np.testing.assert_array_equal(second, [[3, 1]])


def test_a_batch_during_which_labels_changed_is_asked_again_and_is_of_one_version():
    predictor = FakePredictor()
    predictor.changes = [SimpleNamespace(version=4)]
    (answer,) = Asker(predictor).predict(asked(Question.read(titles("a"))))
    assert len(predictor.asked) == 2
    assert answer.version == 4 and answer.labels[0][0].title == "a/4"


@pytest.mark.parametrize(
    "given",
    [
        {"items": [{"nothing": 1}]},
        {"items": [{"title": 3}]},
    ],
)
def test_a_question_in_another_form_is_rejected_before_it_waits(given):
    with pytest.raises(InputError, match="expected"):
        Question.read(**given)


def test_a_question_keeps_what_was_asked():
    question = Question.read(titles("a"), 7, ["x"], None, True)
    assert question.k == 7 and question.explain and question.items[0].exclude == ("x",)
    assert dataclasses.replace(question, k=8).key == question.key
