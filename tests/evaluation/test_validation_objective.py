"""The objective of early stopping: on lists, and of models in training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from block_sizes import small_blocks
from finetuning import CONFIG, L, shortlists
from flax import nnx
from scipy.sparse import csr_matrix, random_array
from small import new_model

from mufin_jax.data.loader import Loader
from mufin_jax.data.validation import Validation
from mufin_jax.evaluation import validation as validation_module
from mufin_jax.evaluation.selection import Judged
from mufin_jax.evaluation.validation import ByShortlists, ByVectors, chosen_points, objective
from mufin_jax.model import label_table
from mufin_jax.model.heads import new_cross_attention
from mufin_jax.prediction.mix import Weights
from mufin_jax.prediction.part_ranking import Candidates
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed.mesh import by_row, fetch, put, replicated
from mufin_jax.runtime.distributed.padding import next_multiple
from mufin_jax.runtime.errors import InputError
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.finetune_step import make_scores, place
from mufin_jax.training.setup import TrainState, split

ROWS = np.array([1, 4, 5, 9, 11, 17, 20, 24])

blocks = small_blocks((validation_module, "BLOCK", 8), (validation_module, "POINTS", 8))


@pytest.fixture(scope="module")
def held(dataset):
    """The minute data set with eight validation points, some pairs of which are not scored."""
    relevance = csr_matrix(dataset.train.pairs[ROWS])
    filter = csr_matrix((np.ones(3), ([0, 0, 2], [*relevance[0].indices[:2], 5])), relevance.shape)
    return dataclasses.replace(
        dataset, validation=Validation(ROWS, np.zeros(len(ROWS), bool), filter, relevance)
    )


def test_the_objective_is_that_of_the_weights_of_parts():
    rng = np.random.default_rng(0)
    relevance, filter = (
        csr_matrix(random_array((30, 40), density=share, rng=rng)) for share in (0.1, 0.05)
    )
    values = rng.normal(size=(30, 40, 1)).astype(np.float32)
    every = np.broadcast_to(np.arange(40, dtype=np.int32), (30, 40))
    found = Candidates(every, {"z": values[..., 0]}, np.ones((30, 40), bool), np.ones(30, bool))
    wanted = Judged.judge(found, relevance, filter).objective(Weights({"z": 1.0}))
    assert objective(np.argsort(-values[..., 0], 1), relevance, filter) == pytest.approx(wanted)
    assert 0 < wanted < 100


def test_points_without_a_relevant_label_do_not_count(held):
    points = chosen_points(held, ValidateConfig(), 0)
    assert list(points.rows) == list(ROWS[1:])  # both labels of the first one are filtered
    some = chosen_points(held, ValidateConfig(points=3), 0)
    assert len(some) == 3 and set(some.rows) < set(points.rows)
    np.testing.assert_array_equal(some.relevance.toarray(), held.train.pairs[some.rows].toarray())
    with pytest.raises(InputError, match=r"found no validation points .*validation-share=0\.1"):
        chosen_points(dataclasses.replace(held, validation=None), ValidateConfig(), 0)


def embedded(model, dataset):
    """Return x1 of the training points and z of all labels, all items at once."""
    sides = [(side, np.arange(len(side))) for side in (dataset.train, dataset.labels)]
    pool, bags = Loader(dataset, "both", devices=model.mesh.size, padded=False).batch(
        [(side, np.resize(rows, next_multiple(len(rows), model.mesh.size))) for side, rows in sides]
    )
    pool = model.describe(put(pool, replicated(model.mesh)))
    found = (model.embed(pool, put(some, by_row(model.mesh))).vector for some in bags)
    return [fetch(x)[: len(rows)] for x, (_, rows) in zip(found, sides, strict=True)]


def by_rank(scores, points):
    return objective(np.argsort(-scores, 1, kind="stable"), points.relevance, points.filter)


@pytest.fixture(scope="module")
def vectors(dataset, model):
    return embedded(model, dataset)


def test_module_1_is_measured_by_vectors_on_one_device_and_on_eight(
    held, mesh, one_device, vectors
):
    x, z = vectors
    points = chosen_points(held, ValidateConfig(), 0)
    wanted = by_rank(x[points.rows] @ z.T, points)
    assert 0 < wanted < 100
    for devices in (mesh, one_device):
        measure = ByVectors(held, Loader(held, "both", devices), ValidateConfig(), 0)
        assert measure(new_model(held, devices)) == pytest.approx(wanted)


def test_few_labels_are_those_relevant_to_the_points_and_a_draw_of_others(
    held, one_device, vectors
):
    config = ValidateConfig(points=2, labels=9)
    measure = ByVectors(held, Loader(held, "both", one_device), config, 0)
    points = chosen_points(held, config, 0)
    relevant = points.relevance.nnz
    assert measure.relevance.shape == (2, 9) and measure.relevance.nnz == relevant
    all_labels = ByVectors(held, Loader(held, "both", one_device), ValidateConfig(points=2), 0)
    model = new_model(held, one_device)
    assert measure(model) >= all_labels(model)


@pytest.mark.parametrize("mix", [0.0, 1.0])
def test_module_4_is_measured_by_its_scores_of_shortlists_on_one_device_and_on_eight(
    held, mesh, one_device, vectors, mix
):
    """It starts at x1·z: A_C `residual` adds nothing, and eta is zero."""
    x, z = vectors
    points, lists = chosen_points(held, ValidateConfig(), 0), shortlists()
    similarities = np.random.default_rng(1).normal(size=lists.labels.shape).astype(np.float32)
    lists = Shortlist(lists.labels, np.where(lists.labels < 0, -np.inf, similarities))
    scores = np.full((len(points), L), -np.inf)
    for row, point in enumerate(points.rows):
        listed = lists.labels[point][:9]
        scores[row, listed] = mix * z[listed] @ x[point] + (1 - mix) * lists.similarities[point][:9]
    ranking = np.where(np.sort(-scores, 1) == np.inf, -1, np.argsort(-scores, 1, kind="stable"))
    wanted = objective(ranking, points.relevance, points.filter)
    for devices in (mesh, one_device):
        model = new_model(held, devices)
        model.config = dataclasses.replace(model.config, cross_attention="residual")
        graphdef, state = nnx.split(new_cross_attention(model.config, nnx.Rngs(0)))
        model.cross_attention = nnx.merge(graphdef, put(state, replicated(devices)))
        table = label_table.initialize(jax.random.key(0), L, model.dim, devices)
        zeros = jax.tree.map(jnp.zeros_like, table.rows)
        graphdef, train, frozen = split(model, CONFIG.optimizer, cross=True)
        state = TrainState(opt=(), table=dataclasses.replace(table, rows=zeros), train=train)
        config = dataclasses.replace(CONFIG, classifiers="sum")
        c = make_scores(config, graphdef, devices)
        loader = Loader(held, "both", devices)
        measure = ByShortlists(held, loader, lists, mix, ValidateConfig(), 0)
        found = measure(lambda batch: fetch(c(state, frozen, place(batch, devices))))  # noqa: B023
        assert found == pytest.approx(wanted)
    assert 0 < wanted < 100
