"""Section 4 of the paper: the metrics of the test set, with those of the floors and the ceiling.

Reads: a prepared folder, Module II's `test/`, Module IV's predictor. Writes: `metrics.json`
(also at the top of the run's folder) and `test.npz` (int32 labels and float32 scores (N', k),
without overlap filtering). If the test points are questions with given answers, the answers are
ranked. The stage then also reads Module I's model and Module II's index.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mufin_jax.baselines.frozen import frozen_neighbours
from mufin_jax.baselines.outfits import outfit_floors
from mufin_jax.baselines.untrained import floor_rankings
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.questions import Questions
from mufin_jax.evaluation import outfits
from mufin_jax.evaluation.missing_pictures import check_shares, curve, rank_without_pictures
from mufin_jax.evaluation.part_rows import rank_rows
from mufin_jax.evaluation.rankings import drop
from mufin_jax.evaluation.summary import CONTENT, MODULE_1, NOTHING, PAPER_MIX
from mufin_jax.evaluation.test_set import measure, rank_test, time_blocks, time_single
from mufin_jax.evaluation.warm_cold import by_kind
from mufin_jax.prediction.mix import Mix, load_mixes
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import replacing, save_json
from mufin_jax.stages.context import StageContext

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What the stage measures.

    Attributes:
        timed_points: number of test points that are predicted one at a time, for the time of a
            single prediction.
        own_shortlists: also score the shortlists made by Module I's encoders.
        frozen_neighbours: also measure kNN on the vectors of the untrained model, which describes
            all items once more.
        missing_pictures: also rank the test points while such shares of them show no pictures, as
            in `0 0.25 0.5 0.75 1`.
    """

    timed_points: int = 50
    own_shortlists: bool = True
    frozen_neighbours: bool = True
    missing_pictures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject a time of no predictions, and shares outside [0, 1]."""
        check_shares(self.missing_pictures)
        if self.timed_points < 1:
            raise InputError(f"evaluate.timed_points={self.timed_points}: expected at least 1")


class Measured(NamedTuple):
    """The measurements of a test set.

    Attributes:
        labels: the ranked labels of each test point, best first.
        scores: the scores of the labels.
        result: computes the content of `metrics.json`; only one process calls it.
    """

    labels: Int[np.ndarray, "b k"]
    scores: Float[np.ndarray, "b k"]
    result: Callable[[], dict[str, Any]]


def evaluate(config: EvaluateConfig, context: StageContext) -> None:
    """Measure a finished run and write its metrics and rankings.

    Raises:
        InputError: if the run has no predictor.
        Stopped: after a signal.
    """
    dataset = context.dataset()
    if not len(dataset.test):
        log.info("%s", NOTHING)
        processes.once("nothing is measured", lambda: _write(_nothing(dataset), context))
        return
    predictor = Predictor.load(context.workdir, context.mesh, context.predict, True, False)
    if dataset.questions is None:
        measured = _rank_labels(config, predictor, dataset, context)
    elif config.missing_pictures:
        raise InputError(
            "evaluate.missing_pictures: expected none, as the test points are questions with given "
            "answers, and the curve is of rankings of labels"
        )
    else:
        measured = _rank_answers(dataset.questions, predictor, dataset, context)
    processes.once("the metrics are written", lambda: _write(measured, context))


def _write(measured: Measured, context: StageContext) -> None:
    labels, scores = measured.labels, measured.scores
    with replacing(context.out / "test.npz", labels.nbytes + scores.nbytes) as file:
        np.savez(file, labels=labels, scores=scores)
    result = measured.result()
    if context.refit is not None:  # its training knew the validation points
        result["refit"] = {"steps": dict(context.refit.steps)}
    save_json(context.workdir / "metrics.json", result)
    save_json(context.out / "metrics.json", result)


def _nothing(dataset: Dataset) -> Measured:
    """Return the measurements of data without test points."""
    facts = {"points": 0, "labels": dataset.num_labels, "rows": {}, "floors": {}, "ceiling": None}
    return Measured(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32), lambda: dict(facts))


def _rank_labels(
    config: EvaluateConfig, predictor: Predictor, dataset: Dataset, context: StageContext
) -> Measured:
    """Measure how a predictor ranks all labels."""
    test = dataset.test
    module_1 = Shortlist.load(context.folders["retrieve"] / "test")
    own = {"MUFIN on Module I's shortlists": module_1} if config.own_shortlists else {}
    mixes: dict[str, Mix] = {}
    if predictor.ranking is not None:
        mixes = {CONTENT: load_mixes(context.folders["select"] / "mixes.json")["content"]}
        found, scores = rank_rows(predictor, dataset, "MUFIN", mixes, own | {PAPER_MIX: None})
    else:
        labels, scores = rank_test(predictor, dataset)
        found = {"MUFIN": labels}
        found |= {name: rank_test(predictor, dataset, lists)[0] for name, lists in own.items()}
    labels = found.pop("MUFIN")
    rankings = {"MUFIN": labels, MODULE_1: module_1.labels} | found
    hidden = rank_without_pictures(predictor, dataset, config.missing_pictures, mixes)
    batched = time_blocks(predictor, dataset)
    alone = time_single(predictor, dataset, config.timed_points)
    untrained = {}
    if config.frozen_neighbours:
        untrained["frozen_neighbours"] = _frozen_neighbours(dataset, context)

    def result() -> dict[str, Any]:
        floors = floor_rankings(dataset) | untrained
        whole = rankings | floors
        rows = {name: measure(ranking, dataset) for name, ranking in whole.items()}
        return rows["MUFIN"] | {
            "ms_per_point": batched,
            "ms_per_point_single": alone,
            "floors": {name: rows[name]["P@1"] for name in floors},
            "ceiling": (dataset.ceiling or {}).get("P@1"),
            "rows": rows,
            "points": len(test),
            "labels": dataset.num_labels,
            "points_without_positive": drop(labels, test.pairs, test.filter).without_positive,
            **by_kind(whole, dataset),
            **({"missing_pictures": curve(hidden, dataset)} if hidden else {}),
        }

    return Measured(labels, scores, result)


def _frozen_neighbours(dataset: Dataset, context: StageContext) -> Int[np.ndarray, "b k"]:
    """Rank the test points by kNN on the vectors of the model before Module I."""
    return frozen_neighbours(
        dataset, context.model, context.mesh, context.seed, context.index,
        kept=context.kept,
        described=context.folders["pretrain"] / "vectors.npy",
        scratch=context.out / "untrained",
    )  # fmt: skip


def _rank_answers(
    questions: Questions, predictor: Predictor, dataset: Dataset, context: StageContext
) -> Measured:
    """Measure how a predictor ranks given answers, and how it judges outfits."""
    pretrained, retrieved = context.folders["pretrain"], context.folders["retrieve"]
    scorers = {
        "MUFIN": outfits.by_model(predictor),
        MODULE_1: outfits.module_1(pretrained, retrieved, predictor, context.mesh),
    } | outfit_floors(dataset)
    scores = {name: scorer(dataset.test, questions.answers) for name, scorer in scorers.items()}
    rows = {
        name: outfits.measure(scorer, dataset, scores[name]) for name, scorer in scorers.items()
    }
    rows["chance"] = outfits.chance(questions)
    result = rows["MUFIN"] | {
        "floors": {name: rows[name]["FITB"] for name in ("chance", "popularity", "nearest_title")},
        "ceiling": (dataset.ceiling or {}).get("FITB"),
        "rows": rows,
        "questions": len(questions.right),
        "questions_unseen": int(questions.unseen.sum()),
        "outfits": len(questions.compatible),
        "labels": dataset.num_labels,
    }
    return Measured(*outfits.rank_answers(questions.answers, scores["MUFIN"]), lambda: result)
