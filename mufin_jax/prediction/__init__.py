"""Answering queries: a trained model and its labels rank the labels of new items.

`predictor.py` embeds, retrieves and scores; `build.py` leaves what it loads, and `label_cache.py`
keeps what is known of every label.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.prediction.answers import Prediction
    from mufin_jax.prediction.build import build_predictor
    from mufin_jax.prediction.config import PredictConfig
    from mufin_jax.prediction.label_cache import LabelCache
    from mufin_jax.prediction.predictor import Predictor

__all__ = ["LabelCache", "PredictConfig", "Prediction", "Predictor", "build_predictor"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "build": ["build_predictor"],
        "label_cache": ["LabelCache"],
        "config": ["PredictConfig"],
        "answers": ["Prediction"],
        "predictor": ["Predictor"],
    },
)
