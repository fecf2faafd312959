"""Training of Modules I and IV: losses, batches with their hard examples, steps and the loop.

`losses.py` holds the losses, `mining.py` draws hard positives and hard negatives, and `loop.py`
takes the steps, with checkpoints and logs.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.training.finetune_batches import FinetuneConfig
    from mufin_jax.training.fit_config import FitConfig
    from mufin_jax.training.loop import fit
    from mufin_jax.training.losses import cosine_margin_loss, hinge_loss, softmax_loss
    from mufin_jax.training.optimizer import OptimizerConfig
    from mufin_jax.training.pretrain_config import PretrainConfig
    from mufin_jax.training.setup import TrainState, set_up

__all__ = [
    "FinetuneConfig",
    "FitConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "TrainState",
    "cosine_margin_loss",
    "fit",
    "hinge_loss",
    "set_up",
    "softmax_loss",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "finetune_batches": ["FinetuneConfig"],
        "fit_config": ["FitConfig"],
        "loop": ["fit"],
        "losses": ["cosine_margin_loss", "hinge_loss", "softmax_loss"],
        "optimizer": ["OptimizerConfig"],
        "pretrain_config": ["PretrainConfig"],
        "setup": ["TrainState", "set_up"],
    },
)
