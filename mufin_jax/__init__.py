"""MUFIN, multi-modal extreme classification (Mittal et al., CVPR 2022), in pure JAX.

    import mufin_jax as mufin

    dataset = mufin.Dataset.from_items(table, test=0.2)
    predictor = mufin.fit(dataset, workdir="runs/shop").predictor
    predictor.predict([{"title": "wall shelf", "images": ["shelf.jpg"]}], k=5)

    dataset = mufin.Dataset.load("runs/shop/prepare")
    predictor = mufin.Predictor.load("runs/shop")
    mufin.evaluate(predictor, dataset)
    metrics = mufin.run(experiment, stage="all")

Importing this package imports no JAX: a name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face
from mufin_jax.runtime.surroundings import check_platform

if TYPE_CHECKING:
    from mufin_jax.data.dataset import Dataset
    from mufin_jax.evaluation.test_set import evaluate
    from mufin_jax.pipeline.experiment import Experiment
    from mufin_jax.pipeline.fitting import FittedRun, fit
    from mufin_jax.pipeline.run import run
    from mufin_jax.prediction.answers import Prediction
    from mufin_jax.prediction.predictor import Predictor

check_platform()
__version__ = "0.1.0"
__all__ = [
    "Dataset",
    "Experiment",
    "FittedRun",
    "Prediction",
    "Predictor",
    "evaluate",
    "fit",
    "run",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "data.dataset": ["Dataset"],
        "evaluation.test_set": ["evaluate"],
        "pipeline.experiment": ["Experiment"],
        "pipeline.fitting": ["FittedRun", "fit"],
        "pipeline.run": ["run"],
        "prediction.answers": ["Prediction"],
        "prediction.predictor": ["Predictor"],
    },
)
