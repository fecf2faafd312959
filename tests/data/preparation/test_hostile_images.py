"""Hostile pictures: each is read or rejected, quickly and in little memory.

A child process reads them: a crash in a C decoder would end the process.
"""

import json
import subprocess
import sys
from typing import Any

import hostile_images
import numpy as np
import pytest
from PIL import Image

from mufin_jax.data.images import BadImage, decode_jpeg, encode_jpeg, read_image


def child(*arguments: str) -> Any:
    """Return the output of the process; it must succeed without warnings."""
    command = [sys.executable, hostile_images.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_3000_mutated_pictures_are_read_or_rejected_with_one_line():
    found = child("mutated", "3000", "1")
    assert found["read"] + found["rejected"] == 3000
    assert min(found["read"], found["rejected"]) > 500, "nearly all are read, or rejected"
    assert found["lines"], "a reason is not one line"
    assert found["slowest"] < 5 and found["largest"] < 300e6, found


@pytest.fixture(scope="module")
def bombs() -> list[dict[str, Any]]:
    return child("bombs")


def test_bombs_are_rejected_in_a_tenth_of_a_second_and_a_few_megabytes(bombs):
    rejected = [bomb for bomb in bombs if bomb["kind"] == "rejected"]
    assert len(rejected) == 31
    for bomb in rejected:
        assert bomb["message"], f"{bomb['name']} was read"
        # The best of ten tries, in CPU seconds: a busy machine changes nothing.
        assert bomb["seconds"] < 0.1, bomb
        # The file itself has up to ten megabytes, and its EXIF data are extracted.
        assert bomb["bytes"] < 40e6, bomb


def test_odd_pictures_take_bounded_time_and_memory(bombs):
    odd = {bomb["name"]: bomb for bomb in bombs if bomb["kind"] == "bounded"}
    assert len(odd) == len(hostile_images.BOUNDED) > 5
    for name, bomb in odd.items():
        assert bomb["seconds"] < 10 and bomb["bytes"] < 150e6, bomb
        assert not bomb["message"], f"{name} was rejected"


def test_a_prepared_jpeg_of_another_size_is_rejected_before_it_is_decoded():
    good = encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    assert decode_jpeg(good, (16, 16, 3)).shape == (16, 16, 3)
    with pytest.raises(BadImage, match=r"it is \(65500, 65500, 3\), expected \(16, 16, 3\)"):
        decode_jpeg(hostile_images.jpeg(size=(65_500, 65_500)), (16, 16, 3))
    for bad in (good[:20], b"\xff\xd8", b""):
        with pytest.raises(BadImage):
            decode_jpeg(bad, (16, 16, 3))


def test_exif_after_the_pixels_turns_the_picture():
    image = Image.new("RGB", (32, 16), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    before = hostile_images.encoded(image, exif=exif)
    start = before.index(b"eXIf") - 4
    end = before.index(b"IDAT") - 4
    behind = before[:start] + before[end:-12] + before[start:end] + before[-12:]
    upright = read_image(before, hostile_images.PAD)
    np.testing.assert_array_equal(read_image(behind, hostile_images.PAD), upright)
    assert (upright[0, 8] == (255, 0, 0)).all()
