"""How a predictor makes scores."""

import dataclasses
import numbers
from pathlib import Path

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged, load_json
from mufin_jax.runtime.storage.paths import gone_link

PREDICTOR = "finetune/predictor/predictor.json"
"""The last file of a run's predictor."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How scores are made; the defaults are the paper's.

    Attributes:
        shortlist: labels retrieved for a datapoint.
        mix: weight of the classifier's score c; the rest is the similarity a.
    """

    shortlist: int = 100
    mix: float = 0.7

    def __post_init__(self) -> None:
        """Reject an empty shortlist and weights outside [0, 1]."""
        check_count("predict.shortlist", self.shortlist)
        if not isinstance(self.mix, numbers.Real):
            raise InputError(f"predict.mix={self.mix!r:.80}: expected a number between 0 and 1")
        if self.shortlist < 1 or not 0 <= self.mix <= 1:
            raise InputError(
                f"predict.shortlist={self.shortlist}, predict.mix={self.mix}: expected a shortlist "
                "of at least 1 and a mix between 0 and 1"
            )


def check_count(name: str, value: object, least: int | None = None) -> None:
    """Reject what is no whole number, or one below the least.

    Raises:
        InputError: with the name and the value.
    """
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        if least is None or int(value) >= least:
            return
    bound = "" if least is None else f" of at least {least}"
    raise InputError(f"{name}={value!r:.80}: expected a whole number{bound}")


def check_finished(workdir: Path) -> None:
    """Check that a folder is that of a run whose stage finetune is done.

    Raises:
        InputError: it is not; the message gives the folder of the run that it is a part of, or
            that it holds.
    """
    if (workdir / PREDICTOR).exists():
        return
    for run in workdir.absolute().parents[:4]:
        if (run / PREDICTOR).exists():
            raise InputError(f"{workdir} is a part of a run: give the run's folder, {run}")
    if not workdir.is_dir():
        found = gone_link(workdir) or f"{workdir}: no such folder"
        raise InputError(f"{found}; expected the folder of a run")
    for path in sorted(workdir.glob(f"*/{PREDICTOR}")):
        run = path.relative_to(workdir).parts[0]
        raise InputError(f"{workdir}: the run is in the folder {run}: give {workdir / run}")
    raise InputError(
        f"{workdir}: no trained model there; run the stages up to finetune with "
        f"--workdir={workdir} first"
    )


def measured_with(workdir: Path) -> PredictConfig | None:
    """Return the options that evaluate recorded; None before it is done."""
    evaluated, settings = workdir / "evaluate", workdir / "evaluate" / "settings.json"
    if not (evaluated / "done.json").exists():
        return None
    with damaged(f"{settings} cannot be read ({{reason}}): make it again by --redo=evaluate"):
        return PredictConfig(**load_json(settings)["predict"])
