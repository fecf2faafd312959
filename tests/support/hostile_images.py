"""Hostile pictures, and a script that reads them.

    python hostile_images.py mutated COUNT SEED    prints numbers read and rejected, and the cost
    python hostile_images.py bombs                 prints the error for each bomb, and its cost

Both print JSON. A process of its own reads them: Python cannot catch a crash in a C decoder.
"""

import functools
import io
import json
import struct
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mutation import EXTREMES, cost, limit_memory, mutated
from PIL import Image

from mufin_jax.data.images import BadImage, read_image
from mufin_jax.encoders.processing import ImageProcessing

PAD = ImageProcessing(size=16, fit="pad")
PNG = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes = b"") -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + _crc(name + content)


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def valid() -> list[bytes]:
    """Return small valid pictures of every kind that the package reads."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8))
    rgba = Image.fromarray(rng.integers(0, 256, (20, 24, 4), np.uint8))
    grey = rgb.convert("L")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a chair"
    extra: dict[str, Any] = {"exif": exif, "icc_profile": bytes(range(256)) * 3}
    moving: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90)] * 2}
    palette = rgb.quantize(16)
    words = [chunk(b"tEXt", b"a\0b"), chunk(b"zTXt", b"a\0\0" + zlib.compress(b"c" * 99))]
    plain = encoded(rgb)
    return [
        encoded(rgb, "JPEG"),
        encoded(rgb, "JPEG", progressive=True, subsampling=0),
        encoded(rgb, "JPEG", restart_marker_blocks=1, **extra),
        encoded(grey, "JPEG", progressive=True),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb, "MPO", save_all=True, append_images=[grey.convert("RGB")]),
        plain,
        plain[:33] + b"".join(words) + plain[33:],
        encoded(rgba, **extra),
        encoded(grey),
        encoded(grey.convert("1")),
        encoded(rgba.convert("LA")),
        encoded(palette),
        encoded(palette, transparency=3, bits=4),
        encoded(Image.fromarray(rng.integers(0, 2**16, (20, 24), np.uint16))),
        encoded(rgb, "PNG", **moving),
        encoded(rgb, "WEBP"),
        encoded(rgba, "WEBP", **extra),
        encoded(rgba, "WEBP", lossless=True),
        encoded(rgb, "WEBP", **moving),
    ]


def parts(data: bytes) -> list[bytes]:
    """Split a picture before each chunk or segment of its format."""
    cuts, place = [0], 0
    if data.startswith(PNG):
        place, step = 8, lambda at: 12 + struct.unpack_from(">I", data, at)[0]
    elif data.startswith(b"RIFF"):
        place, step = 12, lambda at: 8 + (struct.unpack_from("<I", data, at + 4)[0] + 1) // 2 * 2
    else:
        place, step = 2, lambda at: 2 + struct.unpack_from(">H", data, at + 2)[0]
    while place + 8 < len(data) and (place < 3 or data[place - 2] != 0xDA):
        cuts.append(place)
        place += step(place)
        if data[cuts[-1] : cuts[-1] + 2] == b"\xff\xda":
            break
    return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]


def rearranged(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Repeat, drop, move, insert or damage one part of a picture."""
    pieces, others = parts(data), parts(other)
    one, two = (int(n) for n in rng.integers(len(pieces), size=2))
    match int(rng.integers(5)):
        case 0:
            pieces[one:one] = [pieces[two]] * int(rng.integers(1, 40))
        case 1:
            del pieces[one]
        case 2:
            pieces[one], pieces[two] = pieces[two], pieces[one]
        case 3:
            pieces.insert(one, others[int(rng.integers(len(others)))])
        case _:
            pieces[one] = mutated(pieces[one], pieces[two], rng)
    if data.startswith(PNG):  # decoders skip the content of chunks whose checksum is wrong
        pieces = [_sealed(piece, rng) if n else piece for n, piece in enumerate(pieces)]
    return b"".join(pieces)


def _sealed(piece: bytes, rng: np.random.Generator) -> bytes:
    if len(piece) < 12:
        return piece
    content = bytearray(piece[8:-4])
    if content and rng.random() < 0.2:
        place = int(rng.integers(len(content)))
        content[place] = int(rng.choice(EXTREMES)) % 256
    return chunk(piece[4:8], bytes(content))


def read_mutated(count: int, seed: int) -> dict[str, Any]:
    """Read `count` mutated pictures; anything but pixels or BadImage ends the process."""
    rng, sources = np.random.default_rng(seed), valid()
    for source in sources:
        _check(read_image(source, PAD))
    reasons: list[str] = []
    slowest = largest = 0.0
    for trial in range(count):
        source, other = (sources[int(n)] for n in rng.integers(len(sources), size=2))
        data = (rearranged if trial % 2 else mutated)(source, other, rng)
        # Where warnings are errors, a warning from Pillow must become BadImage, too.
        with cost() as spent, warnings.catch_warnings():
            warnings.simplefilter("error" if trial % 3 == 0 else "ignore")
            try:
                _check(read_image(data, PAD))
            except BadImage as error:
                reasons.append(str(error))
        slowest, largest = max(slowest, spent["seconds"]), max(largest, spent["bytes"])
    return {
        "read": count - len(reasons),
        "rejected": len(reasons),
        "lines": all(reason and "\n" not in reason and len(reason) < 300 for reason in reasons),
        "slowest": slowest,
        "largest": largest,
    }


def _check(pixels: np.ndarray) -> None:
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8


def png(width: int, height: int, *chunks: bytes, rows: bool = True) -> bytes:
    """Make a PNG with one bit a pixel and chunks before its pixels; without `rows`, no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packer, row = zlib.compressobj(), bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height if rows else 0))
    return PNG + header + b"".join(chunks) + chunk(b"IDAT", data + packer.flush()) + chunk(b"IEND")


def jpeg(*segments: bytes, size: tuple[int, int] = (16, 16)) -> bytes:
    """Make a JPEG with more segments before its own; `size` is what its header claims."""
    data = encoded(Image.new("RGB", (16, 16)), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    data = data[:place] + struct.pack(">HH", *size) + data[place + 4 :]
    return data[:2] + b"".join(segments) + data[2:]


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """Make a WebP of these chunks."""
    body = b"".join(n + struct.pack("<I", len(c)) + c + bytes(len(c) % 2) for n, c in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def canvas(width: int, height: int, flags: int) -> tuple[bytes, bytes]:
    """Return the extended header of a WebP."""
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"VP8X", struct.pack("<I", flags) + sides


def frame() -> bytes:
    """Return the pixels of a valid WebP, as the content of a chunk."""
    return encoded(Image.new("RGB", (16, 16)), "WEBP", lossless=True)[20:]


def exif(entries: int, claimed: int, size: int) -> bytes:
    """Make EXIF data in which every entry claims the same bytes."""
    listed = (struct.pack(">HHII", 1000 + n, 7, claimed, 8) for n in range(entries))
    block = b"MM\0*\0\0\0\x08" + struct.pack(">H", entries) + b"".join(listed)
    return block + bytes(size - len(block))


@functools.cache
def squeezed(size: int) -> bytes:
    """Compress `size` zeros to about a thousandth."""
    return zlib.compress(bytes(size), 9)


def scans(count: int) -> bytes:
    """Make a progressive JPEG of 15 megapixels with `count` more scans."""
    data = encoded(Image.new("L", (3900, 3900)), "JPEG", progressive=True)
    starts = [n for n in range(len(data) - 1) if data[n : n + 2] == b"\xff\xda"]
    return data[:-2] + data[starts[-1] : -2] * count + data[-2:]


def joined_exif() -> bytes:
    """Make a JPEG with EXIF data in many segments, which Pillow joins."""
    block = exif(5000, 2_000_000, 3_000_000)
    cuts = range(0, len(block), 65_000)
    return jpeg(*(segment(0xE1, b"Exif\0\0" + block[at : at + 65_000]) for at in cuts))


def raw_profile() -> bytes:
    """Make a PNG with EXIF data as ImageMagick writes it: compressed text, hex, entries."""
    text = "\nexif\n   400000\n" + exif(30_000, 300_000, 400_000).hex()
    return png(16, 16, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode())))


_LOL = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
REJECTED: dict[str, Callable[[], bytes]] = {
    "PNG of 81 megapixels": lambda: png(9000, 9000),
    "PNG of 144 megapixels": lambda: png(12_000, 12_000),
    "PNG of 400 megapixels": lambda: png(20_000, 20_000),
    "PNG of 2^62 pixels": lambda: png(2**31 - 1, 2**31 - 1, rows=False),
    "PNG with two headers": lambda: png(
        16, 16, chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0))
    ),
    "JPEG of 65,500 squared": lambda: jpeg(size=(65_500, 65_500)),
    "JPEG of 65,500 x 250": lambda: jpeg(size=(250, 65_500)),
    "WebP of 16,383 squared": lambda: riff((b"VP8L", b"\x2f\xfe\xbf\xff\x0f" + bytes(99))),
    "WebP canvas of 2^24 squared": lambda: riff(canvas(2**24, 2**24, 2), (b"VP8L", frame())),
    "WebP canvas larger than its frame": lambda: riff(canvas(9000, 9000, 0), (b"VP8L", frame())),
    "iCCP of 1 MB 4,000 times": lambda: png(
        16, 16, *[chunk(b"iCCP", b"a\0\0" + squeezed(10**6))] * 4000
    ),
    "800,000 chunks": lambda: png(16, 16, *[chunk(b"prVt")] * 800_000),
    "2,400,000 segments": lambda: jpeg(segment(0xEC, b"") * 2_400_000),
    "9,900,000 fill bytes": lambda: jpeg(b"\xff" * 9_900_000),
    "5,000 scans": lambda: scans(5000),
    "EXIF of 150 GB in a PNG": lambda: png(
        16, 16, chunk(b"eXIf", exif(30_000, 5 * 10**6, 9 * 10**6))
    ),
    "EXIF of 10 GB in a JPEG": joined_exif,
    "EXIF of 150 GB in a WebP": lambda: riff(
        canvas(16, 16, 8), (b"VP8L", frame()), (b"EXIF", exif(30_000, 5 * 10**6, 9 * 10**6))
    ),
    "EXIF of 9 GB in hex": raw_profile,
    "index of pictures that unfolds": lambda: jpeg(
        segment(0xE2, b"MPF\0" + exif(5000, 60_000, 65_000))
    ),
    "file of more than 10 MB": lambda: png(16, 16) + bytes(10**7),
    "GIF": lambda: b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(99),
    "TIFF": lambda: encoded(Image.new("1", (9000, 9000)), "TIFF", compression="group4"),
    "BMP": lambda: b"BM" + struct.pack("<IIIIiiHHI", 99, 0, 54, 40, 50_000, 50_000, 1, 24, 0),
    "ICO": lambda: b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 10**9, 22),
    "PPM": lambda: b"P6 60000 60000 255\n" + bytes(999),
    "FITS": lambda: b"SIMPLE  =                    T".ljust(80) + b"NAXIS   = 99999".ljust(2800),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
    "SVG": lambda: f'<!DOCTYPE svg [<!ENTITY l0 "lol">{_LOL}]><svg>&l9;</svg>'.encode(),
    "JPEG 2000": lambda: encoded(Image.new("RGB", (16, 16)), "JPEG2000"),
    "an empty file": lambda: b"",
}  # fmt: skip
"""Pictures that must be rejected, by name."""


def _film(frames: int) -> bytes:
    """Make an animation in which each frame but the first claims to last hours."""
    place = struct.pack("<I", 0)[:3] * 2 + struct.pack("<I", 15)[:3] * 2 + b"\xff" * 3 + b"\0"
    one = frame()
    content = place + b"VP8L" + struct.pack("<I", len(one)) + one
    return riff(canvas(16, 16, 2), (b"ANIM", bytes(6)), *[(b"ANMF", content)] * frames)


BOUNDED: dict[str, Callable[[], bytes]] = {
    "iCCP of 300 MB": lambda: png(16, 16, chunk(b"iCCP", b"a\0\0" + squeezed(3 * 10**8))),
    "zTXt of 300 MB": lambda: png(16, 16, chunk(b"zTXt", b"a\0\0" + squeezed(3 * 10**8))),
    "iTXt of 300 MB": lambda: png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + squeezed(3 * 10**8))),
    "zTXt of 1 MB 4,000 times": lambda: png(
        16, 16, *[chunk(b"zTXt", b"a\0\0" + squeezed(10**6))] * 4000
    ),
    "WebP of 10,000 frames": lambda: _film(10_000),
    "APNG that announces 2^31 frames": lambda: png(
        16, 16, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    ),
    "pixels that unfold to 300 MB more": lambda: (
        PNG
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", squeezed(3 * 10**8))
        + chunk(b"IEND")
    ),
    "zeros after the end": lambda: png(16, 16) + bytes(10**6),
    "a private chunk of 9 MB": lambda: png(16, 16, chunk(b"prVt", bytes(9 * 10**6))),
    "a JPEG's comments": lambda: jpeg(segment(0xFE, bytes(65_000)) * 100),
    "90 scans of 15 megapixels": lambda: scans(80),
}
"""Odd pictures, which are read or rejected in bounded time and memory."""


_BEST = ((min, "seconds"), (max, "bytes"))


def explode(tries: int = 10) -> Iterator[dict[str, Any]]:
    """Read each bomb from a file; report the best of some tries, as a busy machine is slow."""
    for picture in valid():  # the first picture of a format loads its decoder
        read_image(picture, PAD)
    with tempfile.TemporaryDirectory() as folder:
        for kind, bombs in (("rejected", REJECTED), ("bounded", BOUNDED)):
            for name, make in bombs.items():
                path = Path(folder) / "picture"
                path.write_bytes(make())
                spent, message = [], ""
                for _ in range(tries if kind == "rejected" else 1):
                    with cost() as one, warnings.catch_warnings(action="ignore"):
                        try:
                            _check(read_image(path, PAD))
                        except BadImage as error:
                            message = str(error)
                    spent.append(one)
                seconds, most = (fold(one[key] for one in spent) for fold, key in _BEST)
                yield dict(kind=kind, name=name, message=message, seconds=seconds, bytes=most)


if __name__ == "__main__":
    limit_memory(4 * 2**30)
    if sys.argv[1] == "mutated":
        print(json.dumps(read_mutated(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        print(json.dumps(list(explode())))
