"""Fingerprints: the same files at any place, and any change that a run would read."""

import pytest

from mufin_jax.runtime.storage import fingerprint as module
from mufin_jax.runtime.storage.fingerprint import difference, fingerprint

SIZE = 1000


@pytest.fixture
def small_pieces(monkeypatch):
    """Of a file of more than 64 bytes, four pieces of 16 count."""
    monkeypatch.setattr(module, "_PIECES", 4)
    monkeypatch.setattr(module, "_PIECE", 16)


@pytest.mark.parametrize("place", [0, 15, 328, 343, 656, 671, SIZE - 16, SIZE - 1])
def test_pieces_of_a_large_file_count_from_its_first_to_its_last_byte(
    small_pieces, tmp_path, place
):
    path, content = tmp_path / "a.npy", bytearray(SIZE)
    path.write_bytes(content)
    known = fingerprint(path)
    assert difference(known, path) == ([], [])
    content[place] = 1
    path.write_bytes(content)
    assert difference(known, path) == (["a.npy"], [])


@pytest.mark.parametrize("size", [1, 63, 64])
def test_each_byte_of_a_small_file_counts(small_pieces, tmp_path, size):
    path = tmp_path / "a.npy"
    found = []
    for place in (None, *range(size)):
        path.write_bytes(bytes(number == place for number in range(size)))
        found.append(fingerprint(path)["a.npy"][1])
    assert len(set(found)) == size + 1


def test_a_file_that_only_grew_is_another_one(small_pieces, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(bytes(SIZE))
    known = fingerprint(path)
    path.write_bytes(bytes(SIZE + 1))
    assert difference(known, path) == (["a.npy"], [])


def folder_of(place, count, content=b"x"):
    place.mkdir()
    for number in range(count):
        (place / f"{number}.jpg").write_bytes(content)
    (place / ".hidden").mkdir()
    (place / ".hidden" / "note").write_bytes(b"of the system")
    (place / ".note").write_bytes(b"of an editor")
    return place


@pytest.mark.parametrize("count", [3, 4])
def test_a_folder_is_known_again_at_another_place_and_by_what_is_not_hidden(
    tmp_path, monkeypatch, count
):
    """With more than three files, they have one digest, of their names and sizes."""
    monkeypatch.setattr(module, "MOST", 3)
    known = fingerprint(folder_of(tmp_path / "a", count))
    other = folder_of(tmp_path / "b", count)
    (other / ".note").unlink()
    assert difference(known, other) == ([], [])
    (other / "0.jpg").write_bytes(b"longer")
    assert difference(known, other) == ([""] if count > 3 else ["0.jpg"], [])
    (other / "0.jpg").write_bytes(b"y")  # as long as it was: of many files, contents do not count
    assert difference(known, other) == ([] if count > 3 else ["0.jpg"], [])


def test_a_renamed_file_of_many_is_another_one(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    place = folder_of(tmp_path / "a", 4)
    known = fingerprint(place)
    (place / "0.jpg").rename(place / "9.jpg")
    assert difference(known, place) == ([""], [])


def test_absent_files_are_told_from_changed_ones(tmp_path):
    known = fingerprint(folder_of(tmp_path / "a", 3))
    (tmp_path / "a" / "0.jpg").write_bytes(b"y")
    (tmp_path / "a" / "1.jpg").unlink()
    assert difference(known, tmp_path / "a") == (["0.jpg"], ["1.jpg"])
    assert difference(known, tmp_path / "none") == ([], ["0.jpg", "1.jpg", "2.jpg"])


def test_many_files_are_absent_if_their_folder_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    known = fingerprint(folder_of(tmp_path / "a", 4))
    assert difference(known, tmp_path / "none") == ([], [""])


def test_one_file_is_known_again_under_another_name(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"x")
    (tmp_path / "b.npy").write_bytes(b"x")
    known = fingerprint(tmp_path / "a.npy")
    assert difference(known, tmp_path / "b.npy") == ([], [])
    two = fingerprint(tmp_path)
    assert difference(two, tmp_path / "b.npy") == ([], ["a.npy", "b.npy"])  # a file is no folder


def test_only_the_named_files_that_are_there_count(tmp_path):
    (tmp_path / "b.npy").write_bytes(b"x")
    (tmp_path / "c.npy").write_bytes(b"x")
    assert list(fingerprint(tmp_path, ["b.npy", "a.npy"])) == ["b.npy"]
