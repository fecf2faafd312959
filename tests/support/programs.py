"""Compiled programs that are kept between runs of the tests, outside the checkout.

The store is MUFIN_TEST_PROGRAMS, or mufin_jax/tests in the user's cache folder; with an empty
MUFIN_TEST_PROGRAMS nothing is kept. Every process of the tests works on a folder of its own. The
folder begins with the programs of the store, and only complete programs are copied back. So
neither tests that kill processes nor parallel runs of the tests can damage the store.
"""

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib

from mufin_jax.runtime.jax_internals import is_whole_program

MOST_BYTES = 2_000_000_000
"""The largest size of the store; the oldest programs are dropped first."""


def kept() -> Path | None:
    """Return the folder of the programs for this JAX and this machine; None if none are kept."""
    named = os.environ.get("MUFIN_TEST_PROGRAMS")
    if named == "":
        return None
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(named) if named else Path(user) / "mufin_jax" / "tests"
    return root / f"{jax.__version__}-{jaxlib.__version__}-{_machine()}"


def _machine() -> str:
    """Return a name for the processor's instructions: programs are machine code."""
    facts = [platform.system(), platform.machine()]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        facts.append(platform.processor())
    else:
        facts += sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def begun_with_kept(folder: Path) -> Iterator[Path]:
    """Fill a folder with the kept programs; at the end, keep what was compiled into it."""
    store = kept()
    if store is None:
        yield folder
        return
    with contextlib.suppress(OSError):  # without the kept programs, tests only take longer
        take(store, folder)
    yield folder
    with contextlib.suppress(OSError):
        give(folder, store)


def take(store: Path, folder: Path) -> None:
    """Link the programs of a store into a folder. JAX never overwrites an existing program."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in store.glob("*-cache"):
        try:
            os.link(path, folder / path.name)
        except FileNotFoundError:  # another process dropped it meanwhile
            continue
        except OSError:  # the store is on another disk, or this one has no links
            _copy(path, folder)


def give(folder: Path, store: Path, most: int = MOST_BYTES) -> None:
    """Copy the complete programs of a folder to a store, and keep the store below its size."""
    store.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*-cache"):
        if not (store / path.name).exists() and is_whole_program(path.read_bytes()):
            _copy(path, store)
    _trim(store, most)


def _copy(path: Path, folder: Path) -> None:
    """Copy a file into a folder; it appears there complete or not at all."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
        file.write(content)
    os.replace(file.name, folder / path.name)


def _trim(store: Path, most: int) -> None:
    """Drop the oldest programs of all JAX versions until the rest fits."""
    found = []
    for path in (*store.parent.glob("*/*-cache"), *store.parent.glob("*/.new-*")):
        try:
            stat = path.stat()
        except FileNotFoundError:  # another run of the tests dropped it
            continue
        found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
