"""Module II of the paper: finding, among all labels, the few that are nearest to a datapoint.

`index.py` is the index over label bag vectors and centroids, `shortlist.py` what it answers with;
the searches behind it are exact, approximate on CPUs (ScaNN), or sharded over the devices.
`walk.py` finds labels without vectors, over the training pairs.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.retrieval.config import IndexConfig
    from mufin_jax.retrieval.index import LabelIndex
    from mufin_jax.retrieval.searcher import Searcher
    from mufin_jax.retrieval.shortlist import Shortlist
    from mufin_jax.retrieval.walk import Walk

__all__ = ["IndexConfig", "LabelIndex", "Searcher", "Shortlist", "Walk"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "config": ["IndexConfig"],
        "index": ["LabelIndex"],
        "searcher": ["Searcher"],
        "shortlist": ["Shortlist"],
        "walk": ["Walk"],
    },
)
