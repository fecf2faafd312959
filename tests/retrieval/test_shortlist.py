"""Shortlists: the folder that keeps them, and how other folders are rejected."""

import numpy as np
import pytest

from mufin_jax.retrieval.shortlist import Shortlist, recall
from mufin_jax.runtime.errors import InputError

LABELS = np.array([[4, 0, 2], [1, -1, -1]], np.int32)
SIMILARITIES = np.array([[0.9, 0.5, 0.5], [-0.1, -np.inf, -np.inf]], np.float32)


@pytest.fixture
def folder(tmp_path):
    Shortlist(LABELS, SIMILARITIES).save(tmp_path / "train")
    return tmp_path / "train"


def test_a_shortlist_is_mapped_as_it_was_saved(folder):
    loaded = Shortlist.load(folder)
    np.testing.assert_array_equal(loaded.labels, LABELS)
    np.testing.assert_array_equal(loaded.similarities, SIMILARITIES)
    assert not loaded.labels.flags.owndata and not loaded.labels.flags.writeable
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["labels.npy", "manifest.json", "similarities.npy"]


def test_files_that_a_kill_left_are_not_part_of_a_shortlist(folder):
    (folder / "manifest.json.tmp").write_bytes(b"half")
    Shortlist(LABELS, SIMILARITIES).save(folder)
    np.testing.assert_array_equal(Shortlist.load(folder).labels, LABELS)


def test_an_empty_shortlist_is_loaded_as_it_was_saved(tmp_path):
    Shortlist(LABELS[:0], SIMILARITIES[:0]).save(tmp_path)
    assert Shortlist.load(tmp_path).labels.shape == (0, 3)


@pytest.mark.parametrize("name", ["labels", "similarities"])
@pytest.mark.parametrize("content", [None, b"", b"PK\3\4broken", b"\x93NUMPY", "truncated"])
def test_a_folder_that_is_no_shortlist_is_rejected(folder, name, content):
    path = folder / f"{name}.npy"
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(whole[:-1] if content == "truncated" else content)
    with pytest.raises(InputError, match=f"{name}.npy .*make it again by --redo=STAGE") as error:
        Shortlist.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("labels", LABELS.astype(np.int64)),
        ("similarities", SIMILARITIES[0]),
        ("similarities", SIMILARITIES[:, :2]),
    ],
)
def test_arrays_of_another_kind_are_rejected(folder, name, wrong):
    np.save(folder / f"{name}.npy", wrong)
    with pytest.raises(InputError, match=rf"{name}\.npy has \d+ bytes instead of \d+"):
        Shortlist.load(folder)


def test_recall_is_the_share_of_the_exact_labels_that_are_found():
    near = np.zeros((1, 3), np.float32)
    few, more = (Shortlist(np.array([row], np.int32), near) for row in ((4, -1, -1), (1, 4, -1)))
    assert recall(few, more) == 0.5 and recall(more, few) == 1
