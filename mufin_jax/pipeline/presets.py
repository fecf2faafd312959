"""The presets by their names: the only file of the library that knows the experiments."""

from collections.abc import Mapping

from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.runtime.errors import InputError


def presets() -> Mapping[str, Experiment]:
    """Return the presets of `mufin train`, by name."""
    from experiments.amazon import PRESETS

    return PRESETS


def preset_of(given: object) -> Experiment:
    """Return the experiment that a user names, or gives.

    Raises:
        InputError: if it is neither a name of a preset nor an experiment.
    """
    if isinstance(given, Experiment):
        return given
    known = presets()
    if not isinstance(given, str) or given not in known:
        raise InputError(
            f"preset={given!r:.80}: expected one of {', '.join(known)}; or an Experiment"
        )
    return known[given]
