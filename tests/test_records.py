"""Claims about the array records: order, content, and that nothing else is touched."""

import pickle
import socket

import numpy as np
import pytest

from mufin_jax.data.images import decode_jpeg, encode_jpeg
from mufin_jax.data.records import RecordImages, open_split, write_records
from mufin_jax.errors import InputError


def flat(number: int) -> bytes:
    return encode_jpeg(np.full((8, 8, 3), number, np.uint8))


def records(start: int, count: int):
    for i in range(start, start + count):
        images = [flat(10 * i + j) for j in range(i % 3)]
        yield {"uid": f"ü{i}", "title": f"title {i}" if i % 2 else "", "images": images}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "records"
    write_records({"train": records(0, 9), "test": records(9, 2), "label": records(11, 5)}, folder)
    return folder


def test_record_i_is_item_i_with_its_images(folder):
    for split, start, count in (("train", 0, 9), ("test", 9, 2), ("label", 11, 5)):
        source = open_split(folder, split)
        assert len(source) == count
        for i, wanted in enumerate(records(start, count)):
            assert source[i]["uid"].decode() == wanted["uid"]
            assert source[i]["title"].decode() == wanted["title"]
            assert list(source[i]["images"]) == wanted["images"]


def test_images_are_found_at_their_homes_in_any_order_and_with_repeats(folder):
    homes = np.array([[0, 1, 0], [0, 8, 1], [2, 0, 1], [2, 3, 0]])
    images = RecordImages(folder, homes, size=8)
    rows = np.array([3, 0, 2, 0, 1])
    wanted = [140, 10, 111, 10, 81]
    np.testing.assert_array_equal(images[rows][:, 4, 4, 0], wanted)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[rows], images[rows])
    assert len(images) == 4 and images[rows[:0]].shape == (0, 8, 8, 3)


def test_nothing_is_printed_fetched_or_written_elsewhere(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise AssertionError("the network was touched")

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    write_records({"train": records(0, 4)}, tmp_path / "records")
    assert capfd.readouterr() == ("", "")
    assert not list(home.iterdir())


def test_missing_records_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no split train"):
        open_split(tmp_path, "train")


def test_prepared_pictures_survive_the_records(folder):
    assert abs(int(decode_jpeg(open_split(folder, "train")[4]["images"][0])[0, 0, 0]) - 40) <= 1
