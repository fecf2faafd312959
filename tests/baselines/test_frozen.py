"""kNN on the vectors of the untrained model."""

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from small import CONFIG

from mufin_jax.baselines import frozen
from mufin_jax.baselines.untrained import most_popular
from mufin_jax.evaluation.metrics import remove
from mufin_jax.model.embed_side import embed_blocks
from mufin_jax.model.saved import new_loader, new_model
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.errors import InputError


def test_the_nearest_untrained_vectors_vote(dataset, one_device, tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "NEIGHBOURS", 4)
    monkeypatch.setattr(frozen, "DEPTH", 5)
    filter = csr_matrix(np.random.default_rng(1).random(dataset.test.pairs.shape) < 0.2)
    test = dataclasses.replace(dataset.test, filter=filter)
    dataset = dataclasses.replace(dataset, test=test)
    loader = new_loader(CONFIG, dataset, one_device)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(loader.num_descriptors, CONFIG.dim)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    found = frozen.frozen_neighbours(
        dataset, CONFIG, one_device, 3, IndexConfig(),
        tmp_path / "kept", tmp_path / "vectors.npy", tmp_path / "scratch",
    )  # fmt: skip
    assert not (tmp_path / "scratch").exists()

    model = new_model(CONFIG, dataset, one_device, 3)
    x, queries = (
        np.concatenate([part.vector for _, part in embed_blocks(model, loader, vectors, side)])
        for side in (dataset.train, dataset.test)
    )
    for query, ranking, dropped in zip(queries, found, filter, strict=True):
        near = np.argsort(-(x @ query), kind="stable")[:4]
        weights = np.exp((x @ query)[near] / frozen.TEMPERATURE)
        score = weights @ dataset.train.pairs[near].toarray() / weights.sum()
        voted = np.argsort(-score.round(6), kind="stable")[: np.count_nonzero(score)]
        rest = [label for label in most_popular(dataset.train.pairs) if label not in voted]
        whole = np.array([*voted, *rest], np.int32)[None]
        np.testing.assert_array_equal(ranking, remove(whole, dropped)[0, :5])


def test_a_checkpoint_that_is_gone_names_the_option_that_leaves_it_out(
    dataset, one_device, tmp_path, monkeypatch
):
    def new_model(*_):
        raise InputError("bert: no such folder")

    monkeypatch.setattr(frozen, "new_model", new_model)
    with pytest.raises(InputError, match=r"no such folder; .*--evaluate.no-frozen-neighbours"):
        frozen.frozen_neighbours(
            dataset, CONFIG, one_device, 0, IndexConfig(), tmp_path, tmp_path, tmp_path
        )
