"""Npy files written block by block: complete or absent, mapped, and removed from memory."""

import io
import mmap
import zipfile

import numpy as np
import pytest

from mufin_jax.runtime.storage.npy import forget, load_arrays, mapped, whole_npy


def resident(rows: np.ndarray) -> int:
    """Return the bytes of a mapped file that count as this process's memory."""
    address = rows.__array_interface__["data"][0]
    size, found = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            first = line.split()[0]
            if "-" in first and not first.endswith(":"):
                start, end = (int(part, 16) for part in first.split("-"))
                found = start <= address < end
            elif found and first == "Rss:":
                size += int(line.split()[1]) * 1024
    return size


def test_blocks_become_one_file_that_exists_only_when_complete(tmp_path):
    path = tmp_path / "folder" / "rows.npy"
    blocks = [np.full((count, 3), count, np.float32) for count in (2, 0, 5)]
    with whole_npy(path, (3,)) as writer:
        for block in blocks:
            writer.append(block)
        assert not path.exists()
    np.testing.assert_array_equal(mapped(path), np.concatenate(blocks))
    assert [file.name for file in path.parent.iterdir()] == ["rows.npy"]


def test_a_file_without_blocks_is_an_array_without_rows(tmp_path):
    with whole_npy(tmp_path / "none.npy", (3, 2), np.int32):
        pass
    found = mapped(tmp_path / "none.npy")
    assert found.shape == (0, 3, 2) and found.dtype == np.int32


def test_an_interrupted_write_leaves_the_old_file_unchanged(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((2, 3), np.float32))
    with pytest.raises(KeyboardInterrupt), whole_npy(path, (3,)) as writer:
        writer.append(np.zeros((1, 3), np.float32))
        raise KeyboardInterrupt
    np.testing.assert_array_equal(mapped(path), np.ones((2, 3)))
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]


def test_a_forgotten_map_takes_no_memory_and_is_still_readable(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(500_000.0))
    rows = np.asarray(mapped(tmp_path / "rows.npy"))[7:]
    assert rows.sum() > 0
    forget(rows)
    assert resident(rows) < rows.nbytes / 10
    assert rows[3] == 10
    forget(np.ones(3))  # no map: nothing happens


def test_forgetting_part_of_a_map_hands_back_the_pages_of_the_whole_map(tmp_path):
    # The system decides whether pages stay in memory, so the test checks the calls.
    told = []

    class Watched(mmap.mmap):
        def madvise(self, option):
            told.append(option)

    (tmp_path / "rows").write_bytes(bytes(80))
    with open(tmp_path / "rows", "r+b") as file, Watched(file.fileno(), 80) as pages:
        rows = np.ndarray((5, 2), np.float64, buffer=pages)
        forget(rows[1:, :1])
        assert told == [mmap.MADV_DONTNEED]
        del rows


def test_an_array_that_claims_more_than_its_file_holds_is_rejected_before_allocation(tmp_path):
    path, file = tmp_path / "items.npz", io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (2003764205206896640,)}
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("text.npy", file.getvalue() + b"few")
    with pytest.raises(ValueError, match=r"text\.npy claims the shape .*, but is shorter"):
        load_arrays(path)
