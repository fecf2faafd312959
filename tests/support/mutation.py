"""Random damage to files of any kind, and the cost of reading them."""

import contextlib
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFDC, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in one of seven ways; one of them joins it to a part of `other`."""
    size = max(1, len(data))
    place, length = int(rng.integers(size)), int(rng.integers(1, 1 + min(size, 64)))
    changed = bytearray(data)
    match int(rng.integers(7)):
        case 0:  # flip some bits
            for at in rng.integers(size, size=int(rng.integers(1, 9))):
                changed[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))])
        case 1:  # cut the end off
            changed = changed[:place]
        case 2:  # join the start of one to the end of the other
            changed = changed[:place] + other[int(rng.integers(max(1, len(other)))) :]
        case 3:  # repeat a piece
            changed[place:place] = data[place : place + length] * int(rng.integers(1, 5))
        case 4:  # remove a piece
            del changed[place : place + length]
        case 5:  # replace a piece by noise
            changed[place : place + length] = rng.bytes(length)
        case _:  # put an extreme value into a field, mostly of the header
            place = int(rng.integers(min(size, 96))) if rng.random() < 0.8 else place
            kind = str(rng.choice(["B", "<H", ">H", "<I", ">I", "<Q", ">Q"]))
            value = int(rng.choice(EXTREMES)) % 256 ** struct.calcsize(kind)
            changed[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(changed)


def limit_memory(more: int) -> None:
    """Limit the memory of this process to `more` bytes above what it has: a bug ends it alone."""
    most = _status("VmSize") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def cost() -> Iterator[dict[str, float]]:
    """Measure a block: CPU seconds, and bytes of memory at the peak above those before it."""
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before, start = _status("VmRSS"), time.process_time()
    try:
        yield found
    finally:
        found["seconds"] = time.process_time() - start
        found["bytes"] = _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
