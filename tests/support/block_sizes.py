"""Blocks so small that the minute data set takes several of them.

The library works block by block: with its own sizes, data of a few items are one block each time,
and a test would not notice what is wrong in the second one.
"""

from types import ModuleType

import pytest


def small_blocks(*sizes: tuple[ModuleType, str, int]):
    """Return a fixture that gives constants of modules these values in all tests of a file.

    It is used as `blocks = small_blocks((module, "BLOCK", 3))`, by a name that no test asks for.
    """

    @pytest.fixture(scope="module", autouse=True)
    def small():
        with pytest.MonkeyPatch.context() as patch:
            for module, name, size in sizes:
                assert size < getattr(module, name)
                patch.setattr(module, name, size)
            yield

    return small
