"""Damaged files: reading any changed bit of a run's files is an error."""

import shutil

import numpy as np
import pytest

from mufin_jax.data.dataset import Dataset
from mufin_jax.model.saved import load_model
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.files import load_sealed, save_sealed

HARMS = 45
"""For each artefact; a third of them truncations, the others single bits: 360 in all."""


@pytest.fixture(scope="module")
def readers(minute_run, one_device):
    """How each file of a run is read, by its path in the run's folder."""
    block = load_model(minute_run / "finetune" / "model", one_device).cross_attention
    return {
        "prepare": lambda folder: Dataset.load(folder, verify=True),
        "pretrain/model": lambda folder: load_model(folder, one_device),
        "retrieve/index": LabelIndex.load,
        "retrieve/train": Shortlist.load,
        "finetune/table": lambda folder: Checkpoints(folder).restore(step=0),
        "finetune/predictor/index": LabelIndex.load,
        "finetune/predictor/labels": lambda folder: LabelCache.load(folder, block, one_device),
    }


def harm(path, rng, cut):
    """Flip one bit of a file, or cut its end off, and return the old content."""
    whole = path.read_bytes()
    place = int(rng.integers(len(whole)))
    changed = bytearray(whole)
    changed[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(whole[:place] if cut else changed)
    return whole


def filled(folder):
    """The files that hold something, except the records of settings and of completion."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path for path in found if path.name not in ("done.json", "settings.json"))


@pytest.mark.parametrize(
    "place",
    ["prepare", "pretrain/model", "retrieve/index", "retrieve/train", "finetune/table",
     "finetune/predictor/index", "finetune/predictor/labels"],
)  # fmt: skip
def test_a_changed_bit_or_a_lost_end_of_any_file_is_found(minute_run, readers, place, tmp_path):
    shutil.copytree(minute_run / place, tmp_path / "copy")
    read, rng = readers[place], np.random.default_rng(len(place))
    read(tmp_path / "copy")
    for number in range(HARMS):
        path = rng.choice(filled(tmp_path / "copy"))
        whole = harm(path, rng, cut=number % 3 == 0)
        with pytest.raises(InputError) as error:
            read(tmp_path / "copy")
            pytest.fail(f"harm {number}, to {path}, was not seen")
        assert "\n" not in str(error.value)
        path.write_bytes(whole)
    read(tmp_path / "copy")


def test_the_newest_undamaged_checkpoint_is_used(minute_run, tmp_path, caplog):
    shutil.copytree(minute_run / "finetune" / "checkpoints", tmp_path / "copy")
    checkpoints, rng = Checkpoints(tmp_path / "copy"), np.random.default_rng(5)
    newest = checkpoints.latest()
    older = max(int(p.name) for p in (tmp_path / "copy").iterdir() if p.name != str(newest))
    for number in range(HARMS):
        caplog.clear()
        path = rng.choice(filled(tmp_path / "copy" / str(newest)))
        whole = harm(path, rng, cut=number % 3 == 0)
        assert checkpoints.latest() == older, f"harm {number}, to {path}, was not seen"
        assert f"{newest}: " in caplog.text and "using an older step" in caplog.text
        path.write_bytes(whole)
    assert checkpoints.latest() == newest


@pytest.mark.parametrize("value", [{}, {"é": [1, None, "\udc80"]}, {"a": {"sha256": "b"}}])
def test_a_sealed_file_is_read_and_any_changed_bit_is_found(tmp_path, value):
    path = tmp_path / "x.json"
    save_sealed(path, value)
    assert load_sealed(path) == value
    whole = path.read_bytes()
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match=r"wrong SHA-256|lacks its sha256"):
            load_sealed(path)
