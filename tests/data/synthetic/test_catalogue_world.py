"""The world that generates the miniature catalogue: its odds, its ceiling, and each part's use."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mufin_jax.data.synthetic.addresses import generator_of
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.data.synthetic.catalogue_world import ACCESSORY, World, make_world


def world_of(**fields) -> World:
    config = MiniatureConfig(**fields)
    return make_world(config, generator_of(config.seed, "world"))


def draw_test(world: World, seed: int) -> csr_matrix:
    return world.draw(world.test, np.random.default_rng(seed), cover=False)


def test_no_two_kinds_are_accessories_of_each_other():
    kinds = np.arange(10)
    assert set(ACCESSORY) == set(kinds)
    assert (ACCESSORY != kinds).all() and (ACCESSORY[ACCESSORY] != kinds).all()


def test_a_companion_is_a_label_of_the_same_theme_and_never_the_product_itself():
    world = world_of(labels=120, points=500)
    products = np.flatnonzero(world.companion >= 0)
    companions = world.companion[products]
    assert (companions < 120).all() and (companions != products).all()
    np.testing.assert_array_equal(world.theme[products], world.theme[companions])
    other_style = world.hue[products] // 2 != world.hue[companions] // 2
    assert 0.7 < other_style.mean() < 0.9
    assert (world.pictures[products] > 0).all()


def test_odds_are_zero_for_padding_itself_and_other_styles_without_a_scene():
    world = world_of(labels=70, points=90, test_points=40, noise=0.0)
    labels, odds, stray = world.odds(world.train)
    assert (stray == 0).all()
    assert (odds[labels < 0] == 0).all() and (odds[labels == world.train[:, None]] == 0).all()
    other = world.hue[labels] // 2 != world.hue[world.train][:, None] // 2
    alone = (world.companion[world.train] < 0)[:, None]
    assert (odds[other & alone] == 0).all()
    wanted = ~other & (labels >= 0) & (labels != world.train[:, None])
    assert (odds[wanted] > 0).all()


def test_the_ceiling_is_the_mean_score_of_the_likeliest_labels():
    world = world_of()
    labels, odds, _ = world.odds(world.test)
    best = labels[np.arange(len(odds)), odds.argmax(1)]
    hits = []
    for seed in range(40):
        relevance = draw_test(world, seed)
        hits.append(100 * np.asarray(relevance[np.arange(len(best)), best]).mean())
    error = np.std(hits) / np.sqrt(len(hits))
    assert error < 0.4
    assert abs(np.mean(hits) - world.ceiling()) < 4 * error


def test_the_share_of_noise_is_as_stated_and_the_rest_follows_the_odds():
    world = world_of(noise=0.3)
    labels, odds, stray = world.odds(world.test)
    possible = np.zeros((len(labels), world.num_labels), bool)
    possible[np.arange(len(labels))[:, None].repeat(labels.shape[1], 1), labels] = odds > 0
    drawn = [draw_test(world, seed).toarray() for seed in range(20)]
    expected = odds.sum() + (stray * (~possible).sum(1)).sum()
    assert np.mean([matrix.sum() for matrix in drawn]) == pytest.approx(expected, rel=0.02)
    outside = np.mean([matrix[~possible].sum() / matrix.sum() for matrix in drawn])
    in_theme = possible.sum() / possible.size
    assert outside == pytest.approx(0.3 * (1 - in_theme), rel=0.05)


def test_a_label_without_datapoints_is_given_to_one_of_its_group():
    # Few datapoints and many labels: hundreds of labels have no datapoint.
    world = world_of(labels=1000, points=400, noise=0.0, overlap=0.5)
    relevance = world.draw(world.train, np.random.default_rng(0), cover=True)
    drawn = world.draw(world.train, np.random.default_rng(0), cover=False)
    given = np.flatnonzero(drawn.getnnz(0) == 0)
    assert len(given) > 100 and (relevance.data == 1).all()
    assert (relevance.getnnz(0)[given] == 1).all() and (relevance - drawn).nnz == len(given)
    rows, labels = (relevance - drawn).nonzero()
    assert (world.train[rows] != labels).all()
    size = np.bincount(world.group[world.train], minlength=80)
    possible = size[world.group[labels]] > 1
    assert possible.sum() > 50
    np.testing.assert_array_equal(
        world.group[labels[possible]], world.group[world.train[rows[possible]]]
    )


def oracles(world: World, train: csr_matrix, test: csr_matrix) -> dict[str, float]:
    """P@1 of scorers that only know some attributes of datapoints and labels."""
    points, labels = world.test, np.arange(world.num_labels)
    itself = points[:, None] == labels
    frequency = np.asarray(train.sum(0)).ravel()

    def top1(score):
        score = np.where(itself, -np.inf, score)
        return 100 * np.asarray(test[np.arange(len(points)), score.argmax(1)]).mean()

    def counted(cell):
        """Rank labels by their number of training datapoints in the same cell."""
        votes = csr_matrix((np.ones(len(world.train)), cell[world.train], range(3001)))
        return top1((votes.T @ train).toarray()[cell[points]])

    theme = world.theme[points][:, None] == world.theme[labels]
    style = world.hue[points][:, None] // 2 == world.hue[labels] // 2
    accessory = ACCESSORY[world.kind[points]][:, None] == world.kind[labels]
    companion = world.companion[points][:, None]
    alike = (world.kind[companion] == world.kind[labels]) & (companion >= 0)
    alike &= world.hue[companion] == world.hue[labels]
    group = theme & style & ~itself
    return {
        "popularity": top1(frequency),
        "theme": counted(world.theme),
        "style and kind": counted(10 * (world.hue // 2) + world.kind),
        "all of the pictures": top1((style * (1.0 + accessory) + 3 * alike) * frequency),
        "theme and style": 100 * (test.multiply(group).sum(1).A1 / group.sum(1)).mean(),
        "+ popularity": top1(group * world.popularity),
        "+ popularity, accessory": top1(group * (world.popularity + accessory)),
        "+ popularity, scene": top1(group * world.popularity + 2 * (alike & theme)),
        "everything": top1(group * (world.popularity + accessory) + 3 * (alike & theme)),
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_single_modality_or_similarity_comes_near_the_ceiling(seed):
    world = world_of(seed=seed)
    train = world.draw(world.train, np.random.default_rng([seed, 1]), cover=True)
    scores = oracles(world, train, draw_test(world, seed))
    assert 75 <= world.ceiling() <= 90
    share = {name: score / world.ceiling() for name, score in scores.items()}
    assert share["popularity"] <= 0.15
    assert share["theme"] <= 0.6
    assert max(share["style and kind"], share["all of the pictures"]) <= 0.5
    assert 0.55 <= share["theme and style"] <= 0.8
    assert share["+ popularity"] + 0.05 <= share["+ popularity, accessory"]
    assert share["+ popularity"] + 0.05 <= share["+ popularity, scene"]
    assert share["+ popularity, accessory"] + 0.04 <= share["everything"]
    assert share["+ popularity, scene"] + 0.04 <= share["everything"]
    assert 0.94 <= share["everything"] <= 1.06
