"""Where this package cannot compute, told in one line instead of a hang or a foreign traceback."""

import os
import sys

from mufin_jax.runtime.errors import InputError


def check_platform() -> None:
    """Reject Windows, which lacks file locks and signals that runs rely on.

    Raises:
        ImportError: on Windows.
    """
    if sys.platform == "win32":
        raise ImportError(
            "mufin_jax runs on Linux and macOS; on Windows, install it in WSL 2 (docs/install.md)"
        )


def check_precision() -> None:
    """Reject a process whose JAX makes arrays of 64 bits: models and files are of 32.

    Raises:
        InputError: if it does.
    """
    import jax

    if jax.dtypes.canonicalize_dtype("float64") == "float64":
        raise InputError(
            "jax_enable_x64 is on, and mufin_jax computes in float32: turn it off, by "
            "JAX_ENABLE_X64=0 or jax.config.update('jax_enable_x64', False)"
        )


def check_process(loaded_by: int) -> None:
    """Reject a forked child of the process that loaded a predictor: it would wait forever.

    The threads that JAX computes with do not exist in a fork.

    Args:
        loaded_by: the number of the process that loaded the predictor.

    Raises:
        InputError: if this is another process.
    """
    if os.getpid() != loaded_by:
        raise InputError(
            f"process {os.getpid()} is a fork of process {loaded_by}, which loaded the predictor; "
            "JAX cannot compute here: load the predictor in each process, after the fork, or start "
            'processes by multiprocessing.get_context("spawn")'
        )
