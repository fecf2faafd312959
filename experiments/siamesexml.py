"""SiameseXML, the strongest text-only method in the paper's comparison (table 2, appendix C).

    python -m experiments.siamesexml --stage=all --data=DIR
    python -m experiments.siamesexml --stage=all            the built-in miniature

It has titles alone through the same text encoder, no attention, one vector a label in the index,
and classifiers w = unit(z + eta).
"""

import dataclasses
import sys

from experiments.amazon_miniature import MINIATURE
from experiments.amazon_paper import PAPER
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment


def siamesexml(base: Experiment, name: str) -> Experiment:
    """Return SiameseXML with the sizes and rates of an experiment."""
    model = dataclasses.replace(
        base.model, modalities="text", self_attention="none", cross_attention="none",
        image_checkpoint=None,
    )  # fmt: skip
    return dataclasses.replace(
        base,
        name=name,
        model=model,
        retrieve=dataclasses.replace(base.retrieve, pooled=True),
        finetune=dataclasses.replace(base.finetune, classifiers="sum"),
    )


SIAMESEXML = dataclasses.replace(
    siamesexml(PAPER, "siamesexml"),
    cost="not measured",
    expected="the paper reports on MM-AmazonTitles-300K (table 2): P@1 48.64, P@5 32.99, "
    "nDCG@5 47.46, R@10 47.72; not measured here",
)
SIAMESEXML_MINIATURE = dataclasses.replace(
    siamesexml(MINIATURE, "siamesexml-miniature"),
    cost="not measured",
    expected="on the built-in catalogue, seed 0: P@1 27.83, R@10 29.69; Module I alone P@1 12.00",
)

PRESETS = {"miniature": SIAMESEXML_MINIATURE, "paper": SIAMESEXML}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
