"""Scores of given answers, bags of several texts, and the outfits experiment end to end."""

import copy
import dataclasses
import shutil
from types import SimpleNamespace

import jax
import minute
import numpy as np
import pytest
from pages import rows as table
from raw_folders import tiny_outfits
from sklearn.metrics import roc_auc_score

from experiments import polyvore
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.synthetic.outfits import OutfitsConfig
from mufin_jax.evaluation import metrics, outfits
from mufin_jax.evaluation.summary import summary
from mufin_jax.pipeline import run as running
from mufin_jax.pipeline.cli import main, parse
from mufin_jax.pipeline.run import run
from mufin_jax.pipeline.stage_table import context
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report import style, vector_panels
from mufin_jax.report.cross_attention import ask
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json
from mufin_jax.stages.report import ReportConfig
from mufin_jax.stages.select import SelectConfig, select

MINUTE = dataclasses.replace(
    minute.MINUTE,
    name="outfits",
    miniature=OutfitsConfig(outfits=12, test_outfits=8, themes=2, copies=1, picture=16),
    prepare=dataclasses.replace(minute.MINUTE.prepare, records=False),
    # Two steps of Module IV leave a checkpoint to resume from. Module I does not train.
    pretrain=dataclasses.replace(minute.MINUTE.pretrain, epochs=0),
    finetune=dataclasses.replace(minute.MINUTE.finetune, batch_size=99, classifiers="labels"),
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mesh):
    folder = tmp_path_factory.mktemp("outfits") / "run"
    run(dataclasses.replace(MINUTE, workdir=folder), mesh=mesh)
    return folder


@pytest.fixture(scope="module")
def predictor(workdir, mesh):
    return Predictor.load(workdir, mesh)


def test_a_score_has_no_parts_where_the_test_points_are_questions(
    workdir, mesh, tmp_path, caplog, monkeypatch
):
    """A preset with parts leaves them out by itself; the stage select alone rejects questions."""
    parts = SelectConfig(parts=("z", "v"))
    experiment = dataclasses.replace(MINUTE, workdir=workdir, select=parts)
    monkeypatch.setattr(running, "_check", lambda *_: None)  # these data have no validation points
    with caplog.at_level("INFO"):
        assert run(experiment, mesh=mesh) == load_json(workdir / "metrics.json")
    assert "the parts of the score (z v) are left out" in caplog.text
    with pytest.raises(InputError, match="which the parts of a score do not rank"):
        select(parts, context(experiment, "select", mesh))
    taken = []

    def take(self, name, ahead, only):
        taken.append((name, bool(self.experiment.select.parts)))
        if name == "prepare":
            (tmp_path / "run" / "prepare").mkdir()
            (tmp_path / "run" / "prepare" / "questions.npz").touch()

    monkeypatch.setattr(running.Runner, "take", take)
    run(dataclasses.replace(experiment, workdir=tmp_path / "run"), mesh=mesh)
    assert taken == [(name, name == "prepare") for name in minute.STAGES]


def test_fill_in_blank_is_the_share_of_right_answers_with_ties_divided():
    scores = np.array([[3, 1, 2], [1, 3, 3], [2, 2, 2], [1, 2, 0], [-np.inf] * 3])
    right = np.array([0, 2, 1, 0, 0])
    assert metrics.fill_in_blank(scores, right) == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 5)


def test_separation_is_the_area_under_the_curve():
    rng = np.random.default_rng(0)
    scores, kind = np.round(rng.normal(size=101), 1), rng.random(101) < 0.3
    assert metrics.separation(scores, kind) == pytest.approx(roc_auc_score(kind, scores))
    assert metrics.separation(scores, np.ones(101, bool)) == 0


def test_a_bag_contains_all_its_texts_and_pictures(tmp_path):
    config = PrepareConfig(image_size=8, records=False, vocab_size=128, max_tokens=8)
    prepare(config, tiny_outfits(tmp_path / "raw"), tmp_path / "prepared")
    dataset = Dataset.load(tmp_path / "prepared")
    slots, mask = Loader(dataset).slots(dataset.train, np.array([0, 4]))
    assert slots.shape == (2, 6) and mask.sum(1).tolist() == [6, 2]
    others = mask[0].nonzero()[0]
    labels = dataset.train.filter[0].indices
    texts = sorted(dataset.labels.text[labels])
    assert sorted(slots[0, others][:3]) == texts
    images = sorted(dataset.num_texts + dataset.labels.image_rows[labels])
    assert sorted(slots[0, others][3:]) == images


def test_an_outfit_without_an_item_has_the_texts_and_pictures_of_the_others(workdir):
    dataset = Dataset.load(workdir / "prepare")
    side = outfits.rests(dataset)
    row = 0
    for outfit in dataset.questions.outfits():
        for item in outfit:
            others = [label for label in outfit.tolist() if label != item]
            texts = dataset.labels.text[others].tolist()
            assert side.text[row][: len(others)].tolist() == texts
            images = [image for label in others for image in dataset.labels.images_of(label)]
            assert side.images_of(row).tolist() == images
            row += 1
    assert row == len(side) == len(side.titles)


@pytest.mark.parametrize("mix", [0.0, 0.7, 1.0])
def test_given_answers_score_as_in_a_shortlist_of_all_labels(predictor, mix):
    dataset = predictor.dataset
    parts = predictor.model, predictor.index, predictor.cache, dataset
    predictor = Predictor(*parts, PredictConfig(shortlist=dataset.num_labels, mix=mix))
    answers = dataset.questions.answers
    found = outfits.by_model(predictor)(dataset.test, answers)
    (block,) = predictor.rank_side(dataset.test)
    for row, (labels, scores) in enumerate(zip(*block, strict=True)):
        wanted = [scores[labels.tolist().index(answer)] for answer in answers[row]]
        np.testing.assert_allclose(found[row], wanted, atol=2e-6)


def test_chance_is_the_mean_of_the_questions_own_chances(predictor):
    """Of two answers one is right half of the time, of four a quarter of the time."""
    answers = np.array([[4, 2, -1, -1], [0, 1, 2, 3]], np.int32)
    questions = dataclasses.replace(
        predictor.dataset.questions, answers=answers, right=np.zeros(2, np.int32),
        unseen=np.zeros(2, bool),
    )  # fmt: skip
    assert outfits.chance(questions)["FITB"] == 37.5


def test_a_query_outfit_is_ranked_like_a_test_point(predictor):
    dataset, k = predictor.dataset, 5
    test, labels = dataset.test, dataset.labels
    titles = dict(zip(labels.text.tolist(), labels.titles, strict=True))
    items = [
        {
            "titles": [titles[text] for text in test.text[row] if text >= 0],
            "images": list(dataset.images[test.images_of(row)]),
        }
        for row in range(len(test))
    ]
    assert len({len(item["titles"]) for item in items}) > 1
    (wanted,) = predictor.rank_side(test)
    for answer, ranked, scores in zip(predictor.predict(items, k), *wanted, strict=True):
        assert [one.label for one in answer] == ranked[:k].tolist()
        np.testing.assert_allclose([one.score for one in answer], scores[:k], atol=1e-5)


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"title": "coat", "titles": ["hat"]}, "titles: found a title next to them; expected"),
        ({"titles": "coat"}, "titles: found str 'coat'; expected a list of all texts"),
        ({"titles": 5}, "titles: found int 5; expected a list"),
        ({"titles": ["hat", ["coat"]]}, "titles: found list .'coat'. among them; expected"),
        ({"titles": ["", " "]}, "nothing to see"),
    ],
)
def test_invalid_titles_of_a_query_are_rejected(predictor, wrong, reason):
    with pytest.raises(InputError, match=f"^item 1: {reason}"):
        predictor.predict([{"titles": ["coat", "hat"]}, wrong])


def test_a_missing_answer_scores_less_than_any(predictor):
    answers = np.array(predictor.dataset.questions.answers)
    answers[:, 1] = -1
    found = outfits.by_model(predictor)(predictor.dataset.test, answers)
    assert (found[:, 1] == -np.inf).all() and np.isfinite(found[:, [0, 2, 3]]).all()


@pytest.mark.parametrize("mix", [0.0, 0.7])
def test_a_label_without_entries_scores_less_than_any(predictor, mix):
    dataset, whole = predictor.dataset, predictor.index.entries
    rows, pool, bags = next(iter(predictor.read(dataset.test)))
    answers = dataset.questions.answers[rows]
    counts = np.diff(whole.offsets)
    counts[answers[0, 0]] = 0
    offsets = np.append(0, np.cumsum(counts))
    entries = SimpleNamespace(offsets=offsets, exact_similarity=whole.exact_similarity)
    asked = copy.copy(predictor)
    asked.index, asked.config = SimpleNamespace(entries=entries), PredictConfig(mix=mix)
    found = outfits.score_answers(asked, pool, bags, answers)
    assert (np.isneginf(found) == (answers == answers[0, 0])).all()


def test_no_label_unseen_in_training_is_a_negative_of_module_4(workdir, mesh):
    from mufin_jax.retrieval.shortlist import Shortlist
    from mufin_jax.training import finetune_batches

    dataset = Dataset.load(workdir / "prepare")
    unseen = np.setdiff1d(np.arange(dataset.num_labels), dataset.train.pairs.indices)
    lists = Shortlist.load(workdir / "retrieve" / "train").labels
    assert np.isin(lists, unseen).any()
    loader = Loader(dataset, mesh=mesh)
    for classifiers in ("labels", "table"):
        config = dataclasses.replace(MINUTE.finetune, classifiers=classifiers, negatives=20)
        batches = finetune_batches.Batches(config, dataset, loader, lists, seed=0)
        drawn = np.concatenate([batches._draw(step)[1].ravel() for step in range(4)])
        assert np.isin(drawn, unseen).any() == (classifiers == "table")


def test_miniature_outfits_go_through_all_stages(workdir):
    found = load_json(workdir / "metrics.json")
    assert found["questions"] == found["questions_unseen"] == 8 and found["outfits"] == 16
    assert found["floors"]["chance"] == 25 and found["floors"].keys() == {
        *("chance", "popularity", "nearest_title")
    }
    assert 0 <= found["FITB"] == found["FITB unseen"] <= 100 and 0 <= found["AUC"] <= 1
    assert found["rows"]["popularity"]["FITB"] == 25  # training has none of the answers
    assert not (workdir / "finetune" / "table").exists()
    text = summary(found)
    assert "FITB unseen" in text and "ceiling" in text and "8 questions, 8 of them" in text


def test_all_pictures_of_an_outfit_larger_than_any_point_are_read(predictor):
    dataset = predictor.dataset
    most = int(max(np.diff(side.image_offsets).max() for side in (dataset.train, dataset.test)))
    items = np.arange(most + 2, dtype=np.int32)  # each of the labels has a picture
    whole = {"offsets": np.array([0, len(items)]), "items": items, "compatible": np.ones(1, bool)}
    questions = dataclasses.replace(dataset.questions, **whole)
    side = outfits.rests(dataclasses.replace(dataset, questions=questions))
    assert np.diff(side.image_offsets).min() > most
    found = outfits.by_model(predictor)(side, items[:, None])
    # With the pictures reversed: the order of a bag has no effect.
    turned = np.concatenate([side.images_of(row)[::-1] for row in range(len(side))])
    other = outfits.by_model(predictor)(
        dataclasses.replace(side, image_rows=turned), items[:, None]
    )
    np.testing.assert_allclose(found, other, atol=2e-6)


def test_the_error_for_an_older_run_without_answers_says_what_to_do(workdir, mesh, tmp_path):
    old = tmp_path / "run"
    shutil.copytree(workdir, old)
    shutil.rmtree(old / "report")
    (old / "evaluate" / "test.npz").unlink()
    with pytest.raises(InputError, match=r"test\.npz is missing \(older .*--redo=evaluate"):
        run(dataclasses.replace(MINUTE, workdir=old), "report", mesh)


def test_answers_are_ranked_best_first_and_unseen_answers_come_last():
    answers = np.array([[5, 3, -1, 8], [-1, 4, 2, 7]], np.int32)
    scores = np.array([[0.1, 0.7, 0.9, 0.7], [-np.inf, -np.inf, 0.4, 0.5]], np.float32)
    labels, found = outfits.rank_answers(answers, scores)
    assert labels.tolist() == [[3, 8, 5, -1], [7, 2, -1, -1]]
    np.testing.assert_allclose(found[:, 0], [0.7, 0.5])


@pytest.mark.slow
@pytest.mark.rotates("outfits", every=2)
def test_the_report_shows_the_questions(workdir, mesh, tmp_path, monkeypatch):
    monkeypatch.setitem(style._STYLE, "savefig.dpi", 40)  # tests do not look at the drawings
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)
    finished, workdir = workdir, tmp_path / "run"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "report")
    config = ReportConfig(points=20, shown=6, vectors=60)
    run(dataclasses.replace(MINUTE, workdir=workdir, report=config), "report", mesh)
    dataset = Dataset.load(workdir / "prepare")
    questions = dataset.questions
    points, labels = list(dataset.test.ids), list(dataset.labels.ids)
    right = questions.answers[np.arange(8), questions.right]
    fitb = load_json(workdir / "metrics.json")["FITB"]

    folder = workdir / "report"
    shown = table(folder, "figure8")
    assert len(shown) == 4 * 6  # six questions
    for row in shown:
        point, label = points.index(row["query"]), labels.index(row["label"])
        assert label in questions.answers[point] and int(row["right"]) == (label == right[point])
    categories = table(folder, "table6")
    asked = np.array([int(row["test points"]) for row in categories])
    answered = np.array([float(row["MUFIN P@1"]) for row in categories])
    assert asked.sum() == 8 and asked @ answered / 8 == pytest.approx(fitb, rel=1e-5)
    means = {row["seen of the query"]: float(row["P@1"]) for row in table(folder, "figure1_means")}
    assert means["title and pictures"] == pytest.approx(fitb, rel=1e-5)
    predictor = Predictor.load(workdir, mesh)
    for name, by in (("pictures alone", "images"), ("title alone", "text")):
        first = ask(predictor, np.arange(8), by)[:, 0]
        assert means[name] == pytest.approx(100 * np.mean(first == right), rel=1e-5)
    map_ = table(folder, "figure5_heat_map")
    assert labels.index(map_[0]["label"]) == right[points.index(map_[0]["point"])]
    assert len(table(folder, "figure5_map")) == 5 * 8
    page = (folder / "index.html").read_text("utf-8")
    assert "Left out: R@10 is of all labels" in page and page.count("Left out") == 1


def test_each_text_of_an_outfit_is_shown_as_the_title_of_its_item(predictor):
    dataset = predictor.dataset
    (numbers,), (real,) = predictor.loader.slots(dataset.test, np.array([2]))
    texts = [n for n in numbers[real].tolist() if n < predictor.loader.num_texts]
    count = predictor.loader.num_texts
    shown = [vector_panels._descriptor(dataset, count, n, "all of them").title for n in texts]
    assert len(shown) > 1 and " | ".join(shown) == dataset.test.titles[2]


@pytest.mark.parametrize("by", ["text", "images"])
def test_a_question_with_one_modality_hidden_is_answered_like_one_without_it(predictor, by):
    dataset, rows = predictor.dataset, np.arange(8)
    found = ask(predictor, rows, by)
    test = dataset.test
    if by == "text":
        none = np.zeros(0, test.image_rows.dtype)
        bare = dataclasses.replace(
            test, image_offsets=np.zeros_like(test.image_offsets), image_rows=none
        )
    else:
        bare = dataclasses.replace(test, text=np.full_like(test.text, -1))
    answers = dataset.questions.answers
    wanted, _ = outfits.rank_answers(answers, outfits.by_model(predictor)(bare, answers))
    assert found.tolist() == wanted.tolist()
    full, _ = outfits.rank_answers(answers, outfits.by_model(predictor)(test, answers))
    assert full.tolist() != wanted.tolist()


@pytest.mark.slow
@pytest.mark.rotates("outfits", every=2)
def test_an_interrupted_run_resumes_to_the_same_scores(workdir, mesh, tmp_path):
    cut = tmp_path / "run"
    shutil.copytree(workdir, cut)
    for stage in ("evaluate", "report"):
        shutil.rmtree(cut / stage)
    for name in ("model", "predictor"):
        shutil.rmtree(cut / "finetune" / name)
    (cut / "finetune" / "done.json").unlink()
    newest = max((cut / "finetune" / "checkpoints").iterdir(), key=lambda path: path.name)
    shutil.rmtree(newest)
    found = run(dataclasses.replace(MINUTE, workdir=cut), mesh=mesh)
    assert found == load_json(workdir / "metrics.json")


def test_the_published_rows_are_printed_for_polyvore_s_number_of_questions(workdir):
    found = load_json(workdir / "metrics.json")
    assert "as published" not in summary(found)
    text = summary(found | {"questions": outfits.POLYVORE_QUESTIONS})
    assert "MUFIN (alpha = 1), as published" in text and "64.17" in text and "61.63" in text


def test_presets_have_outfits_and_no_label_table():
    for preset in polyvore.PRESETS.values():
        assert preset.finetune.classifiers == "labels"
        assert isinstance(preset.miniature, OutfitsConfig)
    paper = parse(polyvore.PRESETS, ["--data=DIR"]).experiment
    assert (paper.finetune.epochs, paper.pretrain.epochs, paper.name) == (10, 200, "polyvore")


def test_sizes_that_outfits_lack_are_rejected_in_one_line(capsys):
    with pytest.raises(InputError, match="--num-labels=9: the built-in data of this experiment"):
        parse(polyvore.PRESETS, ["--num-labels=9"])
    assert main(polyvore.PRESETS, ["--miniature.themes=1"]) == 2
    assert "themes=1, expected at least 2" in capsys.readouterr().err
