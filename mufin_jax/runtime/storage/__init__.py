"""Files that are whole or absent, and checkpoints that are verified before they are read.

`checkpoint.py` saves and restores a state, `files.py` replaces and seals files, `npy.py` writes
arrays larger than memory, and `disk.py` turns the errors of a full disk into one line.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.runtime.storage.checkpoint import Checkpoints
    from mufin_jax.runtime.storage.disk import disk_errors
    from mufin_jax.runtime.storage.files import (
        check_seal,
        load_json,
        load_sealed,
        save_array,
        save_json,
        save_sealed,
        seal,
    )
    from mufin_jax.runtime.storage.npy import mapped, whole_npy

__all__ = [
    "Checkpoints",
    "check_seal",
    "disk_errors",
    "load_json",
    "load_sealed",
    "mapped",
    "save_array",
    "save_json",
    "save_sealed",
    "seal",
    "whole_npy",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "checkpoint": ["Checkpoints"],
        "disk": ["disk_errors"],
        "files": [
            "check_seal",
            "load_json",
            "load_sealed",
            "save_array",
            "seal",
            "save_json",
            "save_sealed",
        ],
        "npy": ["mapped", "whole_npy"],
    },
)
