"""A2Q-4M in shape: ads with a title and a picture to queries of text alone (paper, table 2).

    python -m experiments.a2q --stage=all                            generated, minutes on a CPU
    python -m experiments.a2q --stage=all --num_labels=4_500_000 --num_points=1_000_000
    python -m experiments.a2q --stage=all --data=DIR                 one's own pictures and titles

The paper's data are not public (N 9,618,490, L 4,528,191, 3,933,149 test points), so the built-in
data have their shape at any size, as ready vectors (data/synthetic/ads.py). Scores on generated
data are not comparable with the paper's. `--data` takes any form of docs/data.md; labels without
pictures are labels of text alone.

Ready vectors need no encoder, so Module I has nothing to learn that the vectors lack:
`pretrain.epochs=0` writes the initial model. `--pretrain.epochs=5` trains A_S, and, with
`--pretrain.optimizer.text-encoder=full` (and `image-encoder`), a linear map of the vectors.
"""

import sys

from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.stages.finetune import FinetuneConfig
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.stages.retrieve import RetrieveConfig
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.optimizer import OptimizerConfig

# Table 5 and appendix D of the paper, as for MM-AmazonTitles-300K.
PAPER = Experiment(
    name="a2q",
    miniature=AdsConfig(),
    model=ModelConfig(
        image_checkpoint="google/vit-base-patch32-224-in21k",
        text_checkpoint="sentence-transformers/msmarco-distilbert-base-v4",
    ),
    cost="counted, not measured: Module I 47 PFLOP an epoch (4,422 steps), 200 epochs; Module IV "
    "27 PFLOP an epoch (48,092 steps), 20 epochs; about seven hours together on one accelerator "
    "that sustains 400 TFLOP/s, if the pictures are decoded as fast",
    expected="the paper reports on A2Q-4M (table 2 and section 4): P@1 47.56 after 48 hours on "
    "four V100, and at most 4 ms a prediction; not measured here, the data are not public",
)

# The vectors are ready: nothing that describes trains.
_RATES = OptimizerConfig(
    rate=3e-3, warmup=50, table_rate=5e-2, image_encoder="frozen", text_encoder="frozen"
)
_FIT = FitConfig(log_every=20, checkpoint_every=10_000, checkpoint_seconds=600.0)
MINIATURE = Experiment(
    name="a2q-miniature",
    miniature=AdsConfig(),
    pretrain=PretrainConfig(epochs=0, optimizer=_RATES, fit=_FIT),
    # Measured with trees of sqrt(e) leaves: of 300,000 labels, 5% of the leaves hold 0.977 of the
    # 100 nearest, 10% hold 0.988 as quickly; of 4.5 million labels, whose codes are more alike,
    # 10 k entries taken by their codes hold 0.937.
    retrieve=RetrieveConfig(index=IndexConfig(leaves_searched=0.1, reorder=20)),
    finetune=FinetuneConfig(epochs=10, batch_size=200, optimizer=_RATES, fit=_FIT),
    cost="a minute or two on two CPU cores",
    expected="on generated data (2,000 labels, 6,000 ads, seed 0): P@1 88.20, P@5 29.92, R@10 "
    "88.56; Module I alone P@1 69.40, popularity 15.50",
)

PRESETS = {"miniature": MINIATURE, "paper": PAPER}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
