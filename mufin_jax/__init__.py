"""MUFIN, multi-modal extreme classification (Mittal et al., CVPR 2022), in pure JAX.

    import mufin_jax as mufin

    dataset = mufin.Dataset.open("runs/amazon/prepare")
    metrics = mufin.run(experiment, stage="all")
    predictor = mufin.Predictor.load("runs/amazon")
    predictor.predict([{"title": "wall shelf", "images": ["shelf.jpg"]}], k=5)
    mufin.evaluate(predictor, dataset)

Importing this package imports no JAX: a name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mufin_jax.data.dataset import Dataset
    from mufin_jax.evaluation.test_set import evaluate
    from mufin_jax.pipeline.experiment import Experiment
    from mufin_jax.pipeline.run import run
    from mufin_jax.prediction.predictor import Prediction, Predictor

__version__ = "0.1.0"
__all__ = ["Dataset", "Experiment", "Prediction", "Predictor", "evaluate", "run"]

_HOMES = {
    "Dataset": "mufin_jax.data.dataset",
    "Experiment": "mufin_jax.pipeline.experiment",
    "Prediction": "mufin_jax.prediction.predictor",
    "Predictor": "mufin_jax.prediction.predictor",
    "evaluate": "mufin_jax.evaluation.test_set",
    "run": "mufin_jax.pipeline.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mufin_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
