"""How a predictor makes scores."""

import dataclasses
from pathlib import Path

from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import damaged, load_json


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
        if self.shortlist < 1 or not 0 <= self.mix <= 1:
            raise InputError(
                f"predict.shortlist={self.shortlist}, predict.mix={self.mix}: expected a shortlist "
                "of at least 1 and a mix between 0 and 1"
            )


def measured_with(workdir: Path) -> PredictConfig | None:
    """Return the options that evaluate recorded; None before it is done."""
    evaluated, settings = workdir / "evaluate", workdir / "evaluate" / "settings.json"
    if not (evaluated / "done.json").exists():
        return None
    with damaged(f"{settings} cannot be read ({{reason}}): make it again by --redo=evaluate"):
        return PredictConfig(**load_json(settings)["predict"])
