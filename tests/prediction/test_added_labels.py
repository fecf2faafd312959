"""Labels that come and go without training: ranks, names, numbers, and versions that are loaded."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from block_sizes import small_blocks
from PIL import Image
from raw_folders import colour
from scipy import sparse
from small import PIXELS, SIZES, new_model, pictures, title
from test_predictor import build

from mufin_jax.data.strings import Strings
from mufin_jax.model import label_table
from mufin_jax.model.heads import Embedding
from mufin_jax.model.saved import save_model
from mufin_jax.prediction import added as added_module
from mufin_jax.prediction import changing
from mufin_jax.prediction import pictures as pictures_file
from mufin_jax.prediction.joined import Joined
from mufin_jax.prediction.mix import Mix, Weights
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_ranking,
    save_ranking,
)
from mufin_jax.prediction.parts import PARTS, Known, Nearest, Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.prediction.versions import Versions
from mufin_jax.retrieval.barred import Barred
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError

L = SIZES["label"]
BASE = L - 3
"""Labels that training knows in the tests: three are added afterwards."""
WEIGHTS = Weights({"z": 1.0, "mu": 0.4, "c": 0.5, "v": 0.3, "g": 0.2}, 0.9, 0.05)
"""Without sg, whose stand-ins are labels of training, and t, whose words are those of training."""
EVERY = Weights(dict.fromkeys(PARTS, 1.0))
ITEMS = [{"title": "red lamp"}, {"title": "blue chair label"}, {"title": "navy chair"}]

blocks = small_blocks((changing, "_BLOCK", 2))


def first(side, count, labels=False):
    """A side that knows only the first labels."""
    if labels:
        ends = side.image_offsets[: count + 1]
        return dataclasses.replace(
            side, ids=Strings.pack(list(side.ids)[:count]),
            titles=Strings.pack(list(side.titles)[:count]), text=side.text[:count],
            image_offsets=ends, image_rows=side.image_rows[: ends[-1]],
        )  # fmt: skip
    cut = {name: getattr(side, name)[:, :count].tocsr() for name in ("relevance", "filter")}
    return dataclasses.replace(side, **cut)


@pytest.fixture(scope="module")
def fewer(dataset):
    """The data set without the last three labels."""
    sides = {name: first(getattr(dataset, name), BASE) for name in ("train", "test")}
    return dataclasses.replace(dataset, **sides, labels=first(dataset.labels, BASE, labels=True))


@pytest.fixture(scope="module")
def untrained(dataset):
    """The data set with all labels, the last three of which have no training point."""
    some = sparse.csr_matrix(dataset.train.pairs.multiply(np.arange(L) < BASE))
    some.eliminate_zeros()
    return dataclasses.replace(dataset, train=dataclasses.replace(dataset.train, relevance=some))


@pytest.fixture(scope="module", autouse=True)
def exact_pixels(dataset):
    """The pictures of labels are the prepared ones, which JPEG has changed slightly."""
    by_colour = {
        colour(number): dataset.images[np.array([row])][0]
        for i in range(L)
        for number, row in zip(pictures("label", i), dataset.labels.images_of(i), strict=True)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pictures_file, "read_image", lambda image, *_, **__: by_colour[image.getpixel((0, 0))]
        )
        yield


def label_item(i):
    """Return label i as an item to add."""
    images = [Image.new("RGB", (PIXELS, PIXELS), colour(n)) for n in pictures("label", i)]
    return {"id": f"label{i}", "title": title("label", i), "images": images}


NEW = [label_item(i) for i in range(BASE, L)]


SLOW = [pytest.mark.slow, pytest.mark.rotates("classifiers that labels are added to", every=2)]


@pytest.fixture(scope="module", params=["eta", pytest.param("none", marks=SLOW)])
def both(request, tmp_path_factory, one_device, fewer, untrained):
    """A predictor that training knew all labels of, alpha = 1 for the last, and one of fewer."""
    model, rows = new_model(fewer, one_device), None
    if request.param == "eta":
        drawn = label_table.initialize(jax.random.key(0), L, 6, one_device).rows
        last = (np.arange(len(drawn.alpha)) >= BASE).astype(np.float32)
        rows = dataclasses.replace(drawn, alpha=np.maximum(np.asarray(drawn.alpha), last))
    folders = [tmp_path_factory.mktemp(name) for name in ("whole", "fewer")]
    sides = zip(folders, (untrained, fewer), strict=True)
    return [build(folder, model, rows, data, shortlist=9) for folder, data in sides], folders


@pytest.fixture(scope="module", params=["mix", "parts"])
def whole_and_fewer(request, both):
    """The two predictors, by the paper's mix or by parts."""
    if request.param == "mix":
        return both[0]
    return [with_parts(one, folder) for one, folder in zip(*both, strict=True)]


def with_parts(one, folder, weights=WEIGHTS):
    """Return a predictor of the same labels whose parts rank; all of them are loaded."""
    pairs, heads = TrainingPairs.read(one.dataset), one.model.heads()
    w = np.load(folder / "predictor" / "labels" / "w.npy")
    x = np.random.default_rng(0).normal(size=(SIZES["train"], 6)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    z = vectors_of(one)
    exact = IndexConfig(backend="exact")
    build_parts(folder / "select", PARTS, one.dataset, pairs, heads, x, z, w, exact)
    save_ranking(folder / "select", PARTS, PartConfig(), {"all": Mix(weights, weights)})
    ranking = load_ranking(folder / "select", one.dataset, heads, one.cache)
    return Predictor(one.model, one.index, one.cache, one.dataset, one.config, ranking)


def vectors_of(predictor):
    """Return z of all labels of a predictor."""
    labels = predictor.dataset.labels
    blocks = [predictor.embed(pool, bags).vector for _, pool, bags in predictor.read(labels)]
    return np.concatenate(blocks)[: len(labels)]


def named(answers):
    return [[one.id for one in answer] for answer in answers]


@pytest.fixture
def predictor(whole_and_fewer):
    """The predictor of fewer labels; its changes end with the test."""
    one = whole_and_fewer[1]
    yield one
    one.lenders = Predictor.lenders
    one.change_to(type(one.catalogue).of(one.dataset.labels, 6))


def test_an_added_label_ranks_where_one_with_alpha_1_does(whole_and_fewer, predictor):
    whole, predictor.lenders = whole_and_fewer[0], 0
    before = named(predictor.predict(ITEMS, 9))
    predictor.add_labels(NEW)
    wanted, found = whole.predict(ITEMS, 9), predictor.predict(ITEMS, 9)
    assert named(found) == named(wanted) != before
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one.label, one.title) == (other.label, other.title)
            assert one.score == pytest.approx(other.score, abs=1e-5)


def points_of(predictor, label):
    """Return the ids of the training points of a label."""
    train = predictor.dataset.train
    return [train.ids[int(row)] for row in train.pairs[:, label].nonzero()[0]]


def test_an_added_label_has_the_votes_and_walks_of_a_trained_one_with_the_same_points(both):
    """Votes and walks read who goes with whom, and nothing else of a label."""
    one = with_parts(*(some[1] for some in both), weights=EVERY)
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


def test_labels_added_and_removed_again_leave_the_same_bits(predictor):
    before = predictor.predict(ITEMS, 9)
    predictor.add_labels(NEW[:2])
    predictor.add_labels(NEW[2:])
    predictor.remove_labels([NEW[1]["id"]])
    assert not any(NEW[1]["id"] in answer for answer in named(predictor.predict(ITEMS, 9)))
    predictor.remove_labels(item["id"] for item in (NEW[0], NEW[2]))
    assert predictor.predict(ITEMS, 9) == before


def test_labels_of_training_are_removed_and_come_back_as_they_were(predictor):
    before = predictor.predict(ITEMS, 9)
    gone = named(before)[0][:3]
    predictor.remove_labels(gone)
    found = named(predictor.predict(ITEMS, 9))
    assert not set(gone) & {uid for answer in found for uid in answer}
    assert [len(answer) for answer in found] == [min(9, BASE - 3)] * 3
    others = named(predictor.predict(ITEMS, 9, exclude=found[0][:2]))
    assert not {*gone, *found[0][:2]} & {uid for answer in others for uid in answer}
    assert not predictor.predict(ITEMS[:1], 9, within=gone)[0]
    predictor.add_labels([{"id": uid} for uid in gone])
    assert predictor.predict(ITEMS, 9) == before


def test_added_labels_are_excluded_allowed_and_not_given_to_themselves(predictor):
    predictor.add_labels(NEW)
    new = [item["id"] for item in NEW]
    (found,) = named(predictor.predict([NEW[0] | {"images": []}], 9))
    assert new[0] not in found and len(found) == 9
    (found,) = named(predictor.predict(ITEMS[:1], 9, exclude=new[1:]))
    assert not set(new[1:]) & set(found) and len(found) == 9
    (found,) = named(predictor.predict(ITEMS[:1], 9, within=[new[2], "label0", "label4"]))
    assert set(found) == {new[2], "label0", "label4"}


def test_an_updated_label_has_its_new_title_once(predictor):
    predictor.add_labels(NEW[:1])
    for uid in (NEW[0]["id"], "label4"):
        predictor.update_labels([{"id": uid, "title": "teal lamp"}])
        (found,) = predictor.predict([{"title": "teal lamp"}], 9)
        assert [one.title for one in found if one.id == uid] == ["teal lamp"]


def test_changes_have_no_effect_on_sides(predictor):
    """They are measured on the labels of training."""
    before = [block[0] for block in predictor.rank_side(predictor.dataset.test)]
    predictor.add_labels(NEW)
    predictor.remove_labels(["label1"])
    after = [block[0] for block in predictor.rank_side(predictor.dataset.test)]
    np.testing.assert_array_equal(np.concatenate(after), np.concatenate(before))


def test_labels_that_cannot_be_added_or_removed_are_named(predictor):
    for items, said in (
        ([{"title": "lamp"}], "item 0: no id"),
        ([NEW[0], NEW[0]], "item 1: the id 'label10' twice"),
        ([{"id": "label3", "title": "lamp"}], "'label3' is recommended already; update it"),
        ([{"id": "no"}], "'no' has nothing to see, and is no removed label"),
    ):
        with pytest.raises(InputError, match=said):
            predictor.add_labels(items)
    with pytest.raises(InputError, match="'no' is not recommended"):
        predictor.remove_labels(["label3", "no"])
    with pytest.raises(InputError, match="'label10' is not recommended"):
        predictor.update_labels(NEW[:1])
    assert predictor.catalogue.num_labels == BASE and predictor.catalogue.recommended.all()


def test_a_run_loads_the_current_version_and_other_predictors_follow(
    both, fewer, one_device, tmp_path
):
    (_, one), (_, folder) = both
    save_model(one.model, tmp_path / "finetune" / "model")
    shutil.copytree(folder / "predictor", tmp_path / "finetune" / "predictor")
    shutil.copytree(fewer.path, tmp_path / "prepare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mufin_jax.prediction.load.Dataset.load", lambda *_, **__: fewer)
        writer, reader = (Predictor.load(tmp_path, one_device) for _ in range(2))
        before = writer.predict(ITEMS, 9)
        assert not (tmp_path / "catalogue").exists()
        writer.add_labels(NEW)
        writer.remove_labels(["label1"])
        found = writer.predict(ITEMS, 9)
        assert reader.predict(ITEMS, 9) == before != found
        assert Predictor.load(tmp_path, one_device).predict(ITEMS, 9) == found
        assert Predictor.load(tmp_path, one_device, catalogue=False).predict(ITEMS, 9) == before
    assert reader.refresh() and reader.predict(ITEMS, 9) == found and not reader.refresh()
    reader.add_labels([{"id": "label1"}])  # on top of what the other one wrote
    writer.remove_labels(item["id"] for item in NEW)
    assert writer.predict(ITEMS, 9) == before
    writer.roll_back()
    writer.roll_back()
    assert writer.predict(ITEMS, 9) == found
    writer.add_labels([{"id": "label1"}], save=False)
    assert reader.refresh() and reader.predict(ITEMS, 9) == found != writer.predict(ITEMS, 9)


@pytest.mark.parametrize("backend", [pytest.param("sharded", marks=SLOW), "auto"])
def test_lists_of_both_kinds_of_labels_are_whole_with_every_search(mesh, backend):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 8))
    vectors = centres[rng.integers(40, size=4200)] + 0.3 * rng.normal(size=(4200, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    config, base = IndexConfig(backend=backend), 3000
    parts = [
        Nearest(LabelIndex.build(some, np.arange(len(some)), config, mesh=mesh))
        for some in (vectors[:base], vectors[base:])
    ]
    x = vectors[::600]
    gone = np.unique(rng.integers(4200, size=900)).astype(np.int32)
    barred = Barred(np.arange(len(x), dtype=np.int32)[:, None] * 600, gone)
    points = Embedding(x[:, None], np.ones((len(x), 1), bool), x)
    query = Query(points, x, Known([""] * len(x), np.full(len(x), -1)), barred)
    answer = Joined(*parts, base, 4200 - base).ask(query)
    found = answer.shortlist(50)
    cosines = x @ vectors.T
    cosines[:, gone] = cosines[np.arange(len(x)), np.arange(len(x)) * 600] = -2
    wanted = np.argsort(-cosines, axis=1, kind="stable")[:, :50]
    assert (np.isin(found.labels, gone) | (found.labels < 0)).sum() == 0
    same = [len(np.intersect1d(*rows)) / 50 for rows in zip(found.labels, wanted, strict=True)]
    assert np.mean(same) >= (1.0 if backend == "sharded" else 0.98)
    np.testing.assert_allclose(
        answer.at(found.labels), np.take_along_axis(x @ vectors.T, found.labels, 1), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.rotates("eight devices to which labels are added", every=2)
def test_eight_devices_answer_as_one_does(both, fewer, mesh):
    one = both[0][1]
    wide = Predictor.load_parts(both[1][1] / "predictor", new_model(fewer, mesh), fewer)
    try:
        for some in (one, wide):
            some.add_labels(NEW)
            some.remove_labels(["label1"])
        assert named(wide.predict(ITEMS, 9)) == named(one.predict(ITEMS, 9))
    finally:
        one.change_to(type(one.catalogue).of(fewer.labels, 6))


def test_a_catalogue_of_another_model_is_rejected(both, tmp_path):
    one = both[0][1]
    parts = (one.model, one.index, one.cache, one.dataset, one.config, None)
    writer = Predictor(*parts, Versions(tmp_path / "catalogue", "this model"))
    writer.add_labels(NEW)
    with pytest.raises(InputError, match=r"labels of another model; delete .*catalogue"):
        Predictor(*parts, Versions(tmp_path / "catalogue", "another model"))


def test_labels_of_training_lend_added_labels_a_share_of_what_they_know(predictor):
    """One label lends to a label with the same content: the share of its votes and its walks."""
    if predictor.ranking is None:
        return  # the paper's mix reads no training points of an added label
    # One descriptor and a centroid: only of such a label is the bag's vector that of the label.
    alone = int(np.flatnonzero(np.diff(predictor.index.entries.offsets) == 2)[-1])
    predictor.lenders = 1
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


def test_the_reasons_of_a_score_know_added_labels(predictor):
    predictor.add_labels(NEW)
    found = [one for answer in predictor.predict(ITEMS, 9, explain=True) for one in answer]
    assert any(one.label >= BASE for one in found)
    for one in found:
        total = sum(part.value * part.weight for part in one.why.parts.values())
        assert total == pytest.approx(one.score, abs=1e-5)
        np.testing.assert_allclose(np.array(one.why.attention).sum(1), 1, atol=1e-6)
