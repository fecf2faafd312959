"""A minute experiment: every stage for real, on so little that a run takes seconds.

    python tests/minute.py --workdir=DIR [--stage=...] [any flag of an experiment]

Run as a script it is an experiment like those of `experiments/`, to be started, killed and resumed.
"""

import sys

from mufin_jax.command import main
from mufin_jax.data.miniature import MiniatureConfig
from mufin_jax.data.prepare import PrepareConfig
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.experiment import Experiment
from mufin_jax.model import ModelConfig
from mufin_jax.optimizer import OptimizerConfig
from mufin_jax.prediction import PredictConfig
from mufin_jax.stages.evaluate import EvaluateConfig
from mufin_jax.stages.finetune import FinetuneConfig
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.stages.retrieve import RetrieveConfig
from mufin_jax.training import FitConfig

_RATES = OptimizerConfig(rate=3e-3, warmup=2, image_encoder="full", text_encoder="full")
_FIT = FitConfig(log_every=2, checkpoint_every=3)

MINUTE = Experiment(
    name="minute",
    miniature=MiniatureConfig(labels=60, points=120, test_points=30, picture=32),
    prepare=PrepareConfig(image_size=16, max_tokens=8, vocab_size=256),
    model=ModelConfig(
        dim=8,
        image=ViTConfig(width=16, depth=1, heads=2, mlp=32, patch=8, image_size=16, init_std=None),
        text=DistilBertConfig(
            vocab=256, width=16, depth=1, heads=2, mlp=32, max_positions=16, init_std=None
        ),
    ),
    pretrain=PretrainConfig(
        epochs=2, batch_size=16, refresh_epochs=1, optimizer=_RATES, fit=_FIT
    ),
    retrieve=RetrieveConfig(shortlist=20),
    finetune=FinetuneConfig(epochs=2, batch_size=32, optimizer=_RATES, fit=_FIT),
    evaluate=EvaluateConfig(predict=PredictConfig(shortlist=20), timed_points=5),
)

PRESETS = {"miniature": MINUTE, "paper": MINUTE}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
