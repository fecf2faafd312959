"""Claims about single pictures: orientation, colour, fit, and what is rejected."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from raw_folders import picture

from mufin_jax.data.image_parts import MAX_PARTS
from mufin_jax.data.images import FORMATS, BadImage, decode_jpeg, encode_jpeg, read_image
from mufin_jax.encoders.processing import ImageProcessing

PAD = ImageProcessing(size=16, fit="pad")
STRETCH = ImageProcessing(size=16, fit="stretch")
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def halves(left=RED, right=BLUE, size=(32, 16)) -> Image.Image:
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_padding_centres_the_picture_on_white():
    pixels = read_image(encoded(Image.new("RGB", (32, 16), RED)), PAD)
    assert pixels.shape == (16, 16, 3) and pixels.dtype == np.uint8
    assert (pixels[:4] == WHITE).all() and (pixels[12:] == WHITE).all()
    assert (pixels[4:12] == RED).all()


def test_stretching_fills_the_square():
    assert (read_image(encoded(Image.new("RGB", (32, 16), RED)), STRETCH) == RED).all()


@pytest.mark.parametrize(
    "orientation, corner",
    [(1, 0), (2, 1), (3, 3), (4, 2), (5, 0), (6, 1), (7, 3), (8, 2)],
)
def test_exif_rotation_moves_the_marked_corner_where_the_camera_saw_it(orientation, corner):
    image = Image.new("RGB", (32, 32), BLUE)
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read_image(encoded(image, "JPEG", exif=exif, quality=95), PAD)
    corners = [pixels[3, 3], pixels[3, 12], pixels[12, 3], pixels[12, 12]]
    assert int(np.argmax([int(c[0]) - int(c[2]) for c in corners])) == corner


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_transparency_becomes_white(form):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 8, 16))
    pixels = read_image(encoded(image, form, **({"lossless": True} if form == "WEBP" else {})), PAD)
    assert (pixels[:, 12] == WHITE).all() and (pixels[:, 2] == RED).all()


def test_a_palette_with_transparency_becomes_white_where_it_is_transparent():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([*RED, *BLUE])
    image.paste(1, (8, 0, 16, 16))
    pixels = read_image(encoded(image, transparency=0), PAD)
    assert (pixels[:, 2] == WHITE).all() and (pixels[:, 12] == BLUE).all()


def test_sixteen_bits_of_grey_keep_their_brightness():
    grey = Image.fromarray(np.full((16, 16), 0x8000, np.uint16))
    assert (read_image(encoded(grey), PAD) == 0x80).all()


def test_cmyk_becomes_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # red
    pixels = read_image(encoded(image, "JPEG", quality=95), PAD).astype(int)
    assert (pixels[..., 0] > 200).all() and (pixels[..., 1:] < 60).all()


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (16, 16), c) for c in (RED, BLUE)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert (read_image(data, PAD) == RED).all()


def test_a_file_its_bytes_and_an_opened_image_give_the_same_pixels(tmp_path):
    data = encoded(halves())
    path = tmp_path / "a.png"
    path.write_bytes(data)
    opened = Image.open(path)
    expected = read_image(data, PAD)
    np.testing.assert_array_equal(read_image(path, PAD), expected)
    np.testing.assert_array_equal(read_image(opened, PAD), expected)
    assert opened.size == (32, 16)


def test_a_picture_far_wider_than_high_keeps_a_row():
    assert (read_image(encoded(Image.new("RGB", (400, 1), RED)), PAD) == RED).any()


@pytest.mark.parametrize("form", ["ICO", "PPM", "JPEG2000"])
def test_other_formats_are_rejected(form):
    with pytest.raises(BadImage, match="not a JPEG, PNG or WebP"):
        read_image(encoded(Image.new("RGB", (16, 16), RED), form), PAD)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (32, 16), BLUE)]}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("AVIF", {"quality": 100}),
    ],
)
def test_gif_bmp_tiff_and_avif_are_read(form, options):
    if form not in FORMATS:
        pytest.skip("this Pillow reads no AVIF")
    pixels = read_image(encoded(Image.new("RGB", (32, 16), RED), form, **options), PAD)
    assert (pixels[:4] == WHITE).all() and (abs(pixels[4:12].astype(int) - RED) < 4).all()


def test_a_tiff_whose_tags_claim_the_same_bytes_over_and_over_is_rejected():
    entries = b"".join(struct.pack("<HHII", 1000 + n, 7, 5 * 10**6, 8) for n in range(30_000))
    block = b"II*\0\x08\0\0\0" + struct.pack("<H", 30_000) + entries
    with pytest.raises(BadImage, match="EXIF that unfolds to"):
        read_image(block + bytes(9 * 10**6 - len(block)), PAD)
    with pytest.raises(BadImage, match="a TIFF for more than 4 GB"):
        read_image(b"II+\0" + bytes(99), PAD)


def test_a_bomb_is_rejected_before_it_unfolds():
    bomb = encoded(Image.new("1", (9000, 9000)))
    tracemalloc.start()
    with pytest.raises(BadImage, match="9000 x 9000 is more than 16,000,000 pixels"):
        read_image(bomb, PAD)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_large_jpeg_is_as_sharp_as_the_same_picture_without_loss():
    """It is decoded at a part of its size, which must stay twice the size that is wanted."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    image = Image.fromarray(noise).resize((260, 260), Image.Resampling.BICUBIC)
    processing = ImageProcessing(size=64, fit="stretch")
    sharp = read_image(encoded(image), processing).astype(int)
    found = read_image(encoded(image, "JPEG", quality=95), processing)
    assert np.abs(found - sharp).mean() < 4  # decoded at the size itself, it is 10


def test_a_large_file_is_rejected_without_being_read_whole(tmp_path):
    path = tmp_path / "large.jpg"
    with path.open("wb") as file:
        file.truncate(2**26)  # sparse: takes no space
    tracemalloc.start()
    with pytest.raises(BadImage, match="larger than 10,000,000 bytes"):
        read_image(path, PAD)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_any_damage_raises_bad_image_and_no_other_error():
    rng = np.random.default_rng(0)
    sources = [encoded(halves(), form) for form in ("JPEG", "PNG", "WEBP")]
    rejected = 0
    for trial in range(600):
        data = bytearray(sources[trial % 3])
        if trial % 2:
            data = data[: rng.integers(len(data))]
        else:
            for place in rng.integers(len(data), size=4):
                data[place] = rng.integers(256)
        try:
            assert read_image(bytes(data), PAD).shape == (16, 16, 3)
        except BadImage:
            rejected += 1
    assert rejected > 200


def test_prepared_jpegs_are_read_nearly_unchanged():
    pixels = np.asarray(halves().resize((16, 16)))
    back = decode_jpeg(encode_jpeg(pixels)).astype(int)
    assert np.abs(back - pixels).max() < 24 and np.abs(back - pixels).mean() < 4


def test_a_damaged_prepared_jpeg_is_a_bad_image():
    with pytest.raises(BadImage):
        decode_jpeg(picture(1)[:20])


def test_bytes_after_the_end_of_a_jpeg_are_ignored():
    jpeg = picture(3, (32, 32))
    trailer = b"\xff\xda\0\xff\xd9" * 1000  # phones append a video to a picture
    np.testing.assert_array_equal(read_image(jpeg + trailer, PAD), read_image(jpeg, PAD))


def test_the_pixels_of_a_png_may_come_in_any_number_of_parts():
    png = picture(3, (32, 32), "PNG")
    start = png.index(b"IDAT") - 4
    size = int.from_bytes(png[start : start + 4], "big")
    pixels = png[start + 8 : start + 8 + size]

    def chunk(content: bytes) -> bytes:
        crc = zlib.crc32(b"IDAT" + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + b"IDAT" + content + crc

    parts = [chunk(pixels[:-1]), *[chunk(b"")] * (2 * MAX_PARTS), chunk(pixels[-1:])]
    whole = png[:start] + b"".join(parts) + png[start + 12 + size :]
    np.testing.assert_array_equal(read_image(whole, PAD), read_image(png, PAD))
