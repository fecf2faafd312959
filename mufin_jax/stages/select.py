"""Selection: which parts of the score count for how much, fitted on validation points.

Each part (`prediction/parts.py`) lists labels of its own, and every part scores the union of these
lists. The weights are searched on the validation points, under the overlap filter of test points,
for warm and cold queries apart (`evaluation/selection.py`). For the search, the parts know the
pairs that trained; for serving, also those of the validation points: nothing is trained again. A
refit on all training points has none to fit on, and takes the weights that were fitted before.

Reads: a prepared folder, Module IV's model and predictor. Writes: the files of the parts
(`prediction/part_files.py`), `mixes.json` (the weights), `parts.json`, and `fits.json` (the
objective of the mixes and of each part alone).
"""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.validation import Validation
from mufin_jax.evaluation.selection import Fit, Judged, fit_weights
from mufin_jax.evaluation.tables import table
from mufin_jax.model.embed_side import describe_once, embed_once
from mufin_jax.model.saved import load_model, new_loader
from mufin_jax.prediction.mix import Mix, Weights, load_mixes
from mufin_jax.prediction.part_files import (
    PartConfig,
    TrainingPairs,
    build_parts,
    load_parts,
    save_ranking,
)
from mufin_jax.prediction.part_ranking import Candidates, PartRanking, candidates
from mufin_jax.prediction.parts import PARTS, WALKS, PartName, Query
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.draws import Draw, generator
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.runtime.storage.npy import mapped
from mufin_jax.stages.context import StageContext

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SelectConfig:
    """Which parts a score has, and on how many points their weights are fitted.

    Attributes:
        parts: of the score: z, mu, c, v, g, sg, t, tv (docs/recipe.md). Empty: the paper's mix
            of c and a, without this stage.
        candidates: labels that each part lists.
        points: validation points that the weights are fitted on, at most.
        part: how the parts look for labels.
    """

    parts: tuple[PartName, ...] = ()
    candidates: int = 100
    points: int = 10_000
    part: PartConfig = dataclasses.field(default_factory=PartConfig)

    def __post_init__(self) -> None:
        """Reject counts below 1, unknown parts, and a part that is named twice."""
        for name in ("candidates", "points"):
            if getattr(self, name) < 1:
                raise InputError(f"select.{name}={getattr(self, name)}: expected at least 1")
        if unknown := [name for name in self.parts if name not in PARTS]:
            raise InputError(
                f"select.parts has {unknown[0]!r:.80}: expected some of {' '.join(PARTS)}"
            )
        if len(set(self.parts)) < len(self.parts):
            raise InputError(f"select.parts={' '.join(self.parts)}: expected each part once")


def select(config: SelectConfig, context: StageContext) -> None:
    """Build the parts of the score, and fit their weights.

    Raises:
        InputError: if the prepared data have no validation points.
        Stopped: after a signal; the same call resumes.
    """
    dataset, out = context.dataset(), context.out
    _check(dataset, context)
    processes.once("old parts are removed", lambda: _remove(out / "fitting", begun=True))
    finetuned, mesh = context.folders["finetune"], context.mesh
    model = load_model(finetuned / "model", mesh)
    predictor = Predictor.load_parts(finetuned / "predictor", model, dataset)
    loader, heads = new_loader(model.config, dataset, mesh), model.heads()
    known, own = finetuned / "vectors.npy", out / "vectors.npy"
    vectors = describe_once(model, loader, known if processes.decide(known.exists) else own)
    x = embed_once(heads, loader, vectors, dataset.train, out / "x.npy")
    z = embed_once(heads, loader, vectors, dataset.labels, out / "z.npy")
    w = mapped(finetuned / "predictor" / "labels" / "w.npy")

    def build(folder: Path, pairs: TrainingPairs) -> None:
        build_parts(folder, config.parts, dataset, pairs, heads, x, z, w, context.index)

    def fit(validation: Validation) -> dict[tuple[str, str], Fit]:
        trained = TrainingPairs.read(dataset)
        fitting, cache = out / "fitting", predictor.cache
        build(fitting, trained)
        parts = load_parts(fitting, config.parts, trained, heads, cache, config.part)
        ranking = PartRanking(parts, _NO_MIX, trained.trained, dataset.labels.ids)
        found, rows = _validation_candidates(config, predictor, ranking, validation, context.seed)
        fits = _fit(config.parts, found, validation, rows, context.seed)
        log.info("%s", _summary(fits))
        for name in ("z", "w", "words", "titles"):  # these do not depend on which pairs are known
            processes.once("a part", lambda name=name: _move(fitting / name, out / name))
        return fits

    if dataset.validation is not None:
        fits = fit(dataset.validation)
        mixes, facts = _mixes(fits), {"/".join(key): _facts(fit) for key, fit in fits.items()}
    else:
        assert context.refit is not None
        before = context.refit.selected
        mixes, facts = load_mixes(before / "mixes.json"), load_json(before / "fits.json")
    build(out, TrainingPairs.read(Dataset.load(context.prepared, hold_out=False)))

    def complete() -> None:
        _remove(out / "fitting")
        save_json(out / "fits.json", facts)
        save_ranking(out, config.parts, config.part, mixes)
        for path in (own, out / "x.npy", out / "z.npy"):
            path.unlink(missing_ok=True)

    processes.once("select is complete", complete)


def _check(dataset: Dataset, context: StageContext) -> None:
    """Reject data on which no weights can be fitted."""
    if dataset.questions is not None:
        raise InputError(
            f"{context.prepared}: the test points are questions with given answers, which the "
            "parts of a score do not rank; leave out --select.parts"
        )
    if context.refit is None and not dataset.validation:
        raise InputError(
            f"{context.prepared}: found no validation points to fit the weights of the parts on; "
            "prepare with --prepare.validation-share=0.1"
        )


_NO_MIX = Mix(Weights({}), Weights({}))


def _validation_candidates(
    config: SelectConfig,
    predictor: Predictor,
    ranking: PartRanking,
    validation: Validation,
    seed: int,
) -> tuple[Candidates, np.ndarray]:
    """Return candidates of validation points, and which of the points these are."""
    rows = np.arange(len(validation))
    if len(rows) > config.points:
        rows = np.sort(generator(seed, Draw.SELECT_POINTS).permutation(rows)[: config.points])
    train, blocks = predictor.dataset.train, []
    read = predictor.read(train, validation.rows[rows])
    for places, pool, bags in until_stopped(read, "select"):
        points = predictor.embed(pool, bags)
        x = fetch(points.vector)[: len(places)]
        query = Query(points, x, ranking.known_of(train, validation.rows[rows[places]]))
        blocks.append(candidates(ranking.parts, query, config.candidates, ranking.trained))
    return Candidates.joined(blocks), rows


def _fit(
    names: tuple[PartName, ...],
    found: Candidates,
    validation: Validation,
    rows: np.ndarray,
    seed: int,
) -> dict[tuple[str, str], Fit]:
    """Return the fits of all parts and of those that look at content alone, warm and cold.

    Where there are no points of one kind, it gets the weights of the other without the walk g,
    which a cold query does not have.
    """
    content = tuple(name for name in names if name not in WALKS)
    fits = {}
    for mix, chosen in (("all", names), ("content", content or names)):
        for kind, mask in (("warm", found.warm), ("cold", ~found.warm)):
            some = np.flatnonzero(mask)
            usable = tuple(name for name in chosen if kind == "warm" or name != "g") or chosen
            if not len(some):
                some = np.arange(len(rows))
            judged = Judged.judge(
                found.at(some), validation.relevance[rows[some]], validation.filter[rows[some]]
            )
            fits[mix, kind] = fit_weights(judged, usable, seed)
    return fits


def _mixes(fits: dict[tuple[str, str], Fit]) -> dict[str, Mix]:
    return {
        name: Mix(fits[name, "warm"].weights, fits[name, "cold"].weights)
        for name in dict.fromkeys(name for name, _ in fits)
    }


def _facts(fit: Fit) -> dict[str, Any]:
    return dataclasses.asdict(fit)


def _summary(fits: dict[tuple[str, str], Fit]) -> str:
    """Return a table of the weights, and of the objective of the mix and of each part alone.

    A weight that only fills lists up reads "fill 0.001".
    """
    lines: dict[str, dict[str, float | int | str]] = {}
    for (mix, kind), fit in fits.items():
        name = f"{mix}, {kind} ({fit.points} points)"
        lines[f"{name}: weights"] = {
            part: f"{weight:.2f}" if weight >= 0.01 else f"fill {weight:g}"
            for part, weight in fit.weights.parts.items()
        }
        lines[f"{name}: alone"] = {**fit.alone, "mix": fit.objective}
    names = dict.fromkeys(name for fit in fits.values() for name in fit.alone)
    return "mean of P@1, nDCG@5 and R@10 on validation points\n" + table(lines, [*names, "mix"])


def _remove(folder: Path, begun: bool = False) -> None:
    """Remove a folder of parts, such that none is ever found without some of its files.

    Args:
        folder: of parts.
        begun: only finish what a killed call has begun.
    """
    going = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(going, ignore_errors=True)
    if not begun and folder.exists():
        folder.rename(going)
        shutil.rmtree(going, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Move a folder to its place, if it is not there already."""
    if source.exists() and not target.exists():
        source.rename(target)
