"""The levers of the preset `catalogue` (docs/recipe.md): one of them changed in each row.

    python -m experiments.ablations --recipe                        the built-in catalogue
    python -m experiments.ablations --recipe --data=DIR --workdir=runs/recipe
    python -m experiments.ablations --recipe --rows=hinge,no_v --seeds=0
    python -m experiments.ablations --recipe --data=DIR --teacher=VECTORS/text

Rows that differ in the score alone train nothing: they fit other weights to the parts that remain.
"""

import dataclasses
import logging
import sys
from collections.abc import Mapping

from experiments.amazon_catalogue import CATALOGUE, FROZEN
from experiments.amazon_miniature import MINIATURE
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.comparison import Comparison, Row
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.prediction.parts import PARTS, WALKS
from mufin_jax.runtime.errors import InputError

log = logging.getLogger(__name__)


def _without(*names: str) -> Row:
    """Return the row whose score lacks some parts."""
    return Row({"select": {"parts": tuple(name for name in PARTS if name not in names)}})


RECIPE = {
    "catalogue": Row(),
    "hinge": Row({"pretrain": {"loss": "hinge"}}),
    "no_crops": Row({"pretrain": {"crop": 0.0}}),
    # Random free vectors, the paper's A_C and its loss; everything trains, as in `miniature`.
    "papers_module_4": Row(
        {
            "model": {"cross_attention": "attention"},
            "initialize": {"eta": "xavier"},
            "finetune": {
                "classifiers": "table",
                "loss": "cosine",
                "batch_size": MINIATURE.finetune.batch_size,
                "optimizer": dataclasses.replace(
                    MINIATURE.finetune.optimizer, image_encoder="auto", text_encoder="auto"
                ),
            },
        }
    ),
    **{f"no_{name}": _without(name) for name in PARTS},
    "content": _without(*WALKS),
    "no_selection": Row({"select": {"parts": ()}}),  # the paper's 0.7 c + 0.3 a
    "no_self_attention": Row({"model": {"self_attention": "none"}}),
    "no_cross_attention": Row({"model": {"cross_attention": "none"}}),
    # An item is one descriptor: its pictures' vectors are tokens of the text encoder, next to those
    # of the title.
    "early_fusion": Row(
        {
            "model": {
                "modalities": "joint",
                "text": dataclasses.replace(VisualBertConfig.miniature(vocab=4096), depth=1),
            }
        }
    ),
    "prototypes": Row({"finetune": {"prototypes": True}}),
    "modality_dropout": Row(
        {"pretrain": {"modality_dropout": 0.2}, "finetune": {"modality_dropout": 0.2}}
    ),
}


@dataclasses.dataclass(frozen=True)
class RecipeAblations(Comparison):
    """Run the preset `catalogue` without one of its levers at a time; finished runs are skipped."""

    TABLE = RECIPE

    recipe: bool = True
    """This table; `experiments.ablations` has that of the paper without it."""
    teacher: str | None = None
    """Ready vectors by item id (docs/data.md) for the row `teacher`, in which Module I's vectors
    take over their relations; without them, the row is left out."""

    def table(self) -> Mapping[str, Row]:
        """Return the table, with the row `teacher` if there is one."""
        if self.teacher is not None:
            return RECIPE | {"teacher": Row({"pretrain": {"teacher": self.teacher}})}
        if "teacher" in self.rows.split(","):
            raise InputError("--rows=teacher: the row needs vectors; add --teacher=NAME")
        if self.rows == "all":
            log.info("the row teacher is left out: it needs vectors (--teacher=NAME)")
        return RECIPE


def _table_of(base: Experiment) -> Experiment:
    """Return the experiment of the table's first row."""
    return dataclasses.replace(
        base,
        name="ablations-recipe",
        # kNN on the vectors before training is the same in nearly all rows.
        evaluate=dataclasses.replace(base.evaluate, frozen_neighbours=False),
        cost="not measured",
        expected="docs/recipe.md has the figures of two real catalogues",
    )


PRESET = _table_of(CATALOGUE)
PRESETS = {
    "miniature": PRESET,
    "paper": PRESET,
    "catalogue": PRESET,
    # Where text encoders or vectors are given, --rows must leave early_fusion out.
    "catalogue-frozen": _table_of(FROZEN),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS, kind=RecipeAblations))
