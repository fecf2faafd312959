"""Compiled programs that are kept between runs of the tests, outside the checkout.

They lie in MUFIN_TEST_PROGRAMS, or in mufin_jax/tests of the user's cache folder; an empty
MUFIN_TEST_PROGRAMS keeps none. Every process of the tests works on a folder of its own, which
begins with what is kept and from which only whole programs go back. Tests that kill processes and
runs of the tests side by side can therefore not damage what is kept.
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
"""What may be kept in all; the oldest programs are dropped first, and kept again if needed."""


def kept() -> Path | None:
    """The folder of the programs that fit this JAX and this machine; None if none are kept."""
    named = os.environ.get("MUFIN_TEST_PROGRAMS")
    if named == "":
        return None
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(named) if named else Path(user) / "mufin_jax" / "tests"
    return root / f"{jax.__version__}-{jaxlib.__version__}-{_machine()}"


def _machine() -> str:
    """A name for the instructions that the processor has: programs are machine code."""
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
    """Give a folder what is kept, and keep what is compiled into it."""
    store = kept()
    if store is None:
        yield folder
        return
    with contextlib.suppress(OSError):  # without what is kept, tests take longer
        take(store, folder)
    yield folder
    with contextlib.suppress(OSError):
        give(folder, store)


def take(store: Path, folder: Path) -> None:
    """Begin a folder with the programs of a store. JAX never writes to a program that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in store.glob("*-cache"):
        try:
            os.link(path, folder / path.name)
        except FileNotFoundError:  # dropped meanwhile
            continue
        except OSError:  # another disk, or no links on this one
            _copy(path, folder)


def give(folder: Path, store: Path, most: int = MOST_BYTES) -> None:
    """Put the whole programs of a folder into a store, and keep the store below its size."""
    store.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*-cache"):
        if not (store / path.name).exists() and is_whole_program(path.read_bytes()):
            _copy(path, store)
    _trim(store, most)


def _copy(path: Path, folder: Path) -> None:
    """Copy a file into a folder, where it appears whole or not at all."""
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
        except FileNotFoundError:  # another run of the tests drops, too
            continue
        found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            break
        path.unlink(missing_ok=True)
        total -= size
