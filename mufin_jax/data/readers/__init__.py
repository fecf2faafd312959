"""Reading a catalogue in the form in which its user holds it.

`forms.py` finds the reader of a folder; each reader checks its files and returns a `Catalogue`.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.data.readers.catalogue import SIDES, Catalogue, RawSide
    from mufin_jax.data.readers.forms import load_catalogue, load_ceiling
    from mufin_jax.data.readers.tally import Tally

__all__ = ["SIDES", "Catalogue", "RawSide", "Tally", "load_catalogue", "load_ceiling"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "catalogue": ["SIDES", "Catalogue", "RawSide"],
        "forms": ["load_catalogue", "load_ceiling"],
        "tally": ["Tally"],
    },
)
