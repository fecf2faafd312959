"""An index in its folder: it can move, serves every search, and is rejected if it is damaged."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from entries import APPROXIMATE, EVERYTHING, EXACT, SHARDED, catalogue, needs_scann, unit

from mufin_jax.retrieval import scann
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.exact import LabelEntries
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.searcher import ExactSearcher, TreeSearcher
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files


@needs_scann
@pytest.mark.parametrize("config", [EXACT, SHARDED, IndexConfig()])
def test_a_saved_index_gives_the_same_shortlists_after_it_has_moved(tmp_path, config):
    vectors, labels, queries = catalogue()
    index = LabelIndex.build(vectors, labels, config, num_labels=407)
    index.save(tmp_path / "before")
    shutil.move(tmp_path / "before", tmp_path / "after")
    loaded = LabelIndex.load(tmp_path / "after")
    assert type(loaded.searcher) is type(index.searcher) and loaded.config == config
    for a, b in zip(
        dataclasses.astuple(index.shortlist(queries, 6)),
        dataclasses.astuple(loaded.shortlist(queries, 6)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@needs_scann
def test_a_folder_that_one_search_saved_serves_the_others(tmp_path):
    vectors, labels, queries = catalogue()
    exact = LabelIndex.build(vectors, labels, EXACT)
    with_tree, without = tmp_path / "with", tmp_path / "without"
    LabelIndex.build(vectors, labels, EVERYTHING).save(with_tree)
    exact.save(without)
    for folder in (with_tree, without):
        for config in (EXACT, SHARDED, APPROXIMATE, IndexConfig()):
            found = LabelIndex.load(folder, config=config).shortlist(queries, 6)
            np.testing.assert_array_equal(found.labels, exact.shortlist(queries, 6).labels)
    with pytest.raises(InputError, match="without ScaNN's tree") as refusal:
        LabelIndex.load(without, config=EVERYTHING)
    assert "\n" not in str(refusal.value) and str(without) in str(refusal.value)


@needs_scann
def test_mapped_entries_stay_where_they_are_and_the_tree_repeats_none(tmp_path):
    vectors, labels, queries = catalogue()
    grouped = LabelEntries.group(vectors, labels, 400)
    np.save(tmp_path / "entries.npy", grouped.vectors)
    before = (tmp_path / "entries.npy").stat()
    mapped = LabelEntries(np.load(tmp_path / "entries.npy", mmap_mode="r"), grouped.offsets)
    index = LabelIndex.build_grouped(mapped, EVERYTHING)
    index.save(tmp_path)
    after = (tmp_path / "entries.npy").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    loaded = LabelIndex.load(tmp_path)
    assert isinstance(loaded.entries.vectors, np.memmap)
    assert isinstance(loaded.searcher, TreeSearcher)
    assert loaded.searcher.tree.leaves == index.searcher.tree.leaves
    assert sum(path.stat().st_size for path in (tmp_path / "tree").iterdir()) < vectors.nbytes
    exact = LabelIndex.build(vectors, labels, EXACT).shortlist(queries, 9)
    np.testing.assert_array_equal(loaded.shortlist(queries, 9).labels, exact.labels)


@pytest.mark.parametrize("part", [slice(5, None), slice(None, None, -1)])
def test_a_part_of_a_mapped_file_is_written_in_its_place(tmp_path, part):
    vectors = catalogue()[0]
    np.save(tmp_path / "entries.npy", vectors)
    mapped = np.load(tmp_path / "entries.npy", mmap_mode="r")[part]
    LabelIndex.build_grouped(LabelEntries(mapped, np.arange(len(mapped) + 1)), EXACT).save(tmp_path)
    np.testing.assert_array_equal(LabelIndex.load(tmp_path).entries.vectors, vectors[part])


def _lose(folder):
    (folder / "offsets.npy").unlink()


def _shorten(folder):
    os.truncate(folder / "entries.npy", 2_000)


def _flip(folder):
    path = folder / "entries.npy"
    content = bytearray(path.read_bytes())
    content[3_000] ^= 4
    path.write_bytes(content)


def _lose_facts(folder):
    (folder / "index.json").unlink()


def _empty_facts(folder):
    (folder / "index.json").write_text("{}")


@pytest.mark.parametrize("harm", [_lose, _shorten, _flip, _lose_facts, _empty_facts])
def test_a_damaged_index_is_rejected_in_one_line(tmp_path, harm):
    LabelIndex.build(*catalogue()[:2]).save(tmp_path)
    harm(tmp_path)
    with pytest.raises(InputError) as refusal:
        LabelIndex.load(tmp_path)
    assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("name", ["tree/scann_docids.pkl", "surprise.npy"])
def test_a_file_that_is_not_of_the_index_is_rejected_unread(tmp_path, name):
    LabelIndex.build(*catalogue()[:2]).save(tmp_path)
    (tmp_path / "tree").mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"cos\nabort\n(tR.")  # as a pickle, it would end the process
    with pytest.raises(InputError, match=f"{name.split('/')[-1]} does not belong"):
        LabelIndex.load(tmp_path)


def test_a_listed_file_is_rejected_unless_an_index_has_such_a_file(tmp_path):
    LabelIndex.build(*catalogue()[:2]).save(tmp_path)
    (tmp_path / "tree").mkdir(exist_ok=True)
    (tmp_path / "tree" / "scann_docids.pkl").write_bytes(b"cos\nabort\n(tR.")
    facts = files.load_sealed(tmp_path / "index.json")
    facts["files"] = files.manifest(tmp_path, ignore={"index.json"})
    assert "tree/scann_docids.pkl" in facts["files"]
    files.save_sealed(tmp_path / "index.json", facts)
    with pytest.raises(InputError, match=r"tree/scann_docids\.pkl is not a file of an index"):
        LabelIndex.load(tmp_path)


def test_without_scann_exact_search_replaces_it_with_a_warning(monkeypatch, caplog, tmp_path):
    vectors, labels, queries = catalogue()
    LabelIndex.build(vectors, labels).save(tmp_path)
    monkeypatch.setattr(scann, "importable", lambda: False)
    for make in (lambda: LabelIndex.build(vectors, labels), lambda: LabelIndex.load(tmp_path)):
        index = make()
        assert (
            isinstance(index.searcher, ExactSearcher) and "exact search replaces it" in caplog.text
        )
        caplog.clear()
        assert (index.shortlist(queries, 3).labels >= 0).all()
    with pytest.raises(InputError, match="not installed"):
        LabelIndex.build(vectors, labels, IndexConfig(backend="scann"))


@needs_scann
def test_a_loaded_tree_has_its_number_of_leaves_even_if_entries_are_equal(tmp_path):
    few = unit(np.random.default_rng(3).normal(size=(30, 8)).astype(np.float32))
    vectors = few[np.random.default_rng(4).integers(30, size=2_000)]
    built = LabelIndex.build(vectors, np.arange(2_000) // 2)
    built.save(tmp_path)
    assert LabelIndex.load(tmp_path).searcher.tree.leaves == built.searcher.tree.leaves
