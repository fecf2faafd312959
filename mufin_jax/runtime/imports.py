"""How modules are loaded: names on first use, and JAX without the garbage collector."""

import contextlib
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def lazy_face(
    package: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that loads its public names on first use.

    Importing the package then imports none of its files, and no JAX.

    Args:
        package: its full name, `__name__`.
        homes: for each file of the package, such as "index" or "readers.catalogue", the names that
            it defines.
    """
    home_of = {name: f"{package}.{file}" for file, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home_of[name]), name)

    return load, lambda: sorted(home_of)


@contextlib.contextmanager
def swift_imports() -> Iterator[None]:
    """Load modules with the garbage collector off: starting takes a fifth less time.

    JAX and Flax make 250,000 objects while they load and drop none of them. Searching
    these for garbage over and over costs more than parsing the modules. `main` then calls
    `gc.freeze` so the collector never rescans these objects, especially at exit.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
