"""From a command to a finished run: an experiment and the stages that it goes through.

`run.py` takes an `Experiment` through the stages, `cli.py` reads one from the command line, and
`comparison.py` runs several that differ in a few settings. The memory plan rejects a run that
cannot fit before the work begins.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.pipeline.cli import Command, main
    from mufin_jax.pipeline.comparison import Comparison, Row
    from mufin_jax.pipeline.experiment import Experiment, StageName
    from mufin_jax.pipeline.memory_plan import MemoryPlan
    from mufin_jax.pipeline.stage_table import STAGES, Stage

__all__ = [
    "STAGES",
    "Command",
    "Comparison",
    "Experiment",
    "MemoryPlan",
    "Row",
    "Stage",
    "StageName",
    "main",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "cli": ["Command", "main"],
        "comparison": ["Comparison", "Row"],
        "experiment": ["Experiment", "StageName"],
        "memory_plan": ["MemoryPlan"],
        "stage_table": ["STAGES", "Stage"],
    },
)
