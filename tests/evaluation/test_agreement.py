"""A predictor is measured on its own catalogue: other labels or tokens would make noise."""

import dataclasses
import json

import numpy as np
import pytest
from raw_folders import write_repository
from small import PIXELS, SIZES, label_predictor, pictures, relevant, title

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.evaluation.agreement import check_agreement
from mufin_jax.evaluation.test_set import evaluate, rank_test
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, dataset, one_device):
    return label_predictor(tmp_path_factory.mktemp("agreement"), dataset, one_device)


def prepared(folder, dataset, tests, labels=range(SIZES["label"]), words="{}", own=True):
    """Prepare the catalogue of `small.py` with other test points, labels or titles."""
    chosen = {"train": range(SIZES["train"]), "test": tests, "label": labels}
    write_repository(
        folder / "raw",
        {
            side: [(f"{side}{i}", title(side, i) and words.format(title(side, i))) for i in items]
            for side, items in chosen.items()
        },
        {side: [relevant(i) for i in chosen[side]] for side in ("train", "test")},
        {side: [pictures(side, i) for i in items] for side, items in chosen.items()},
    )
    given = str(dataset.path / "tokenizer.json") if own else None
    config = PrepareConfig(
        image_size=PIXELS, records=False, vocab_size=128, max_tokens=8, tokenizer=given
    )
    prepare(config, folder / "raw", folder / "prepared")
    return Dataset.load(folder / "prepared")


def test_other_test_points_of_the_catalogue_are_ranked_as_their_own_items(
    predictor, dataset, tmp_path
):
    """Their titles and pictures lie in other rows of other files."""
    tests = [7, 2, 9, 0]
    other = prepared(tmp_path, dataset, tests)
    predictor.predict([{"title": "red lamp"}])  # its tokenizer then cuts titles
    assert not np.array_equal(other.test.text, dataset.test.text[tests])
    found, scores = rank_test(predictor, other)
    wanted, wanted_scores = rank_test(predictor, dataset)
    np.testing.assert_array_equal(found, wanted[tests])
    np.testing.assert_allclose(scores, wanted_scores[tests], atol=1e-5)


def test_another_tokenizer_is_rejected(predictor, dataset, tmp_path):
    other = prepared(tmp_path, dataset, range(11), words="{} ornate", own=False)
    with pytest.raises(InputError, match=r"found another (size of the vocabulary|tokenizer) than"):
        evaluate(predictor, other)


def test_other_labels_are_rejected(predictor, dataset, tmp_path):
    labels = [1, 0, *range(2, SIZES["label"])]
    other = prepared(tmp_path, dataset, range(11), labels=labels)
    with pytest.raises(InputError, match=r"label 0 is 'label1'; expected 'label0', as the pred"):
        evaluate(predictor, other)


def with_manifest(dataset, **changed):
    """Return the data as if they had been prepared apart."""
    return dataclasses.replace(dataset, manifest=dataset.manifest | {"apart": 1}, **changed)


def test_fewer_labels_are_rejected(predictor, dataset):
    labels = dataclasses.replace(dataset.labels, ids=dataset.test.ids)
    with pytest.raises(InputError, match="found 11 labels; expected the predictor's 13"):
        evaluate(predictor, with_manifest(dataset, labels=labels))


def test_another_size_of_pictures_is_rejected(predictor, dataset):
    other = with_manifest(dataset)
    other.manifest["processing"] = other.manifest["processing"] | {"size": 16}
    with pytest.raises(InputError, match="found another processing of pictures than"):
        evaluate(predictor, other)


def test_another_length_of_titles_is_rejected(predictor, dataset):
    other = with_manifest(dataset, texts=dataset.texts[:, :4])
    with pytest.raises(InputError, match=r"number of tokens of a title .*\(4; expected 8\)"):
        evaluate(predictor, other)


def test_a_tokenizer_of_the_same_size_with_other_numbers_is_rejected(predictor, dataset, tmp_path):
    facts = json.loads((dataset.path / "tokenizer.json").read_text())
    vocabulary = facts["model"]["vocab"]
    one, other = sorted(vocabulary)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match="found another tokenizer than"):
        evaluate(predictor, with_manifest(dataset, path=tmp_path))


def test_another_prompt_is_rejected(predictor, dataset):
    other = with_manifest(dataset)
    other.manifest["prompt"] = "query: "
    with pytest.raises(InputError, match=r"found another prompt than .*\(query: ; expected "):
        evaluate(predictor, other)


def test_shortlists_of_other_points_are_rejected(predictor, dataset):
    lists = Shortlist(np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32))
    with pytest.raises(InputError, match="found 3 shortlists; expected one for each of the 11"):
        evaluate(predictor, dataset, lists)


def test_arguments_of_another_kind_are_named(predictor, dataset):
    with pytest.raises(InputError, match=r"^predictor: found Dataset; expected a Predictor, from"):
        check_agreement(dataset, predictor, None)
    with pytest.raises(InputError, match=r"^dataset: found str; expected a Dataset, from Dataset."):
        check_agreement(predictor, "runs/demo/prepare", None)
