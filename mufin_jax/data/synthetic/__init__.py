"""Generating data: a catalogue, outfits, or ads with queries, all from a seed.

Each configuration has the method `write`; the generators know the best reachable scores.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.data.synthetic.ads_world import AdsConfig
    from mufin_jax.data.synthetic.catalogue import MiniatureConfig
    from mufin_jax.data.synthetic.outfits import OutfitsConfig

__all__ = ["AdsConfig", "MiniatureConfig", "OutfitsConfig"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {"ads_world": ["AdsConfig"], "catalogue": ["MiniatureConfig"], "outfits": ["OutfitsConfig"]},
)
