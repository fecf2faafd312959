"""The processes of a run, and the mesh of their devices.

`processes.py` tells which process this is and lets it wait for the others, `startup.py` connects
them, `liveness.py` notices lost ones; `mesh.py` places arrays, `padding.py` has the padded sizes.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.runtime.distributed.mesh import (
        by_row,
        fetch,
        gather_rows,
        make_mesh,
        put,
        put_rows,
        replicated,
    )
    from mufin_jax.runtime.distributed.padding import pad_rows, round_up
    from mufin_jax.runtime.distributed.processes import Processes
    from mufin_jax.runtime.distributed.startup import HostsConfig

__all__ = [
    "HostsConfig",
    "Processes",
    "by_row",
    "fetch",
    "gather_rows",
    "make_mesh",
    "pad_rows",
    "put",
    "put_rows",
    "replicated",
    "round_up",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "mesh": ["by_row", "fetch", "gather_rows", "make_mesh", "put", "put_rows", "replicated"],
        "padding": ["pad_rows", "round_up"],
        "processes": ["Processes"],
        "startup": ["HostsConfig"],
    },
)
