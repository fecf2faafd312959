"""MUFIN on MM-AmazonTitles-300K as published (paper, table 5 and appendix D).

python -m experiments.amazon_paper --stage=all --data=DIR
"""

import sys

from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment

# The encoders are google/vit-base-patch32-224-in21k and msmarco-distilbert-base-v4; name their
# folders to start from other weights.
PAPER = Experiment(
    name="amazon",
    model=ModelConfig(
        image_checkpoint="google/vit-base-patch32-224-in21k",
        text_checkpoint="sentence-transformers/msmarco-distilbert-base-v4",
    ),
    cost="counted, not measured: Module I 182 TFLOP a step, 296 steps an epoch, 200 epochs; "
    "Module IV 178 TFLOP a step, 2,934 steps an epoch, 20 epochs; about 15 hours together on one "
    "accelerator that sustains 400 TFLOP/s",
    expected="the paper reports on MM-AmazonTitles-300K (table 2): P@1 52.30, P@5 34.76, "
    "nDCG@5 50.46, R@10 50.63; not measured here",
)

PRESETS = {"miniature": PAPER, "paper": PAPER}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
