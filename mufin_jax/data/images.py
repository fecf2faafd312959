"""One picture, from untrusted bytes to the square of pixels that the image encoder sees.

Limits on bytes, format, parts and pixels are checked before anything is decoded, since a 10 kB PNG
can unfold to 400 MB, and a JPEG of 10 MB keep a decoder busy for minutes. Every defect raises the
one exception `BadImage`.
"""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, features

from mufin_jax.data.image_parts import (
    BadImage,
    check_exif,
    check_parts,
    jpeg_shape,
    without_notes,
)
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import reason

__all__ = ["FORMATS", "BadImage", "decode_jpeg", "encode_jpeg", "read_image"]

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "BMP",
    "TIFF",
    *(["AVIF"] if features.check("avif") else []),
)
"""Formats that are read; AVIF, where the installed Pillow reads it."""
MAX_BYTES = 10_000_000
MAX_PIXELS = 16_000_000
JPEG_QUALITY = 92

_RESAMPLE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION = 0x0112  # the EXIF tag, whose values say what turns the picture upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255)


def read_image(
    source: Path | bytes | Image.Image,
    processing: ImageProcessing,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "size size 3"]:
    """Decode a picture in one of `FORMATS` and bring it to training size.

    The first frame of an animation is taken, EXIF rotation is applied, and any colour mode becomes
    8-bit RGB, transparency on white. `processing.fit` decides how a picture becomes square: "pad"
    keeps its shape and centres it on white, "stretch" changes its shape, "crop" keeps its shape and
    its middle.

    Args:
      source: a file, its bytes, or an opened PIL image (left unchanged).
      processing: size, fit and resampling; its mean and std are applied later, on the device.
      max_bytes: of the encoded file.
      max_pixels: width times height.

    Returns:
      `processing.size` squared RGB pixels, 0 to 255.

    Raises:
      BadImage: with the reason.
    """
    try:
        if isinstance(source, Image.Image):
            return _to_square(_checked(source, max_pixels).copy(), processing)
        data = _bytes(source, max_bytes)
        check_parts(data)
        data = without_notes(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _checked(image, max_pixels)
            # A JPEG decodes at 1/2, 1/4 or 1/8 for less; twice the target leaves room to resample.
            image.draft("RGB", (2 * processing.size, 2 * processing.size))
            return _to_square(image, processing)
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage("not a JPEG, PNG or WebP picture, nor one of GIF, BMP, TIFF, AVIF") from None
    except Exception as error:  # decoders raise a dozen types on broken bytes
        raise BadImage(f"cannot be decoded ({type(error).__name__}: {reason(error)})") from None


def encode_jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return a JPEG of quality 92, with full colour resolution since the pictures are small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(encoded: bytes, shape: tuple[int, ...] | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decode what `encode_jpeg` wrote: by simplejpeg, several times as fast, else by Pillow.

    Raises:
      BadImage: if the bytes are not such a JPEG, or not of the expected shape.
    """
    try:
        found = jpeg_shape(encoded)
        if shape is not None and found != shape:
            raise ValueError(f"it is {found}, expected {shape}")
        try:
            import simplejpeg  # no wheel for some platforms
        except ImportError:
            with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB"))
        return simplejpeg.decode_jpeg(encoded, "RGB")
    except (OSError, ValueError, struct.error) as error:
        raise BadImage(f"a prepared JPEG cannot be decoded ({error})") from None


def _bytes(source: Path | bytes, max_bytes: int) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            source = file.read(max_bytes + 1)
    if len(source) > max_bytes:
        raise BadImage(f"larger than {max_bytes:,} bytes")
    if not source:
        raise BadImage("an empty file")
    return source


def _checked(image: Image.Image, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise BadImage(f"{image.width} x {image.height} is more than {max_pixels:,} pixels")
    return image


def _to_square(image: Image.Image, processing: ImageProcessing) -> np.ndarray:
    upright = _to_rgb(image)
    turn = _UPRIGHT.get(_orientation(image))  # which may follow the pixels
    image = upright
    if turn is not None:
        image = image.transpose(turn)
    size, resample = processing.size, _RESAMPLE[processing.resample]
    if processing.fit == "stretch":
        return np.array(image.resize((size, size), resample))
    if processing.fit == "crop":
        box = _middle(image.size, size, round(size / processing.share))
        return np.array(image.resize((size, size), resample, box))
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size), _WHITE)
    square.paste(
        image.resize((width, height), resample), ((size - width) // 2, (size - height) // 2)
    )
    return np.array(square)


def _middle(sides: tuple[int, int], size: int, edge: int) -> tuple[float, float, float, float]:
    """Return the box that becomes the middle square when the shorter side is resized to `edge`.

    It is left, top, right and bottom in the picture itself. Only this box is resized: a whole
    ribbon would unfold to gigabytes. Sides and offsets are whole numbers, as in Hugging Face.
    """
    resized = [int(edge * side / min(sides)) for side in sides]
    offsets = [(side - size) // 2 for side in resized]
    scales = [side / new for side, new in zip(sides, resized, strict=True)]
    left, top = (offset * scale for offset, scale in zip(offsets, scales, strict=True))
    right, bottom = left + size * scales[0], top + size * scales[1]
    return left, top, min(right, sides[0]), min(bottom, sides[1])


def _orientation(image: Image.Image) -> int:
    try:
        raw = image.info.get("Raw profile type exif", "")  # how ImageMagick writes it: in hex
        check_exif(image.info.get("exif") or bytes.fromhex("".join(raw.split("\n")[3:])))
        return image.getexif().get(_ORIENTATION, 1)
    except BadImage:
        raise
    except Exception:  # of many types; a picture with broken EXIF is still a picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; PIL's own conversion would clip them
        grey = np.asarray(image) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (*_WHITE, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
