"""CLIP + MUFIN on MM-AmazonTitles-300K (paper, table 2 and appendix C.1).

    python -m experiments.amazon_clip --stage=all --data=DIR
    python -m experiments.amazon_clip --stage=all --preset=clip-frozen --data=DIR

CLIP's two encoders take the place of MUFIN's and train as those do. With `clip-frozen`, only A_S,
A_C and the label table train.
"""

import dataclasses
import sys

from experiments.amazon_paper import PAPER
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment

FROZEN = {"image_encoder": "frozen", "text_encoder": "frozen"}
_CHECKPOINT = "openai/clip-vit-base-patch32"


def training(base: Experiment, name: str, **modes: str) -> Experiment:
    """Return an experiment whose encoders train as the modes of `OptimizerConfig` specify."""
    stages = {
        stage: dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **modes))
        for stage, config in (("pretrain", base.pretrain), ("finetune", base.finetune))
    }
    return dataclasses.replace(base, name=name, **stages)


CLIP = dataclasses.replace(
    PAPER,
    name="amazon-clip",
    model=ModelConfig(image_checkpoint=_CHECKPOINT, text_checkpoint=_CHECKPOINT),
    cost="not measured",
    expected="the paper reports on MM-AmazonTitles-300K (table 2): P@1 40.49, P@5 27.38, "
    "nDCG@5 38.45, R@10 37.19; not measured here",
)
CLIP_FROZEN = dataclasses.replace(
    training(CLIP, "amazon-clip-frozen", **FROZEN), expected="not measured"
)

PRESETS = {"miniature": CLIP, "paper": CLIP, "clip-frozen": CLIP_FROZEN}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
