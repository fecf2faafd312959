"""Section 4 of the paper: the test set's metrics, beside the floors and the ceiling.

Reads: a prepared folder, Module II's `test/`, Module IV's predictor. Writes: `metrics.json`
(also at the top of the run's folder), `test.npz` (int32 labels and float32 scores (N', k),
unfiltered). Where test points are questions with given answers, these are what is ranked, and
Module I's model and Module II's index are read, too.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mufin_jax.baselines.outfits import outfit_floors
from mufin_jax.baselines.untrained import floors
from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation import outfits
from mufin_jax.evaluation.rankings import METRICS, drop
from mufin_jax.evaluation.tables import MM_AMAZON_LABELS, PAPER_TABLE_2, table
from mufin_jax.evaluation.test_set import evaluate as score
from mufin_jax.evaluation.test_set import measure, rank_test, time_blocks, time_single
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import replacing, write_json
from mufin_jax.stages.context import StageContext

MODULE_1 = "Module I alone (P-I-bag)"
"""The row of Module II's shortlists."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """What is measured.

    Attributes:
        timed_points: datapoints answered one at a time to measure the time of a single answer.
        own_shortlists: also score the shortlists made by Module I's encoders.
    """

    timed_points: int = 50
    own_shortlists: bool = True

    def __post_init__(self) -> None:
        """Reject to time nothing."""
        if self.timed_points < 1:
            raise InputError(f"evaluate.timed_points={self.timed_points}: expected at least 1")


def evaluate(config: EvaluateConfig, context: StageContext) -> None:
    """Measure a finished run and write `metrics.json`."""
    prepared, retrieved = context.prepared, context.folders["retrieve"]
    workdir, out, mesh = context.workdir, context.out, context.mesh
    dataset = Dataset.open(prepared)
    test, train = dataset.test, dataset.train
    if not len(test):
        raise InputError(f"{prepared}: no test points to evaluate on; bring a test split")
    predictor = Predictor.load(workdir, mesh, context.predict)
    if dataset.questions is not None:
        result, answers = _answer(predictor, dataset, workdir, retrieved, mesh)

        def write_answers() -> None:
            _save(*answers, out)
            _write(result, workdir, out)

        processes.once("the metrics are written", write_answers)
        return
    labels, scores = rank_test(predictor, dataset)
    batched = time_blocks(predictor, dataset)
    alone = time_single(predictor, dataset, config.timed_points)
    module_1 = Shortlist.load(retrieved / "test")
    rows = {
        "MUFIN": measure(labels, dataset),
        MODULE_1: measure(module_1.labels, dataset),
    }
    if config.own_shortlists:
        rows["MUFIN on Module I's shortlists"] = score(predictor, dataset, module_1)

    def write() -> None:
        _save(labels, scores, out)
        kept = drop(labels, test.pairs, test.filter)
        found = floors(
            list(train.titles), list(test.titles), list(dataset.labels.titles),
            train.pairs, test.pairs, test.filter,
        )  # fmt: skip
        result: dict[str, Any] = dict(rows["MUFIN"])
        result |= {
            "ms_per_point": batched,
            "ms_per_point_single": alone,
            "floors": {name: values["P@1"] for name, values in found.items()},
            "ceiling": (dataset.ceiling or {}).get("P@1"),
            "rows": rows | found,
            "points": len(test),
            "labels": dataset.num_labels,
            "points_without_positive": kept.without_positive,
        }
        _write(result, workdir, out)

    processes.once("the metrics are written", write)


def _save(labels: Int[np.ndarray, "b k"], scores: Float[np.ndarray, "b k"], out: Path) -> None:
    with replacing(out / "test.npz", labels.nbytes + scores.nbytes) as file:
        np.savez(file, labels=labels, scores=scores)


def _write(result: dict[str, Any], workdir: Path, out: Path) -> None:
    write_json(workdir / "metrics.json", result)
    write_json(out / "metrics.json", result)


def _answer(
    predictor: Predictor, dataset: Dataset, workdir: Path, retrieved: Path, mesh: Mesh
) -> tuple[dict[str, Any], tuple[Int[np.ndarray, "q c"], Float[np.ndarray, "q c"]]]:
    """Measure a predictor on questions with given answers, and on outfits to be judged.

    Returns:
        What `metrics.json` holds; the answers as MUFIN ranks them, and their scores.
    """
    questions = dataset.questions
    assert questions is not None
    pretrained = workdir / "pretrain"
    scorers = {
        "MUFIN": outfits.by_model(predictor),
        MODULE_1: outfits.module_1(pretrained, retrieved, predictor, mesh),
    } | outfit_floors(dataset)
    scores = {name: scorer(dataset.test, questions.answers) for name, scorer in scorers.items()}
    rows = {
        name: outfits.measure(scorer, dataset, scores[name]) for name, scorer in scorers.items()
    }
    rows["chance"] = outfits.chance(questions)
    floors = ("chance", "popularity", "nearest_title")
    result = rows["MUFIN"] | {
        "floors": {name: rows[name]["FITB"] for name in floors},
        "ceiling": (dataset.ceiling or {}).get("FITB"),
        "rows": rows,
        "questions": len(questions.right),
        "questions_unseen": int(questions.unseen.sum()),
        "outfits": len(questions.compatible),
        "labels": dataset.num_labels,
    }
    return result, outfits.rank_answers(questions.answers, scores["MUFIN"])


def report(result: dict[str, Any]) -> str:
    """Return the table of a run: its rows, the floors, the ceiling, and the paper's row."""
    rows = {name.replace("_", " "): values for name, values in result["rows"].items()}
    if "questions" in result:
        return _report_answers(result, rows)
    if result["ceiling"] is not None:
        rows["ceiling: all attributes known"] = {"P@1": result["ceiling"]}
    if result["labels"] == MM_AMAZON_LABELS:
        rows |= {f"{name}, as published": values for name, values in PAPER_TABLE_2.items()}
    lines = [table(rows, METRICS)]
    lines.append(
        f"{result['points']} test points, {result['points_without_positive']} of them without a "
        f"relevant label after overlap filtering; {result['ms_per_point']:.2f} ms a point in "
        f"batches, {result['ms_per_point_single']:.2f} ms alone"
    )
    return "\n".join(lines + _advice(result["rows"], "P@1"))


def _report_answers(result: dict[str, Any], rows: dict[str, dict[str, float]]) -> str:
    if result["ceiling"] is not None:
        rows["ceiling: all attributes known"] = {"FITB": result["ceiling"]}
    if result["questions"] == outfits.POLYVORE_QUESTIONS:
        published = outfits.PAPER_FITB.items()
        rows |= {f"{name}, as published": {"FITB": value} for name, value in published}
    return "\n".join(
        [
            table(rows, outfits.OUTFIT_METRICS),
            f"{result['questions']} questions, {result['questions_unseen']} of them without an "
            f"item that occurs in training; {result['outfits']} outfits to be judged",
            *_advice(result["rows"], "FITB"),
        ]
    )


def _advice(rows: dict[str, dict[str, float]], metric: str) -> list[str]:
    """What to try where Module IV has made it worse."""
    whole, alone = (rows.get(name, {}).get(metric) for name in ("MUFIN", MODULE_1))
    if whole is None or alone is None or whole >= alone:
        return []
    return [
        f"Module IV lowers {metric}: give it more steps (--finetune.epochs) and, on a small "
        "catalogue, negatives from longer lists (--retrieve.shortlist, --finetune.negatives-from)"
    ]
