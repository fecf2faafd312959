"""Preparing a catalogue once: the stage `prepare` writes the folder that training reads.

`prepare.py` is the stage; the other files filter pairs, resize images and write records.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.data.preparation.beam import Beam
    from mufin_jax.data.preparation.config import PrepareConfig
    from mufin_jax.data.preparation.overlap import Overlap, overlap_filter

__all__ = ["Beam", "Overlap", "PrepareConfig", "overlap_filter"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {"beam": ["Beam"], "config": ["PrepareConfig"], "overlap": ["Overlap", "overlap_filter"]},
)
