"""Finished runs that were measured on the same test points."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.own_labels import own_labels
from mufin_jax.data.strings import Strings
from mufin_jax.evaluation.paired import PerPoint, per_point, per_question
from mufin_jax.evaluation.rankings import Scored, drop
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import flatten
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.files import damaged, load_json

TRAINED = ("prepare", "pretrain", "retrieve", "initialize", "finetune", "select", "evaluate")
"""The stages whose settings and costs are compared, in their order."""


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a finished run has left of its test.

    Attributes:
        folder: of the run.
        dataset: its prepared data.
        scored: its rankings after overlap filtering.
        points: its metrics, test point by test point.
        metrics: the content of its metrics.json.
    """

    folder: Path
    dataset: Dataset
    scored: Scored
    points: PerPoint
    metrics: Mapping[str, Any]

    @classmethod
    def load(cls, folder: Path) -> "FinishedRun":
        """Load what `evaluate` has written.

        Raises:
            InputError: the run is not evaluated, or has no test points.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: found no such folder; expected the folder of a run")
        if not (folder / "evaluate" / "done.json").is_file():
            raise InputError(
                f"{folder}: its stage evaluate is not finished; run its command to the end first"
            )
        dataset = Dataset.load(folder / "prepare", to_answer=True)
        if not len(dataset.test):
            raise InputError(f"{folder}: it has no test points, so nothing was measured")
        labels, scores = _rankings(folder / "evaluate" / "test.npz")
        test, questions = dataset.test, dataset.questions
        if len(labels) != len(test):
            raise InputError(
                f"{folder}: its rankings are of {len(labels)} test points and its prepared data "
                f"have {len(test)}; make the rankings again by --redo=evaluate"
            )
        if questions is None:
            scored = drop(labels, test.pairs, test.filter)
            points = per_point(scored.ranking, scored.relevance)
        else:
            right = questions.answers[np.arange(len(labels)), questions.right]
            scored = Scored(labels, test.pairs, 0)
            points = per_question(labels, scores, right)
        return cls(folder, dataset, scored, points, load_json(folder / "metrics.json"))

    @property
    def main_metric(self) -> str:
        """The metric by which single test points are won and lost."""
        return "FITB" if self.dataset.questions is not None else "nDCG@5"

    def settings(self) -> dict[str, Any]:
        """Return all settings of the finished stages, by names such as finetune.batch_size."""
        found: dict[str, Any] = {}
        for stage in TRAINED:
            path = self.folder / stage / "settings.json"
            if path.is_file():
                found |= {f"{stage}.{n}": one for n, one in flatten(load_json(path)).items()}
        return found

    def costs(self) -> dict[str, float | int]:
        """Return seconds and memory of the stages, weights, bytes of a label, and answer times."""
        path = self.folder / "run.json"
        facts = load_json(path) if path.is_file() else {}
        seconds, found = facts.get("seconds", {}), {}
        for stage in (stage for stage in TRAINED if stage in seconds):
            found[f"seconds of {stage}"] = seconds[stage]
        if found:
            found["seconds of all stages"] = sum(found.values())
        memory = facts.get("peak_bytes", {})
        if held := [memory[stage] for stage in TRAINED if stage in memory]:
            found["memory at most, MB"] = max(held) / 1e6
        for name, part in (("weights of the model", "model/weights"), ("label table", "table")):
            arrays = Checkpoints(self.folder / "finetune" / part).described()
            sizes = [
                int(np.prod(one["shape"])) for key, one in arrays.items()
                if part != "table" or key.startswith("rows/")
            ]  # fmt: skip
            if sizes:
                found[f"{name}, numbers"] = sum(sizes)
        for key, name in (("ms_per_point", "in batches"), ("ms_per_point_single", "alone")):
            if key in self.metrics:
                found[f"ms a test point, {name}"] = self.metrics[key]
        return found


def _rankings(path: Path) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    if not path.exists():
        raise InputError(f"{path} is missing: make it again by --redo=evaluate")
    with damaged(f"{path} cannot be read ({{reason}}): make it again by --redo=evaluate"):
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["labels"], arrays["scores"]


def load_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Load runs that were measured on the same test points.

    Raises:
        InputError: one of them is not evaluated, or on other test points than the first.
    """
    runs = [FinishedRun.load(folder) for folder in folders]
    for run in runs[1:]:
        _check_same(runs[0], run)
    return runs


def _check_same(first: FinishedRun, run: FinishedRun) -> None:
    """Reject a run whose test points, or their pairs that count, are others."""
    both = f"{run.folder} and {first.folder}"
    ids, wanted = run.dataset.test.ids, first.dataset.test.ids
    if (run.dataset.questions is None) != (first.dataset.questions is None):
        raise InputError(f"{both}: only one of them answers questions; there is nothing to compare")
    if len(ids) != len(wanted):
        raise InputError(
            f"{both} have other test points ({len(ids):,} and {len(wanted):,}); expected the same"
        )
    for row, (here, there) in enumerate(zip(ids, wanted, strict=True)):
        if here != there:
            raise InputError(
                f"{both} have other test points (the first that differs is number {row}: "
                f"{here!r:.60} and {there!r:.60}); expected the same"
            )
    if run.dataset.questions is not None:
        if _answers(run.dataset) != _answers(first.dataset):
            raise InputError(f"{both} give other answers to choose from; expected the same")
        return
    labels = first.dataset.labels.ids
    for name, pairs in (("relevant labels", _relevant), ("overlap filter", _filtered)):
        here = _renumbered(pairs(run), run.dataset.labels.ids, labels)
        there = _renumbered(pairs(first), labels, labels)
        rows = _first_other_row(here, there)
        if rows is not None:
            raise InputError(
                f"{both} have another {name.removesuffix('s')} of test point {wanted[rows]!r:.60}: "
                "their test points are scored by other pairs; expected the same data and "
                "--prepare.filter"
            )


def _answers(dataset: Dataset) -> list[tuple[str, list[str]]]:
    """Return the right answer of each question, and all of its answers, by their ids."""
    questions = dataset.questions
    assert questions is not None
    names = [*dataset.labels.ids, ""]
    given = [[names[label] for label in row] for row in questions.answers.tolist()]
    return [(row[at], row) for row, at in zip(given, questions.right.tolist(), strict=True)]


def _relevant(run: FinishedRun) -> csr_matrix:
    return run.scored.relevance


def _filtered(run: FinishedRun) -> csr_matrix:
    filter = run.dataset.test.filter
    return csr_matrix(run.dataset.test.pairs.shape) if filter is None else filter


def _renumbered(pairs: csr_matrix, own: Strings, labels: Strings) -> list[np.ndarray]:
    """Return for each row its columns by the numbers of `labels`; a label unknown there is -1."""
    numbers = own_labels(own, labels) if own is not labels else np.arange(len(labels))
    pairs = csr_matrix(pairs, dtype=bool, copy=True)
    pairs.eliminate_zeros()
    found = numbers[pairs.indices]
    return [np.sort(row) for row in np.split(found, pairs.indptr[1:-1])]


def _first_other_row(here: list[np.ndarray], there: list[np.ndarray]) -> int | None:
    rows = enumerate(zip(here, there, strict=True))
    return next((row for row, (a, b) in rows if not np.array_equal(a, b)), None)


def differing_settings(
    runs: Sequence[FinishedRun], added: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Any]]:
    """Return the settings that are not the same in all runs: name -> the value of each run.

    Args:
        runs: of any version.
        added: by stage, settings that older versions did not record, with the values that they
            acted by. Others that a run has not recorded read "absent".
    """
    older = {f"{stage}.{n}": one for stage, some in added.items() for n, one in some.items()}
    all_settings = [run.settings() for run in runs]
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    values = {
        name: [one.get(name, older.get(name, "absent")) for one in all_settings] for name in names
    }
    return {name: found for name, found in values.items() if any(v != found[0] for v in found)}
