"""Pictures of requests become pixels under limits; addresses go to a fetcher, if there is one."""

import asyncio
import base64
import dataclasses
import io
import threading

import numpy as np
import pytest
from PIL import Image

from mufin_jax.prediction.pictures import ReadPicture, read_picture
from mufin_jax.runtime.errors import InputError
from mufin_jax.serving.pictures import PictureReader, from_data_uri


def encoded(colour=(200, 30, 40), size=(40, 30), form="PNG"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form)
    return file.getvalue()


def uri(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="module")
def limited(dataset):
    """The small data set, as if it had been prepared under low limits."""
    limits = {"max_bytes": 10_000, "max_pixels": 10_000}
    return dataclasses.replace(dataset, manifest=dataset.manifest | {"config": limits})


@pytest.fixture
def reader(limited):
    reader = PictureReader(limited, threads=2, most=10_000)
    yield reader
    reader.close()


def read(reader, *sources):
    return asyncio.run(reader.read(sources))


def test_a_data_uri_and_its_bytes_give_the_pixels_that_predict_sees(reader, limited):
    content = encoded()
    found = read(reader, [uri(content), content], [], [uri(encoded((0, 0, 255), form="JPEG"))])
    assert [len(own) for own in found] == [2, 0, 1]
    wanted = read_picture(content, limited, "x")
    for one in found[0]:
        assert isinstance(one, ReadPicture)
        np.testing.assert_array_equal(one.pixels, wanted)
    assert found[2][0].pixels.shape == wanted.shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("data:image/png,abc", "expected data:image/jpeg;base64,"),
        ("data:image/png;base64,", "without content"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64,\u0660\u0661", "not base64"),
        (uri(b"x" * 10_001), "larger than 10,000 bytes"),
        (uri(b"no picture"), "not a JPEG, PNG or WebP"),
        (uri(encoded(size=(101, 100))), "more than 10,000 pixels"),
        ("https://example.com/a.jpg", "this server fetches no pictures"),
        ("file:///etc/passwd", "this server fetches no pictures"),
        ("/etc/passwd", "found '/etc/passwd'; expected a data URI"),
        ("", "expected a data URI"),
    ],
)
def test_what_is_no_picture_within_the_limits_is_rejected_by_its_place(reader, given, message):
    with pytest.raises(InputError, match="item 1, picture 1: ") as found:
        read(reader, [encoded()], [encoded(), given])
    assert message in str(found.value)


def test_the_length_of_a_text_is_checked_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(base64, "b64decode", None)
    with pytest.raises(InputError, match="larger than 9 bytes"):
        from_data_uri(uri(b"0123456789"), 9)


def test_a_picture_of_as_many_bytes_as_are_allowed_is_read():
    for count in range(1, 20):
        content = bytes(range(count))
        assert from_data_uri(uri(content), count) == content


def test_the_limit_of_the_server_holds_in_addition_to_that_of_the_run(limited):
    reader = PictureReader(limited, pixels=1_199)
    with pytest.raises(InputError, match="40 x 30 is more than 1,199 pixels"):
        read(reader, [encoded()])
    reader.close()


def test_addresses_go_to_the_fetcher_alone(dataset):
    asked = []

    def fetch(address):
        asked.append(address)
        return encoded()

    reader = PictureReader(dataset, fetch=fetch)
    ((one,),) = read(reader, ["https://example.com/a.png"])
    assert one.pixels.shape[2] == 3 and asked == ["https://example.com/a.png"]
    reader.close()


def test_after_a_bad_picture_those_that_wait_are_not_read(dataset):
    entered, go, asked = threading.Event(), threading.Event(), []

    def fetch(address):
        asked.append(address)
        if len(asked) == 1:
            raise InputError("bad")
        entered.set()
        assert go.wait(10)
        return encoded()

    reader = PictureReader(dataset, threads=1, fetch=fetch)
    try:
        with pytest.raises(InputError, match="bad"):
            read(reader, [f"https://example.com/{i}" for i in range(50)])
    finally:
        go.set()
        reader.close()
    assert len(asked) < 50


def test_each_picture_is_observed(dataset):
    seen = []
    reader = PictureReader(dataset, observe=seen.append)
    read(reader, [encoded(), encoded()])
    reader.close()
    assert len(seen) == 2 and all(seconds >= 0 for seconds in seen)
