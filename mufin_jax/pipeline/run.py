"""Takes an experiment through its stages, each from its inputs' folders to its own."""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.synthetic.ads import AdsConfig, write_ads
from mufin_jax.data.synthetic.catalogue import MiniatureConfig, write_miniature
from mufin_jax.data.synthetic.outfits import OutfitsConfig, write_outfits
from mufin_jax.model.label_table import ROWS
from mufin_jax.pipeline.experiment import STAGES, Experiment, Stage
from mufin_jax.pipeline.memory_survey import foresee, sizes_of
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run, environment, use_compile_cache
from mufin_jax.runtime.shared_stages import link_stages
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import read_json
from mufin_jax.stages.evaluate import evaluate
from mufin_jax.stages.finetune import finetune
from mufin_jax.stages.initialize import initialize
from mufin_jax.stages.pretrain import pretrain
from mufin_jax.stages.report import report
from mufin_jax.stages.retrieve import retrieve

log = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    stage: Stage = "all",
    mesh: Mesh | None = None,
    others: Sequence[Path] = (),
) -> dict[str, Any] | None:
    """Run one stage, or all of them, and return the metrics where there are any.

    Args:
        experiment: what to run, and where.
        stage: "all", or one of STAGES, whose predecessors must be finished.
        mesh: the devices; all of them by default.
        others: folders of other runs; stages that one of them has finished with the same settings,
            on stages that were made with the same settings, become links to its own.

    Raises:
        InputError: wrong data, or a folder made with another configuration.
        Held: another run has the folder.
        Stopped: after a signal; the same call goes on.
    """
    if stage != "all" and stage not in STAGES:
        raise InputError(f"stage={stage!r}: expected all or one of {', '.join(STAGES)}")
    if experiment.data is not None and not experiment.data.is_dir():
        raise InputError(f"--data={experiment.data}: no such folder")
    mesh = mesh or make_mesh()
    if ROWS % mesh.size:
        raise InputError(
            f"{mesh.size} devices: the label table wants a number that divides {ROWS}, such as 1, "
            "2, 4 or 8; leave some devices out"
        )
    with Run(experiment.folder) as held:
        use_compile_cache(experiment.folder)
        runner = _Runner(experiment, held, mesh)
        names = STAGES if stage == "all" else (stage,)
        settings = {name: runner.settings(name) for name in STAGES[: STAGES.index(names[-1]) + 1]}
        link_stages(experiment.folder, settings, others)
        for name, wanted in settings.items():  # before hours of work are begun
            held.check(name, wanted)
        held.record(experiment=dataclasses.asdict(experiment), **environment())
        for place, name in enumerate(names):
            check_stop(name)
            runner.take(name, names[place:])
        path = experiment.folder / "metrics.json"
        known = processes.decide(lambda: held.finished("evaluate") and path.exists())
        return read_json(path) if known else None


class _Runner:
    """Takes a held folder through stages; each method below is a stage with its arguments."""

    def __init__(self, experiment: Experiment, held: Run, mesh: Mesh):
        self.experiment, self.held, self.mesh = experiment, held, mesh
        self.folders = {name: experiment.folder / name for name in STAGES}
        self.kept = experiment.folder / "precomputed"
        self.fits = False

    def take(self, name: str, ahead: Sequence[str]) -> None:
        """Run a stage unless it is finished; what it was made with must be what is asked for.

        Args:
            name: the stage.
            ahead: this stage and those that will follow: all must fit the machine.
        """
        if processes.decide(lambda: self._finished(name)):
            log.info("%s: finished already", name)
            return
        if name != "prepare" and not self.fits:
            self._foresee(ahead)
            self.fits = True
        log.info("%s", name)
        make = functools.partial(getattr(self, name), self.folders[name])
        with self.held.timed(name):
            if name == "prepare":  # the one stage that computes nothing on the devices
                processes.once("the data are prepared", make)
            else:
                make()
        self.held.mark_finished(name)

    def _finished(self, name: str) -> bool:
        """Whether a stage is finished, or else can begin: its predecessors are, no later one is."""
        for earlier in STAGES[: STAGES.index(name)]:
            if not self.held.finished(earlier):
                raise InputError(
                    f"stage {name} needs {earlier}, which is not finished in "
                    f"{self.held.workdir}: run --stage={earlier} or --stage=all"
                )
        self.held.guard(name, self.settings(name))
        if self.held.finished(name):
            return True
        for later in STAGES[STAGES.index(name) + 1 :]:
            if (self.folders[later] / "settings.json").exists():
                raise InputError(
                    f"{self.folders[later]} was made from another {name}: delete it, and the "
                    "folders of the stages after it, or choose another --workdir"
                )
        return False

    def _foresee(self, ahead: Sequence[str]) -> None:
        """Check the prepared data, print the memory plan, and reject a run that cannot fit."""
        prepared = self.folders["prepare"]
        log.info("checking the prepared data against their checksums")
        check = functools.partial(Dataset.open, prepared, verify=True)
        processes.once("the prepared data are whole", check)
        experiment, dataset = self.experiment, Dataset.open(prepared)
        i, iv = experiment.pretrain, experiment.finetune
        sizes = sizes_of(
            dataset,
            experiment.model,
            experiment.initialize.table,
            self.mesh,
            pretrain=(i.batch_size, i.batch_size * i.positives),
            finetune=(iv.batch_size * (iv.positives + iv.negatives), iv.batch_size),
            optimizers=(i.optimizer, iv.optimizer),
            index=experiment.retrieve.index,
        )
        foresee(sizes, ahead, self.mesh)

    def settings(self, name: str) -> dict[str, Any]:
        """Return the part of the experiment that decides what a stage writes."""
        experiment = self.experiment
        config = self.preparing() if name == "prepare" else getattr(experiment, name)
        settings = dataclasses.asdict(config)
        settings.pop("fit", None)  # intervals of logs and checkpoints change no result
        if name in ("pretrain", "initialize", "finetune"):  # those that draw
            settings["seed"] = experiment.seed
        if name == "prepare":
            for runs_it in ("beam_runner", "beam_options"):  # who does the work changes no result
                settings.pop(runs_it)
            settings["data"] = str(experiment.data.resolve()) if experiment.data else None
            if experiment.data is None:
                settings["miniature"] = dataclasses.asdict(experiment.miniature)
            settings["image_checkpoint"] = experiment.model.image_checkpoint
        if name == "pretrain":
            settings["model"] = dataclasses.asdict(experiment.model)
            settings["model"].pop("cross_attention")  # which Module III makes
        if name == "initialize":
            settings["cross_attention"] = experiment.model.cross_attention
        return settings

    def preparing(self) -> PrepareConfig:
        """Return how to prepare: a text checkpoint brings its own tokenizer."""
        config, model = self.experiment.prepare, self.experiment.model
        if config.tokenizer or model.text_checkpoint is None or model.modalities == "images":
            return config
        return dataclasses.replace(config, tokenizer=model.text_checkpoint)

    def prepare(self, out: Path) -> None:
        """Raw data, or built-in data, to the prepared folder."""
        experiment, source = self.experiment, self.experiment.data
        builtin = experiment.miniature
        if source is None and isinstance(builtin, AdsConfig):  # made as training reads them
            write_ads(builtin, out)
            return
        config, processing = self.preparing(), None
        if experiment.model.image_checkpoint:
            from mufin_jax.encoders.pretrained import image_processing

            processing = image_processing(experiment.model.image_checkpoint)
        if source is None:
            source = experiment.folder / "miniature"
            if isinstance(builtin, OutfitsConfig):
                write_outfits(builtin, source)
            else:
                assert isinstance(builtin, MiniatureConfig)
                write_miniature(builtin, source)
        prepare(config, source, out, processing)

    def pretrain(self, out: Path) -> None:
        """Module I."""
        experiment = self.experiment
        pretrain(
            experiment.pretrain, experiment.model, self.folders["prepare"], out, self.mesh,
            experiment.seed, self.kept,
        )  # fmt: skip

    def retrieve(self, out: Path) -> None:
        """Module II."""
        folders = self.folders
        retrieve(
            self.experiment.retrieve, folders["prepare"], folders["pretrain"], out, self.mesh,
            self.kept,
        )  # fmt: skip

    def initialize(self, out: Path) -> None:
        """Module III."""
        experiment, folders = self.experiment, self.folders
        initialize(
            experiment.initialize, folders["prepare"], folders["pretrain"], out, self.mesh,
            experiment.seed, experiment.model.cross_attention,
        )  # fmt: skip

    def finetune(self, out: Path) -> None:
        """Module IV."""
        experiment, folders = self.experiment, self.folders
        finetune(
            experiment.finetune, folders["prepare"], folders["retrieve"], folders["initialize"],
            out, self.mesh, experiment.seed, self.kept, experiment.retrieve.index,
            experiment.evaluate.predict, experiment.retrieve.pooled,
        )  # fmt: skip

    def evaluate(self, out: Path) -> None:
        """Metrics, floors, ceiling."""
        folders = self.folders
        evaluate(
            self.experiment.evaluate, folders["prepare"], folders["retrieve"],
            self.experiment.folder, out, self.mesh,
        )  # fmt: skip

    def report(self, out: Path) -> None:
        """The paper's tables and figures, on a page."""
        experiment, truth = self.experiment, self.experiment.folder / "miniature" / "truth.npz"
        report(
            experiment.report, self.folders["prepare"], experiment.folder, out, self.mesh,
            experiment.seed, truth if experiment.data is None else None,
            experiment.evaluate.predict,
        )  # fmt: skip
