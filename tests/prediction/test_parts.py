"""The parts of a score, each against its definition in numpy, and their mix over all labels."""

import dataclasses

import jax
import numpy as np
import pytest
from block_sizes import small_blocks
from scipy.sparse import csr_matrix
from small import SIZES

from mufin_jax.data.loader import Loader
from mufin_jax.data.strings import Strings
from mufin_jax.model import label_table
from mufin_jax.model.embed_side import describe_once, embed_once
from mufin_jax.prediction import part_files
from mufin_jax.prediction.build import build_predictor
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_parts,
    load_ranking,
    save_ranking,
)
from mufin_jax.prediction.part_ranking import PartRanking, candidates, listed_candidates, union
from mufin_jax.prediction.parts import PARTS, Known, Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.words import TitleWords
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import save_sealed

L, B = SIZES["label"], SIZES["test"]
CONFIG = PartConfig(
    neighbours=5,
    vote_temperature=0.2,
    stand_ins=3,
    stand_in_temperature=0.3,
    title_neighbours=4,
)
EXACT = IndexConfig(backend="exact")
OWN = np.where(np.arange(B) % 3 > 0, np.arange(B) % 5, -1)  # these labels have training points


@dataclasses.dataclass
class Made:
    """A predictor with all parts, what it was made of, and the test side as a query."""

    predictor: Predictor
    folder: object
    pairs: TrainingPairs
    parts: dict
    query: Query
    x: np.ndarray
    z: np.ndarray


@pytest.fixture(scope="module")
def fewer(dataset):
    """The data set, in which no point trains one of the last two labels, and two train none."""
    points = np.isin(np.arange(SIZES["train"]), [7, 20], invert=True)
    some = dataset.train.pairs.multiply(np.outer(points, np.arange(L) < L - 2)).tocsr()
    some.eliminate_zeros()
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, relevance=some))


@pytest.fixture(scope="module")
def made(tmp_path_factory, model, fewer, mesh):
    folder = tmp_path_factory.mktemp("parts")
    loader = Loader(fewer, "both", devices=8)
    vectors = describe_once(model, loader, folder / "vectors.npy")
    rows = label_table.initialize(jax.random.key(0), L, model.dim, mesh).rows
    build_predictor(
        folder / "predictor", model, rows, fewer, vectors, PredictConfig(shortlist=9), EXACT
    )
    predictor = Predictor.load_parts(folder / "predictor", model, fewer)
    x = embed_once(model, loader, vectors, fewer.train, folder / "x.npy")
    z = embed_once(model, loader, vectors, fewer.labels, folder / "z.npy")
    w = np.load(folder / "predictor" / "labels" / "w.npy")
    pairs = TrainingPairs.read(fewer)
    build_parts(folder / "select", PARTS, fewer, pairs, model.heads(), x, z, w, EXACT)
    parts = load_parts(folder / "select", PARTS, pairs, model.heads(), predictor.cache, CONFIG)
    ((_, pool, bags),) = predictor.read(fewer.test)
    points = predictor.embed(pool, bags)
    query = Query(points, fetch(points.vector)[:B], Known(list(fewer.test.titles), OWN))
    return Made(predictor, folder / "select", pairs, parts, query, np.asarray(x), np.asarray(z))


def whole(made, name):
    """What a part says of all labels."""
    every = np.tile(np.arange(L, dtype=np.int32), (B, 1))
    return made.parts[name].ask(made.query).at(every)


blocks = small_blocks((part_files, "_ROWS", 7))


def softmax(values, temperature):
    weights = np.exp((values - values.max()) / temperature)
    return weights / weights.sum()


def test_z_is_the_cosine_with_the_label_and_mu_with_its_centroid(made):
    x, pairs = made.query.x, made.pairs.pairs.toarray()
    np.testing.assert_allclose(whole(made, "z"), x @ made.z.T, atol=1e-5)
    mu = pairs.T @ made.x
    mu /= np.maximum(np.linalg.norm(mu, axis=1, keepdims=True), 1e-9)
    np.testing.assert_allclose(whole(made, "mu"), x @ mu.T, atol=1e-5)
    assert (~made.pairs.trained).sum() == 2 and not whole(made, "mu")[:, ~made.pairs.trained].any()


def test_c_is_the_papers_classifier(made, fewer):
    """Its values are the scores of the predictor with all weight on c."""
    alone = dataclasses.replace(made.predictor.config, mix=1.0, shortlist=L)
    one = made.predictor
    plain = Predictor(one.model, one.index, one.cache, fewer, alone)
    ((labels, scores),) = plain.rank_side(fewer.test)
    found = np.take_along_axis(whole(made, "c"), np.maximum(labels, 0), 1)
    real = labels >= 0
    assert real.sum() > B * 9
    np.testing.assert_allclose(found[real], scores[real], atol=1e-6)


def test_v_is_the_vote_of_the_nearest_training_points(made):
    pairs, votes = made.pairs.pairs.toarray(), np.zeros((B, L))
    real = np.abs(made.x).sum(1) > 0
    can_vote = np.flatnonzero(pairs.any(1) & real)
    assert (real & ~pairs.any(1)).sum() == 2
    for row, x in enumerate(made.query.x):
        cosines = made.x[can_vote] @ x
        nearest = np.argsort(-cosines)[:5]
        votes[row] = softmax(cosines[nearest], 0.2) @ pairs[can_vote[nearest]]
    empty = np.abs(made.query.x).sum(1) == 0
    np.testing.assert_allclose(whole(made, "v"), np.where(empty[:, None], 0, votes), atol=1e-5)


def test_g_walks_from_the_query_and_sg_from_the_labels_nearest_to_it(made):
    walk = made.pairs.walk.scores
    from_label = walk(csr_matrix(np.eye(L))).toarray()
    known = np.where(OWN[:, None] >= 0, from_label[OWN], 0)
    np.testing.assert_allclose(whole(made, "g"), known, atol=1e-6)
    soft = np.zeros((B, L))
    for row, x in enumerate(made.query.x):
        nearest = np.argsort(-(made.z @ x), kind="stable")[:3]
        soft[row] = softmax(made.z[nearest] @ x, 0.3) @ from_label[nearest]
    empty = np.abs(made.query.x).sum(1) == 0
    np.testing.assert_allclose(whole(made, "sg"), np.where(empty[:, None], 0, soft), atol=1e-5)


def test_t_compares_the_words_of_titles(made, fewer):
    found, titles = whole(made, "t"), [*fewer.labels.titles]
    for row, title in enumerate(fewer.test.titles):
        shared = [bool(set(title.split()) & set(other.split())) for other in titles]
        assert ((found[row] > 0) == shared).all()


def test_tv_is_the_vote_of_the_training_points_with_the_most_similar_titles(made, fewer):
    pairs, votes = made.pairs.pairs.toarray(), np.zeros((B, L))
    titles = [*fewer.train.titles]
    words = TitleWords.build(titles, fewer.labels.titles)
    cosines = (words.rows(fewer.test.titles) @ words.rows(titles).T).toarray()
    cosines[:, ~pairs.any(1)] = 0
    for row, similar in enumerate(cosines):
        nearest = np.argsort(-similar, kind="stable")[:4]
        if total := similar[nearest].sum():
            votes[row] = similar[nearest] / total @ pairs[nearest]
    assert votes.any() and not votes.all()
    np.testing.assert_allclose(whole(made, "tv"), votes, atol=1e-5)


def test_free_places_get_no_value(made):
    labels = np.full((B, 2), -1, np.int32)
    labels[:, 0] = 3
    for name, part in made.parts.items():
        values = part.ask(made.query).at(labels)
        assert values.shape == (B, 2) and not values[:, 1].any(), name


def test_a_ranking_is_that_of_the_mix_over_all_labels(made, fewer):
    """Every part lists all labels here: no candidate is missing."""
    mix = Mix(Weights({"z": 1.0, "v": 2.0, "g": 3.0}), Weights({"c": 1.0, "t": 0.5}, 0.5, -0.1))
    save_ranking(made.folder, PARTS, CONFIG, {"all": mix})
    heads, cache = made.predictor.model.heads(), made.predictor.cache
    ranking = load_ranking(made.folder, fewer, heads, cache)
    assert set(ranking.parts) == set(mix.names) < set(PARTS)
    labels, scores = ranking.rank(made.query, L)
    every = np.tile(np.arange(L), (B, 1))
    values = {name: whole(made, name) for name in mix.names}
    wanted = mix.scores(values, made.pairs.trained[every], OWN >= 0)
    real = labels >= 0
    found = np.take_along_axis(wanted, np.maximum(labels, 0), 1)
    np.testing.assert_allclose(scores[real], found[real], atol=1e-5)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in labels)


def test_candidates_are_the_union_of_the_parts_own_lists(made):
    some = {name: made.parts[name] for name in ("z", "g", "t")}
    found = candidates(some, made.query, 2, made.pairs.trained)
    for row in range(B):
        wanted = set()
        for part in some.values():
            wanted |= set(part.ask(made.query).shortlist(2).labels[row].tolist()) - {-1}
        assert set(found.labels[row].tolist()) - {-1} == wanted
    assert (found.warm == (OWN >= 0)).all()
    trained = made.pairs.trained[found.labels] & (found.labels >= 0)
    np.testing.assert_array_equal(found.trained, trained)


def test_indices_that_are_split_over_the_devices_say_the_same(made, fewer, tmp_path, mesh):
    """Each device holds an eighth of the vectors, as of the label table."""
    model, sharded = made.predictor.model, IndexConfig(backend="sharded")
    w = np.load(made.folder.parent / "predictor" / "labels" / "w.npy")
    given = (made.x, made.z, w, sharded)
    build_parts(tmp_path, PARTS, fewer, made.pairs, model.heads(), *given)
    parts = load_parts(tmp_path, PARTS, made.pairs, model.heads(), made.predictor.cache, CONFIG)
    for name in ("z", "mu", "c", "v", "sg"):
        entries = parts[name].index.searcher.search.entries
        shards = {shard.data.shape for shard in entries.addressable_shards}
        assert mesh.size == 8 and shards == {(-(-len(entries) // 8), model.dim)}
    one, other = (
        candidates(some, made.query, 3, made.pairs.trained) for some in (made.parts, parts)
    )
    np.testing.assert_array_equal(one.labels, other.labels)
    for name in PARTS:
        np.testing.assert_allclose(one.values[name], other.values[name], atol=1e-5)


def test_candidates_among_those_of_all_parts_are_those_of_some_parts(made):
    whole, lists = listed_candidates(made.parts, made.query, 2, made.pairs.trained)
    some = ("z", "g", "t")
    found = whole.among(union([lists[name] for name in some]))
    wanted = candidates({n: made.parts[n] for n in some}, made.query, 2, made.pairs.trained)
    for name in ("labels", "trained", "warm"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
    assert found.labels.shape[1] < whole.labels.shape[1]
    for name in some:
        np.testing.assert_allclose(found.values[name], wanted.values[name], rtol=1e-6)


def test_a_predictor_with_parts_ranks_items_like_the_items_of_a_side(made, fewer):
    """By the ids of the items, too: whoever gives one is ranked as that label."""
    mix = Mix(Weights({"g": 1.0, "t": 0.1}), Weights({"t": 1.0}))
    save_ranking(made.folder, PARTS, CONFIG, {"all": mix})
    heads, cache = made.predictor.model.heads(), made.predictor.cache
    ranking = load_ranking(made.folder, fewer, heads, cache)
    one = made.predictor
    served = Predictor(one.model, one.index, one.cache, fewer, one.config, ranking)
    title = next(title for title in fewer.test.titles if title)
    new, known, unknown = served.predict(
        [{"title": title}, {"title": title, "id": "label2"}, {"title": title, "id": "nobody"}], 3
    )
    assert new == unknown != known
    assert made.pairs.walk.to_points[2].nnz and 2 not in [one.label for one in known]
    side = dataclasses.replace(fewer.labels, name="test", relevance=fewer.test.pairs)
    ((labels, scores),) = served.rank_side(side)
    again = served.predict([{"title": side.titles[2], "id": "label2"}], 3)[0]
    others = labels[2] != 2  # a side's lists keep the item itself
    assert [one.label for one in again] == labels[2][others][:3].tolist()
    np.testing.assert_allclose([one.score for one in again], scores[2][others][:3], rtol=1e-5)


def test_predictions_by_parts_compile_nothing_after_warm_up(made, fewer, compilations):
    weights = Weights({"z": 1.0, "c": 1.0, "v": 1.0, "sg": 1.0})
    save_ranking(made.folder, PARTS, CONFIG, {"all": Mix(weights, weights)})
    one, heads = made.predictor, made.predictor.model.heads()
    ranking = load_ranking(made.folder, fewer, heads, one.cache)
    served = Predictor(one.model, one.index, one.cache, fewer, one.config, ranking)
    served.warm_up(points=20, images=0, titles=2)
    compilations.clear()
    for count in (1, 7, 20):
        titles = [["red lamp", "chair"][: 1 + row % 2] for row in range(count)]
        served.predict([{"titles": some} for some in titles], 3)
        served.predict([{"titles": some, "id": f"label{len(some)}"} for some in titles], 3)
    assert compilations == []


def test_damaged_files_of_parts_are_rejected(made, fewer):
    weights = Weights({"z": 1.0})
    save_ranking(made.folder, PARTS, CONFIG, {"all": Mix(weights, weights)})
    path = made.folder / "parts.json"
    kept = path.read_bytes()
    path.write_bytes(kept.replace(b'"neighbours": 5', b'"neighbours": 6'))
    heads, cache = made.predictor.model.heads(), made.predictor.cache
    with pytest.raises(InputError, match=r"parts\.json"):
        load_ranking(made.folder, fewer, heads, cache)
    path.write_bytes(kept)


@pytest.mark.parametrize(
    "names, mixes, reason",
    [
        (["z", "q"], {"all": {"z": 1.0}}, "part 'q'"),
        (["z"], {"all": {"v": 1.0}}, "part 'v'"),
        (["z"], {"all": {"z": float("inf")}}, "not weights"),  # JSON holds null
        (["z"], {"all": {"z": "heavy"}}, "not weights"),
        (["z"], {"all": ["z"]}, "not weights"),
        (["z"], {"all": {"z": 0.0}}, "no part has a weight"),
        (["z"], {"content": {"z": 1.0}}, "KeyError"),
        (3, {"all": {"z": 1.0}}, "TypeError"),
    ],
)
def test_parts_and_weights_that_are_none_are_rejected_in_one_line(
    made, fewer, tmp_path, names, mixes, reason
):
    """Their checksums are right: somebody has made the files so."""
    sides = {name: {"warm": {"parts": one}, "cold": {"parts": one}} for name, one in mixes.items()}
    save_sealed(tmp_path / "mixes.json", sides)
    save_sealed(tmp_path / "parts.json", {"names": names} | dataclasses.asdict(CONFIG))
    heads, cache = made.predictor.model.heads(), made.predictor.cache
    with pytest.raises(InputError, match=reason) as caught:
        load_ranking(tmp_path, fewer, heads, cache)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_items_of_two_sides_of_the_same_name_are_known_by_their_own_ids(made, fewer):
    """Whoever ranks the test points of two folders must not get the second by the first's ids."""
    mix = Mix(Weights({"g": 1.0}), Weights({"z": 1.0}))
    ranking = PartRanking(made.parts, mix, made.pairs.trained, fewer.labels.ids)
    label = dataclasses.replace(fewer.labels, name="test")
    strangers = dataclasses.replace(label, ids=Strings.pack(f"new{n}" for n in range(L)))
    rows = np.arange(3)
    assert (ranking.known_of(strangers, rows).own == -1).all()
    assert (ranking.known_of(label, rows).own == rows).all()


@pytest.mark.parametrize("field", ["neighbours", "stand_ins", "vote_temperature"])
def test_invalid_settings_are_rejected(field):
    with pytest.raises(InputError, match=f"select.part.{field}=0"):
        PartConfig(**{field: 0 if "temperature" not in field else 0.0})
