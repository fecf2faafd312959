"""Predictions: equal for every form of the items, every order and every batch size."""

import dataclasses
import io
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from raw_folders import colour, picture
from scipy import sparse
from small import CONFIG, PIXELS, SIZES, new_model, pictures, title

from mufin_jax.data.loader import Loader
from mufin_jax.model import label_table
from mufin_jax.model.embed_side import describe_once, embed_blocks
from mufin_jax.model.saved import save_model
from mufin_jax.prediction import pictures as pictures_file
from mufin_jax.prediction import ranker as ranker_module
from mufin_jax.prediction import scoring
from mufin_jax.prediction.build import build_predictor
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.items import check_k, read_query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.errors import InputError

K = 9
EXACT = IndexConfig(backend="exact")
ONLY_5 = sparse.csr_matrix(np.eye(SIZES["label"], dtype=np.float32)[[5]])


@pytest.fixture(scope="module")
def table(mesh):
    return label_table.initialize(jax.random.key(0), SIZES["label"], 6, mesh)


def build(folder, model, rows, dataset, shortlist=K):
    """A predictor, written to a folder and opened."""
    loader = Loader(dataset, model.config.modalities, devices=model.mesh.size)
    vectors = describe_once(model, loader, folder / "vectors.npy")
    config = PredictConfig(shortlist=shortlist)
    build_predictor(folder / "predictor", model, rows, dataset, vectors, config, EXACT)
    return Predictor.load_parts(folder / "predictor", model, dataset)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def predictor(folder, model, table, dataset):
    return build(folder, model, table.rows, dataset)


@pytest.fixture(scope="module")
def embedded(folder, predictor, model, dataset):
    """The labels and the test side under the model."""
    vectors, loader = np.load(folder / "vectors.npy"), Loader(dataset, "both", devices=8)
    ((_, labels),) = embed_blocks(model, loader, vectors, dataset.labels, keep_bags=True)
    ((_, test),) = embed_blocks(model, loader, vectors, dataset.test)
    return labels, test


@pytest.fixture(scope="module")
def ranked(predictor, dataset):
    """Labels and scores of the test side."""
    return rank(predictor, dataset.test)


def rank(predictor, side, **options):
    return [
        np.concatenate(part) for part in zip(*predictor.rank_side(side, **options), strict=True)
    ]


def item(i: int) -> dict:
    """Return test point i as a user's item, with its prepared pixels as a picture."""
    given = {"title": title("test", i)} if title("test", i) else {}
    images = [Image.new("RGB", (PIXELS, PIXELS), colour(n)) for n in pictures("test", i)]
    return given | ({"images": images} if images else {})


def answers(predictor, items, k=K):
    found = predictor.predict(items, k)
    labels = np.array([[one.label for one in row] for row in found])
    return labels, np.array([[one.score for one in row] for row in found])


@pytest.fixture
def exact_pixels(predictor, dataset, monkeypatch):
    """The pictures are the prepared ones, which JPEG has changed slightly."""
    by_colour = {
        colour(number): dataset.images[np.array([row])][0]
        for i in range(SIZES["test"])
        for number, row in zip(pictures("test", i), dataset.test.images_of(i), strict=True)
    }
    monkeypatch.setattr(
        pictures_file, "read_image", lambda image, *_, **limits: by_colour[image.getpixel((0, 0))]
    )


def test_new_items_are_ranked_like_the_same_items_of_a_side(
    predictor, ranked, dataset, exact_pixels
):
    labels, scores = answers(predictor, [item(i) for i in range(SIZES["test"])])
    np.testing.assert_array_equal(labels, ranked[0])
    np.testing.assert_allclose(scores, ranked[1], atol=1e-5)
    first = predictor.predict([item(0)], k=2)[0]
    assert len(first) == 2
    assert first[0].id == f"label{first[0].label}" and first[0].title == title(
        "label", first[0].label
    )


def test_pictures_of_the_prepared_pixels_are_ranked_as_the_same_items_of_a_side(
    predictor, ranked, dataset
):
    """As PNG bytes, by the reader that a user's pictures pass."""

    def png(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return file.getvalue()

    items = [item(i) for i in range(SIZES["test"])]
    for i, given in enumerate(items):
        if "images" in given:
            given["images"] = [*map(png, dataset.images[dataset.test.images_of(i)])]
    labels, scores = answers(predictor, items)
    np.testing.assert_array_equal(labels, ranked[0])
    np.testing.assert_allclose(scores, ranked[1], atol=1e-5)


@pytest.mark.parametrize("together", [1, 3])  # eight devices take eight or sixteen at once
def test_neither_order_nor_batch_size_changes_a_score(
    predictor, ranked, dataset, exact_pixels, monkeypatch, together
):
    order = np.random.default_rng(0).permutation(SIZES["test"])
    monkeypatch.setitem(scoring.TOGETHER, "cpu", together)
    blocks = rank(predictor, dataset.test)
    np.testing.assert_array_equal(blocks[0], ranked[0])
    np.testing.assert_allclose(blocks[1], ranked[1], atol=1e-5)
    monkeypatch.setattr(ranker_module, "BLOCK", 4)
    labels, scores = answers(predictor, [item(i) for i in order])
    np.testing.assert_array_equal(labels, ranked[0][order])
    np.testing.assert_allclose(scores, ranked[1][order], atol=1e-5)


def test_labels_are_distinct_and_scores_descend(ranked):
    labels, scores = ranked
    assert labels.shape == (SIZES["test"], K) and labels.min() >= 0
    assert all(len(set(row)) == K for row in labels)
    assert (np.diff(scores) <= 0).all() and np.isfinite(scores).all()


def test_scores_mix_the_classifier_with_the_exact_best_similarity(
    predictor, ranked, dataset, model, table, embedded
):
    labels, test = embedded
    entries = predictor.index.entries
    rows = jax.tree.map(lambda leaf: np.array(leaf)[: SIZES["label"]], table.rows)
    w = np.asarray(jax.jit(label_table.combine)(rows, labels.vector))
    pool, (bags,) = Loader(dataset, "both", devices=8).batch([(dataset.test, np.arange(8))])
    points = jax.jit(lambda m, p, b: m.embed(m.describe(p), b))(model, pool, bags)
    block = jax.jit(lambda block, q, k, m: block(q, k, m))
    for place in (0, K - 1):
        chosen = ranked[0][:8, place]
        bag, mask = labels.bag[chosen], labels.mask[chosen]
        x2 = np.asarray(block(model.cross_attention, points.bag, bag, mask))
        x2 = np.where(bags.mask[..., None], x2, 0).sum(1)
        c = np.einsum("bd,bd->b", x2 / np.linalg.norm(x2, axis=1, keepdims=True), w[chosen])
        for i, label in enumerate(chosen):
            own = entries.vectors[entries.offsets[label] : entries.offsets[label + 1]]
            a = (own @ test.vector[i]).max()
            assert ranked[1][i, place] == pytest.approx(0.7 * c[i] + 0.3 * a, abs=1e-5)


def test_without_the_classifier_the_ranking_is_the_retrievers(predictor, dataset, embedded):
    retriever = dataclasses.replace(predictor.config, mix=0.0)
    plain = Predictor(predictor.model, predictor.index, predictor.cache, dataset, retriever)
    labels, scores = rank(plain, dataset.test)
    expected = predictor.index.shortlist(embedded[1].vector, K)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(scores, expected.similarities, atol=1e-6)


def test_given_shortlists_are_scored_instead_of_its_own(predictor, ranked, dataset):
    lists = ranker_module.Shortlist(
        np.ascontiguousarray(ranked[0][:, ::3]), np.zeros((SIZES["test"], 3), np.float32)
    )
    lists.labels[4, 2] = -1
    labels, scores = rank(predictor, dataset.test, lists=lists)
    assert sorted(labels[4]) == sorted(lists.labels[4]) and np.isneginf(scores[4, 2])
    np.testing.assert_array_equal(np.sort(labels), np.sort(lists.labels))


def test_without_a_table_the_classifiers_are_the_label_embeddings(
    model, dataset, embedded, tmp_path
):
    build(tmp_path, model, None, dataset)
    written = np.load(tmp_path / "predictor" / "labels" / "w.npy")
    np.testing.assert_allclose(written, embedded[0].vector, atol=1e-6)


def test_pairs_of_the_overlap_filter_have_no_effect_on_centroids(
    model, dataset, predictor, tmp_path
):
    train = dataset.train
    filtered = dataclasses.replace(
        dataset, train=dataclasses.replace(train, filter=train.pairs[:, [5]] @ ONLY_5)
    )
    built = build(tmp_path, model, None, filtered).index.entries
    fewer = np.diff(predictor.index.entries.offsets) - np.diff(built.offsets)
    assert np.flatnonzero(fewer).tolist() == [5] and fewer[5] == 1


def test_a_predictor_of_a_run_is_loaded_with_its_model(
    predictor, folder, ranked, dataset, mesh, tmp_path
):
    with pytest.raises(InputError, match="no trained model there"):
        Predictor.load(tmp_path, mesh)
    save_model(predictor.model, tmp_path / "finetune" / "model")
    shutil.copytree(folder / "predictor", tmp_path / "finetune" / "predictor")
    shutil.copytree(dataset.path, tmp_path / "prepare")
    labels, scores = rank(Predictor.load(tmp_path, mesh), dataset.test)
    np.testing.assert_array_equal(labels, ranked[0])
    np.testing.assert_array_equal(scores, ranked[1])


def test_one_device_predicts_what_eight_do(folder, ranked, dataset, one_device):
    alone = Predictor.load_parts(folder / "predictor", new_model(dataset, one_device), dataset)
    labels, scores = rank(alone, dataset.test)
    np.testing.assert_array_equal(labels, ranked[0])
    np.testing.assert_allclose(scores, ranked[1], atol=1e-6)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({}, "nothing to see"),
        ({"title": "  ", "images": []}, "nothing to see"),
        ({"tilte": "lamp"}, "unknown field 'tilte'"),
        ({"images": [picture(3)[:200]]}, "picture: cannot be decoded"),
        ({"images": ["absent.jpg"]}, r"picture \(absent.jpg\): cannot be decoded"),
        ({"images": [b""]}, "an empty file"),
    ],
)
def test_a_bad_item_is_named_by_its_number(predictor, monkeypatch, wrong, reason):
    monkeypatch.setattr(ranker_module, "BLOCK", 2)
    with pytest.raises(InputError, match=rf"^item 3: .*{reason}"):
        predictor.predict([{"title": "lamp"}] * 3 + [wrong])


def test_pictures_may_be_paths_bytes_or_images(predictor, tmp_path):
    (tmp_path / "7.jpg").write_bytes(picture(7))
    path = tmp_path / "7.jpg"
    items = [{"images": [source]} for source in (path, str(path), picture(7), Image.open(path))]
    _, scores = answers(predictor, items)
    np.testing.assert_allclose(scores, scores[[0, 0, 0, 0]], atol=1e-6)


def test_predicting_no_items_returns_no_predictions(predictor):
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    "items, found",
    [
        ({"title": "lamp"}, "items: found dict"),
        ("lamp", "items: found str"),
        (None, "items: found NoneType"),
        (5, "items: found int"),
        ([{"title": "lamp"}, 5], "item 1: found int"),
    ],
)
def test_items_that_are_not_a_list_of_dicts_or_ids_are_rejected(items, found):
    with pytest.raises(InputError, match=f"^{found}; expected a list of dicts or ids"):
        read_query(items)


@pytest.mark.parametrize("k", [2.0, True, None, "5"])
def test_a_number_of_labels_that_is_not_whole_is_rejected(k):
    expected = f"^k={k!r}: expected a whole number from 1 to predict.shortlist={K}$"
    with pytest.raises(InputError, match=expected):
        check_k(k, K)


@pytest.mark.parametrize("k", [0, -1, K + 1])
def test_more_labels_than_the_shortlist_has_are_rejected(predictor, k):
    expected = f"^k={k}: expected a whole number from 1 to predict.shortlist={K}$"
    with pytest.raises(InputError, match=expected):
        predictor.predict([{"title": "lamp"}], k)


def test_extra_labels_are_retrieved_beyond_the_shortlist(predictor, ranked, dataset):
    labels, scores = rank(predictor, dataset.test, extra=3)
    assert labels.shape == scores.shape == (SIZES["test"], K + 3)
    assert all(len(set(row)) == K + 3 for row in labels)
    assert all(set(few) <= set(many) for few, many in zip(ranked[0], labels, strict=True))


def test_a_model_of_ready_vectors_answers_titles_and_rejects_pictures(dataset, mesh, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(len(dataset.images), 9)).astype(np.float32)
    ready = dataclasses.replace(dataset, image_vectors=vectors)
    model = new_model(ready, mesh, CONFIG, vector_width=9)
    answering = build(tmp_path, model, None, ready, shortlist=3)
    assert len(answering.predict([{"title": "red lamp"}], k=3)[0]) == 3
    with pytest.raises(InputError, match="item 0: the model knows ready vectors"):
        answering.predict([{"title": "red lamp", "images": [picture(1)]}], k=3)


@pytest.fixture(scope="module")
def ready(dataset):
    """The small data with ready vectors of texts and of pictures."""
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        dataset,
        text_vectors=rng.normal(size=(dataset.num_texts, 7)).astype(np.float32),
        image_vectors=rng.normal(size=(len(dataset.images), 9)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def answering(ready, dataset, mesh, tmp_path_factory):
    model = new_model(dataset, mesh, CONFIG, vector_width=9, text_vector_width=7)
    return build(tmp_path_factory.mktemp("ready"), model, None, ready)


def test_ready_vectors_of_new_items_are_answered_as_those_of_a_side(answering, ready):
    items = []
    for i in range(len(ready.test)):
        own = {"title": "a title", "text_vector": ready.text_vectors[ready.test.text[i]].tolist()}
        own = own if ready.test.text[i] >= 0 else {}
        shown = ready.image_vectors[ready.test.images_of(i)]
        items.append(own | ({"image_vectors": shown} if len(shown) else {}))
    labels, scores = rank(answering, ready.test)
    answers = answering.predict(items, k=K)
    assert [[one.label for one in answer] for answer in answers] == labels.tolist()
    found = [[one.score for one in answer] for answer in answers]
    np.testing.assert_allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": "lamp"}, "knows ready vectors, not titles; expected text_vector of 7 numbers"),
        ({"text_vector": [1.0] * 6}, "text_vector: expected finite numbers, 7 a vector"),
        ({"text_vector": [np.nan] * 7}, "text_vector: expected finite numbers"),
        ({"text_vector": "lamp"}, "text_vector: expected finite numbers"),
        ({"image_vectors": [[1.0] * 9, [1.0] * 8]}, "image_vectors: expected finite numbers"),
    ],
)
def test_vectors_of_another_form_are_rejected(answering, item, message):
    with pytest.raises(InputError, match=message):
        answering.predict([item])


def test_html_entities_in_titles_are_read_as_preparation_reads_them(predictor):
    for field, value in (("title", "red &amp; blue"), ("titles", ["red &amp; blue"])):
        assert predictor.predict([{field: value}]) == predictor.predict([{"title": "red & blue"}])


def test_a_model_of_titles_and_pictures_rejects_ready_vectors(predictor):
    with pytest.raises(InputError, match="text_vector: the model reads no ready vectors; leave it"):
        predictor.predict([{"text_vector": [1.0] * 7}])


@pytest.mark.parametrize("wrong", [{"shortlist": 0}, {"mix": 1.5}, {"mix": -0.1}])
def test_invalid_settings_are_rejected(wrong):
    with pytest.raises(InputError, match="a mix between 0 and 1"):
        PredictConfig(**wrong)
