"""VisualBERT + MUFIN (paper, table 2 and appendix C.1).

    python -m experiments.amazon_visualbert --stage=all --data=DIR
    python -m experiments.amazon_visualbert --stage=all --preset=visualbert-frozen --data=DIR
    python -m experiments.amazon_visualbert --stage=all     the built-in miniature

VisualBERT reads an item's text and pictures together.
"""

import dataclasses
import sys
from typing import Any

from experiments.amazon_clip import FROZEN, training
from experiments.amazon_miniature import MINIATURE
from experiments.amazon_paper import PAPER
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment


def visualbert(base: Experiment, name: str, **model: Any) -> Experiment:
    """Return VisualBERT + MUFIN with the rest of an experiment.

    An item has one vector: no A_S, shortlists by that vector, A_C on it.

    Args:
        base: sizes and rates.
        name: of the experiment.
        model: fields of its `ModelConfig`: which encoders.
    """
    joint = {"modalities": "joint", "self_attention": "none", **model}
    return dataclasses.replace(
        base,
        name=name,
        model=dataclasses.replace(base.model, **joint),
        retrieve=dataclasses.replace(base.retrieve, pooled=True),
    )


# The pictures' vectors do not train, as in VisualBERT itself. Module I at 1,024 labels reads 3,072
# items at once. The backward pass computes blocks again, because their tokens would otherwise take
# hundreds of gigabytes.
VISUALBERT = dataclasses.replace(
    training(
        visualbert(
            PAPER,
            "amazon-visualbert",
            image_checkpoint="microsoft/resnet-101",
            text_checkpoint="google-bert/bert-large-uncased",
            text=dataclasses.replace(VisualBertConfig.large(), layers="scan", remat=True),
        ),
        "amazon-visualbert",
        image_encoder="frozen",
    ),
    cost="not measured",
    expected="the paper reports on MM-AmazonTitles-300K (table 2): P@1 49.11, P@5 32.35, "
    "nDCG@5 46.95, R@10 46.43; not measured here",
)

# Frozen, nothing is left for Module I to train: there is no A_S.
_FROZEN = training(VISUALBERT, "amazon-visualbert-frozen", **FROZEN)
VISUALBERT_FROZEN = dataclasses.replace(
    _FROZEN, pretrain=dataclasses.replace(_FROZEN.pretrain, epochs=0), expected="not measured"
)

_SMALL = visualbert(
    MINIATURE,
    "visualbert-miniature",
    text=dataclasses.replace(VisualBertConfig.miniature(vocab=4096), depth=1),
)
# Module IV teaches these encoders most of what they know. The labels that they retrieve in the end
# are therefore not those of Module I's lists, and negatives come from all of a small catalogue.
VISUALBERT_MINIATURE = dataclasses.replace(
    _SMALL,
    retrieve=dataclasses.replace(_SMALL.retrieve, shortlist=1000),
    finetune=dataclasses.replace(_SMALL.finetune, negatives_from=1000),
    cost="not measured",
    expected="on the built-in catalogue with --miniature.points=3000 --pretrain.epochs=25 "
    "--threads=1, seed 0: P@1 40.17, Module I alone 12.50; with lists of 100 labels 21.83 "
    "(docs/results.md)",
)

PRESETS = {
    "miniature": VISUALBERT_MINIATURE,
    "paper": VISUALBERT,
    "visualbert-frozen": VISUALBERT_FROZEN,
}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
