"""Damage to files of any kind, drawn from a seed; and what reading them cost this process."""

import contextlib
import resource
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFDC, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A file changed in one of seven ways; `other` is a second file to splice it with."""
    size = max(1, len(data))
    place, length = int(rng.integers(size)), int(rng.integers(1, 1 + min(size, 64)))
    changed = bytearray(data)
    match int(rng.integers(7)):
        case 0:  # some bits
            for at in rng.integers(size, size=int(rng.integers(1, 9))):
                changed[at : at + 1] = bytes([data[at] ^ 1 << int(rng.integers(8))])
        case 1:  # the end
            changed = changed[:place]
        case 2:  # the head of one and the tail of another
            changed = changed[:place] + other[int(rng.integers(max(1, len(other)))) :]
        case 3:  # a piece twice
            changed[place:place] = data[place : place + length] * int(rng.integers(1, 5))
        case 4:  # a piece missing
            del changed[place : place + length]
        case 5:  # a piece of noise
            changed[place : place + length] = rng.bytes(length)
        case _:  # a field, most often of the header, with an extreme value
            place = int(rng.integers(min(size, 96))) if rng.random() < 0.8 else place
            kind = str(rng.choice(["B", "<H", ">H", "<I", ">I", "<Q", ">Q"]))
            value = int(rng.choice(EXTREMES)) % 256 ** struct.calcsize(kind)
            changed[place : place + struct.calcsize(kind)] = struct.pack(kind, value)
    return bytes(changed)


def limit_memory(more: int) -> None:
    """Lets this process map so many bytes more, so that a mistake does not take the machine."""
    most = _status("VmSize") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


@contextlib.contextmanager
def cost() -> Iterator[dict[str, float]]:
    """Measure a block: CPU seconds, and bytes of memory at the peak above those before it."""
    found: dict[str, float] = {}
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, start = _status("VmRSS"), time.process_time()
    try:
        yield found
    finally:
        found["seconds"] = time.process_time() - start
        found["bytes"] = _status("VmHWM") - before


def _status(name: str) -> int:
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))
