"""`fit`: from a dataset to a finished run, in one call."""

import dataclasses
import functools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.from_items import made_from
from mufin_jax.pipeline.idle_options import reject_idle_options
from mufin_jax.pipeline.named_settings import with_settings
from mufin_jax.pipeline.old_runs import made_with
from mufin_jax.pipeline.presets import preset_of
from mufin_jax.pipeline.run import reject_part_of_run, run
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run, use_compile_cache
from mufin_jax.runtime.storage.paths import Given, user_path
from mufin_jax.runtime.storage.temporary import Temporary, of_process
from mufin_jax.training.follower import Callback

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class FittedRun:
    """A finished run.

    Attributes:
        experiment: all of its settings.
        metrics: of the test points, as in metrics.json.
        mesh: the devices of its predictor; None for all.
    """

    experiment: Experiment
    metrics: Mapping[str, Any]
    mesh: Mesh | None = None
    _temporary: Temporary | None = None

    @property
    def folder(self) -> Path:
        """The run's folder; without a `workdir` it goes with the run, its predictor and dataset."""
        return self.experiment.folder

    @functools.cached_property
    def predictor(self) -> Predictor:
        """What answers queries; loaded on first use."""
        return self._kept(Predictor.load(self.folder, self.mesh))

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The prepared data that it was trained on; loaded on first use."""
        return self._kept(Dataset.load(self.folder / "prepare"))

    def _kept(self, loaded: Any) -> Any:
        if self._temporary is not None:
            self._temporary.needed_by(loaded)
        return loaded

    def __repr__(self) -> str:
        """Return the folder and the first metrics."""
        shown = [f"{name} {self.metrics[name]:.1f}" for name in _SHOWN if name in self.metrics]
        points = self.metrics.get("points", self.metrics.get("questions", 0))
        what = "questions" if "questions" in self.metrics else "test points"
        found = f"{', '.join(shown)} of {points:,} {what}" if shown else "no test points"
        return f"FittedRun({str(self.folder)!r}: {found})"


_SHOWN = ("P@1", "P@5", "R@10", "FITB")


def fit(
    data: Dataset | Given,
    preset: Experiment | str = "catalogue",
    callbacks: Sequence[Callback] = (),
    workdir: Given | None = None,
    mesh: Mesh | None = None,
    **settings: Any,
) -> FittedRun:
    """Train on a dataset, and measure on its test points: all stages of a run.

    Args:
        data: a dataset of `Dataset.from_items`; or raw data, as for `mufin train --data`.
        preset: name of a preset of `mufin train`, or an Experiment.
        callbacks: called with (stage, step, metrics) at each step that is logged, and with
            (stage, None, results) when a stage is finished. What one raises ends the run.
        workdir: the run's folder, where the same call resumes; by default, a temporary one.
        mesh: the devices; all of them by default.
        **settings: changes of the preset: `pretrain={"epochs": 3}`, `**{"pretrain.epochs": 3}`.

    Returns:
        The run, with its `predictor`, `metrics` and `folder`.

    Raises:
        InputError: for wrong settings or data, or a folder made with others.
        TooManyBadRows: if too much of the data cannot be used.
        Stopped: after a signal.
    """
    base = preset_of(preset)
    raw, own = made_from(data) if isinstance(data, Dataset) else (user_path(data, "data"), {})
    experiment = with_settings(with_settings(base, own), settings)
    reject_idle_options(experiment, base)
    _check_callbacks(callbacks)
    temporary = None
    if workdir is None:
        temporary = Temporary("run")
        use_compile_cache(of_process("programs"))
    folder = temporary.path if temporary is not None else user_path(workdir or "", "workdir")
    experiment = dataclasses.replace(experiment, data=raw, workdir=folder)
    reject_part_of_run(folder)
    if isinstance(data, Dataset):
        processes.once("prepared data are taken over", lambda: _take_over(data, experiment))
    metrics = run(experiment, mesh=mesh, callbacks=tuple(callbacks))
    return FittedRun(experiment, metrics or {}, mesh, temporary)


def _check_callbacks(callbacks: object) -> None:
    """Reject callbacks that cannot be called, before anything is done."""
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise InputError(
            f"callbacks: found {callbacks!r:.80}; expected a list of functions that take "
            "(stage, step, metrics)"
        )


def _take_over(dataset: Dataset, experiment: Experiment) -> None:
    """Copy a prepared folder to a run that would prepare the same items in the same way."""
    prepared = experiment.folder / "prepare"
    if prepared.exists():
        return
    wanted = STAGES["prepare"].settings(experiment.resolved())
    if changes := Run(dataset.path.parent).changes("prepare", wanted, made_with):
        log.info("the items are prepared again with other settings (%s)", "; ".join(changes))
        return
    partial = experiment.folder / "prepare.partial"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(dataset.path, partial)
    partial.rename(prepared)
