"""The stages of a run, one file each, in the paper's order: Modules I to IV, evaluation, report.

Each stage reads the folders of earlier stages and writes its own. `StageContext` names the folders.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.stages.context import StageContext
    from mufin_jax.stages.evaluate import EvaluateConfig
    from mufin_jax.stages.finetune import FinetuneConfig
    from mufin_jax.stages.initialize import InitializeConfig
    from mufin_jax.stages.pretrain import PretrainConfig
    from mufin_jax.stages.report import ReportConfig
    from mufin_jax.stages.retrieve import RetrieveConfig

__all__ = [
    "EvaluateConfig",
    "FinetuneConfig",
    "InitializeConfig",
    "PretrainConfig",
    "ReportConfig",
    "RetrieveConfig",
    "StageContext",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "context": ["StageContext"],
        "evaluate": ["EvaluateConfig"],
        "finetune": ["FinetuneConfig"],
        "initialize": ["InitializeConfig"],
        "pretrain": ["PretrainConfig"],
        "report": ["ReportConfig"],
        "retrieve": ["RetrieveConfig"],
    },
)
