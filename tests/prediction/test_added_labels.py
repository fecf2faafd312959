"""Labels that come and go without training: ranks, names, numbers, and versions that are loaded."""

import shutil

import numpy as np
import pytest
from block_sizes import small_blocks
from living import BASE, ITEMS, NEW, SLOW, lending, named
from small import new_model

from mufin_jax.model.heads import Embedding
from mufin_jax.model.saved import save_model
from mufin_jax.prediction import changing
from mufin_jax.prediction.joined import Joined
from mufin_jax.prediction.parts import Known, Nearest, Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.prediction.versions import Versions
from mufin_jax.retrieval.barred import Barred
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.errors import InputError

pytestmark = pytest.mark.usefixtures("exact_pixels")
blocks = small_blocks((changing, "_BLOCK", 2))


def test_an_added_label_ranks_where_one_with_alpha_1_does(whole_and_fewer, predictor):
    whole, predictor = whole_and_fewer[0], lending(predictor, 0)
    before = named(predictor.predict(ITEMS, 9))
    predictor.add_labels(NEW)
    wanted, found = whole.predict(ITEMS, 9), predictor.predict(ITEMS, 9)
    assert named(found) == named(wanted) != before
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert (one.label, one.title) == (other.label, other.title)
            assert one.score == pytest.approx(other.score, abs=1e-5)


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


def test_fields_are_kept_by_versions_and_limit_answers_with_full_lists(both, tmp_path):
    one, folder = both[0][1], tmp_path / "catalogue"
    parts = (one.model, one.index, one.cache, one.dataset, one.config, None)
    writer, reader = (Predictor(*parts, Versions(folder, "this model")) for _ in range(2))
    rows = [{"id": f"label{i}", "kind": ["even", "odd"][i % 2], "price": i} for i in range(BASE)]
    assert writer.keep_fields([*rows, {"id": "nobody", "kind": "odd"}], ["kind", "price"]) == BASE
    writer.add_labels([NEW[0] | {"kind": ["odd", "new"], "price": "$3.00"}, NEW[1]])
    assert reader.refresh()
    for some in (writer, reader, Predictor(*parts, Versions(folder, "this model"))):
        found = some.predict(ITEMS, 9, within={"kind": "odd", "price": (3, None)})
        wanted = {NEW[0]["id"], *(f"label{i}" for i in range(3, BASE, 2))}
        assert [set(answer) for answer in named(found)] == [wanted] * 3
        within = some._within
        assert some.predict(ITEMS, 9, within={"kind": "odd", "price": (2.5, None)}) == found
        assert some._within is within  # the same labels: what was made of them serves again
        assert [one.id for one in some.predict(ITEMS, 9, within={"kind": "new"})[0]] == ["label10"]
    writer.keep_fields([{"id": "label3", "price": 1}], ["price"])
    assert "label3" not in named(writer.predict(ITEMS, 9, within={"price": (2, None)}))[0]
    writer.roll_back()
    assert "label3" in named(writer.predict(ITEMS, 9, within={"price": (2, None)}))[0]
    with pytest.raises(InputError, match=r"item 0: price: found .'dear',.; expected a number"):
        writer.add_labels([NEW[2] | {"price": "dear"}])
    for items, fields, said in (
        ([{"id": "nobody", "kind": "odd"}], ["kind"], "none of the 1 ids is a label's"),
        ([{"kind": "odd"}], ["kind"], "item 0: no id"),
        ([{"id": "label1"}, {"id": "label1"}], ["kind"], "item 1: the id 'label1' twice"),
        ([{"id": "label1"}], ["size"], "no label has a value in 'size'"),
        ([{"id": "label1"}], [], "fields: none is named"),
    ):
        with pytest.raises(InputError, match=said):
            writer.keep_fields(items, fields)


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


def test_the_reasons_of_a_score_know_added_labels(predictor):
    predictor.add_labels(NEW)
    found = [one for answer in predictor.predict(ITEMS, 9, explain=True) for one in answer]
    assert any(one.label >= BASE for one in found)
    for one in found:
        total = sum(part.value * part.weight for part in one.why.parts.values())
        assert total == pytest.approx(one.score, abs=1e-5)
        np.testing.assert_allclose(np.array(one.why.attention).sum(1), 1, atol=1e-6)
