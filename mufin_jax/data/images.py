"""One picture, from untrusted bytes to the square of pixels that the image encoder sees.

Limits on bytes, format and pixels are checked before anything is decoded, since a 10 kB PNG can
unfold to 400 MB. Every defect raises the one exception `BadImage`.
"""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.errors import InputError

FORMATS = ("JPEG", "PNG", "WEBP")
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


class BadImage(InputError):
    """A picture that is broken, too large, or in a format that is not read."""


def read_image(
    source: Path | bytes | Image.Image,
    processing: ImageProcessing,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "size size 3"]:
    """Decodes a JPEG, PNG or WebP and brings it to training size.

    The first frame of an animation is taken, EXIF rotation is applied, and whatever the colour
    mode is becomes 8-bit RGB, transparency on white. `processing.fit` says how a picture becomes
    square: "pad" keeps its shape and centres it on white, "stretch" does not keep it.

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
        with Image.open(io.BytesIO(_bytes(source, max_bytes)), formats=FORMATS) as image:
            _checked(image, max_pixels)
            # A JPEG decodes at 1/2, 1/4 or 1/8 for less; twice the target leaves room to resample.
            image.draft("RGB", (2 * processing.size, 2 * processing.size))
            return _to_square(image, processing)
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage("not a JPEG, PNG or WebP picture") from None
    except Exception as error:  # decoders raise a dozen types on broken bytes
        reason = " ".join(str(error).split())[:120]
        raise BadImage(f"cannot be decoded ({type(error).__name__}: {reason})") from None


def encode_jpeg(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """JPEG at quality 92, with full colour resolution since the pictures are small."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_jpeg(encoded: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes what `encode_jpeg` wrote: by simplejpeg, several times as fast, else by Pillow.

    Raises:
      BadImage: if the bytes are not such a JPEG.
    """
    try:
        try:
            import simplejpeg  # no wheel for some platforms
        except ImportError:
            with Image.open(io.BytesIO(encoded), formats=("JPEG",)) as image:
                return np.asarray(image.convert("RGB"))
        return simplejpeg.decode_jpeg(encoded, "RGB")
    except (OSError, ValueError) as error:
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
    turn = _UPRIGHT.get(_orientation(image))
    image = _to_rgb(image)
    if turn is not None:
        image = image.transpose(turn)
    size, resample = processing.size, _RESAMPLE[processing.resample]
    if processing.fit == "stretch":
        return np.array(image.resize((size, size), resample))
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size, size), _WHITE)
    square.paste(
        image.resize((width, height), resample), ((size - width) // 2, (size - height) // 2)
    )
    return np.array(square)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of many types; a picture with broken EXIF is still a picture
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; PIL's own conversion would clip them
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (*_WHITE, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
