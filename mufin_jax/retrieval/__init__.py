"""Module II of the paper: finding, among all labels, the few that are nearest to a datapoint.

`index.py` is the index over label bag vectors and centroids, `shortlist.py` what it answers with;
the searches behind it are exact, approximate on CPUs (ScaNN), or sharded over the devices.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.retrieval.config import IndexConfig
    from mufin_jax.retrieval.index import LabelIndex
    from mufin_jax.retrieval.searcher import Searcher
    from mufin_jax.retrieval.shortlist import Shortlist

__all__ = ["IndexConfig", "LabelIndex", "Searcher", "Shortlist"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "config": ["IndexConfig"],
        "index": ["LabelIndex"],
        "searcher": ["Searcher"],
        "shortlist": ["Shortlist"],
    },
)
