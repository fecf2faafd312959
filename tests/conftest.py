"""What every test stands on: eight virtual devices, strict JAX, data sets that may be absent."""

from collections.abc import Callable
from pathlib import Path

import jax
import pytest

# Both must precede the first array: the backend counts its devices once.
jax.config.update("jax_num_cpu_devices", 8)
# (b, d) + (d,) is written out by the caller: a forgotten axis fails instead of broadcasting.
jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("name")`: a data set kept next to the repository; skips the test without it."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"no data set at {path}")
        return path

    return find
