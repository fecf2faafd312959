"""What every program needs: errors, signals, logs, a run's folder; nothing here knows of labels.

`exit.py` ends a command with its code and line, `run_folder.py` holds a run's folder,
`distributed/` has the processes and the mesh, `storage/` files and checkpoints.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.runtime.errors import (
        DiskError,
        Held,
        InputError,
        MufinError,
        NonFinite,
        PeerLost,
        Stopped,
        TooManyBadRows,
    )
    from mufin_jax.runtime.exit import main_guard
    from mufin_jax.runtime.logs import MetricsWriter, set_up_logging
    from mufin_jax.runtime.run_folder import Run
    from mufin_jax.runtime.shared_stages import link_stages
    from mufin_jax.runtime.signals import check_stop, stop_requested, until_stopped

__all__ = [
    "DiskError",
    "Held",
    "InputError",
    "MetricsWriter",
    "MufinError",
    "NonFinite",
    "PeerLost",
    "Run",
    "Stopped",
    "TooManyBadRows",
    "check_stop",
    "link_stages",
    "main_guard",
    "set_up_logging",
    "stop_requested",
    "until_stopped",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "errors": [
            "DiskError",
            "Held",
            "InputError",
            "MufinError",
            "NonFinite",
            "PeerLost",
            "Stopped",
            "TooManyBadRows",
        ],
        "exit": ["main_guard"],
        "logs": ["MetricsWriter", "set_up_logging"],
        "run_folder": ["Run"],
        "shared_stages": ["link_stages"],
        "signals": ["check_stop", "stop_requested", "until_stopped"],
    },
)
