"""Rankings that need no training: the scores that any trained model must exceed.

`untrained.py` ranks the labels of a catalogue, `outfits.py` the answers of outfit questions.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.baselines.outfits import outfit_floors
    from mufin_jax.baselines.untrained import floor_rankings, floors

__all__ = ["floor_rankings", "floors", "outfit_floors"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {"outfits": ["outfit_floors"], "untrained": ["floor_rankings", "floors"]},
)
