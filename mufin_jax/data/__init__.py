"""From what users hold to a prepared folder, and from a prepared folder to batches.

`readers` understand the forms in which catalogues come, `preparation` turns them into one folder of
plain arrays, and `dataset.py` opens that folder. `loader.py` makes batches of it: pools of distinct
descriptors (`bags.py`), read from sources (`sources.py`). JAX starts at the loader: readers,
preparation and the opened folder are numpy alone, and importing them does not import JAX.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.data.bags import Bags, Pool
    from mufin_jax.data.dataset import Dataset
    from mufin_jax.data.loader import Loader
    from mufin_jax.data.side import Side
    from mufin_jax.data.sources import Pixels, Sources, Tokens, TrunkStates, Vectors
    from mufin_jax.data.validation import Validation

__all__ = [
    "Bags",
    "Dataset",
    "Loader",
    "Pixels",
    "Pool",
    "Side",
    "Sources",
    "Tokens",
    "TrunkStates",
    "Validation",
    "Vectors",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "bags": ["Bags", "Pool"],
        "dataset": ["Dataset"],
        "loader": ["Loader"],
        "side": ["Side"],
        "sources": ["Pixels", "Sources", "Tokens", "TrunkStates", "Vectors"],
        "validation": ["Validation"],
    },
)
