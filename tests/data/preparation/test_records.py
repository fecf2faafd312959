"""The array records: order, content, and no effect anywhere else."""

import pickle
import socket

import numpy as np
import pytest

from mufin_jax.data.images import decode_jpeg, encode_jpeg
from mufin_jax.data.preparation.records import write_records
from mufin_jax.data.record_images import RecordImages, load_split
from mufin_jax.runtime.errors import InputError


def flat(number: int) -> bytes:
    return encode_jpeg(np.full((8, 8, 3), number, np.uint8))


def record(i: int) -> dict:
    images = [flat(10 * i + j) for j in range(i % 3)]
    return {"uid": f"ü{i}", "title": f"title {i}" if i % 2 else "", "images": images}


class Made:
    """The `count` records from `first` on, with a claimed size."""

    def __init__(self, first: int, count: int, num_bytes: int = 1000):
        self.first, self.count, self.bytes = first, count, num_bytes

    def __len__(self) -> int:
        return self.count

    def num_bytes(self) -> int:
        return self.bytes

    def read(self, start: int, stop: int):
        return (record(self.first + i) for i in range(start, stop))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "records"
    write_records({"train": Made(0, 9), "test": Made(9, 2), "label": Made(11, 5)}, folder)
    return folder


def test_record_i_is_item_i_with_its_images(folder):
    for split, start, count in (("train", 0, 9), ("test", 9, 2), ("label", 11, 5)):
        source = load_split(folder, split)
        assert_holds(source, start, count)


def assert_holds(source, start: int, count: int):
    assert len(source) == count
    for i in range(count):
        wanted = record(start + i)
        assert source[i]["uid"].decode() == wanted["uid"]
        assert source[i]["title"].decode() == wanted["title"]
        assert list(source[i]["images"]) == wanted["images"]


def test_gigabytes_of_records_are_split_into_files_without_tensorflow(tmp_path):
    write_records({"train": Made(0, 21, 2 * 10**9), "test": Made(21, 3)}, tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*array_record*"))
    assert len(files) == 17 and files[1] == "records-train.array_record-00000-of-00016"
    assert_holds(load_split(tmp_path, "train"), 0, 21)
    assert_holds(load_split(tmp_path, "test"), 21, 3)


def test_images_are_read_in_any_order_and_with_repeats(folder):
    homes = np.array([[0, 1, 0], [0, 8, 1], [2, 0, 1], [2, 3, 0]])
    images = RecordImages(folder, homes, size=8)
    rows = np.array([3, 0, 2, 0, 1])
    wanted = [140, 10, 111, 10, 81]
    np.testing.assert_array_equal(images[rows][:, 4, 4, 0], wanted)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(images))[rows], images[rows])
    assert len(images) == 4 and images[rows[:0]].shape == (0, 8, 8, 3)


def test_nothing_is_printed_downloaded_or_written_elsewhere(tmp_path, monkeypatch, capfd):
    def reject(*_):
        raise AssertionError("the network was touched")

    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(socket.socket, "connect", reject)
    monkeypatch.setattr(socket, "getaddrinfo", reject)
    write_records({"train": Made(0, 4)}, tmp_path / "records")
    assert capfd.readouterr() == ("", "")
    assert not list(home.iterdir())


def test_missing_records_are_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no split train"):
        load_split(tmp_path, "train")


def test_prepared_pictures_keep_their_colours_in_the_records(folder):
    assert abs(int(decode_jpeg(load_split(folder, "train")[4]["images"][0])[0, 0, 0]) - 40) <= 1
