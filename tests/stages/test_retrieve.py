"""Module II as a stage: the files that it writes, and how it resumes after an interruption."""

import dataclasses

import numpy as np
import pytest
from block_sizes import small_blocks
from contexts import context
from scipy import sparse

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.model.embed_side import describe_once, embed_blocks
from mufin_jax.model.saved import new_loader, save_model
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex, shortlist_points
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.stages import retrieve as stage
from mufin_jax.stages.retrieve import RetrieveConfig, retrieve

CONFIG = RetrieveConfig(shortlist=4, index=IndexConfig(backend="exact"))

blocks = small_blocks((stage, "BLOCK", 10))


@pytest.fixture(scope="module")
def pretrained(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    save_model(model, folder / "model")
    return folder


def context_of(dataset, pretrained, out, mesh):
    return context(out, mesh, {"prepare": dataset.path, "pretrain": pretrained})


@pytest.fixture(scope="module")
def whole(dataset, pretrained, mesh, tmp_path_factory):
    """The folder of an uninterrupted stage."""
    out = tmp_path_factory.mktemp("retrieve")
    retrieve(CONFIG, context_of(dataset, pretrained, out, mesh))
    return out


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_stage_writes_an_index_and_the_shortlists_of_both_sides(whole, dataset):
    for side in (dataset.train, dataset.test):
        lists = Shortlist.load(whole / side.name)
        assert lists.labels.shape == (len(side), 4)
        # Only items without text and picture have empty places.
        bare = (side.text < 0) & (np.diff(side.image_offsets) == 0)
        np.testing.assert_array_equal((lists.labels < 0).any(1), bare)
    assert sorted(path.name for path in whole.iterdir()) == ["index", "test", "train"]


def test_each_point_has_the_list_of_its_own_embedding(whole, dataset, model, mesh, tmp_path):
    loader = new_loader(model.config, dataset, mesh)
    vectors = describe_once(model, loader, tmp_path / "vectors.npy")
    index = LabelIndex.load(whole / "index", mesh)
    for side in (dataset.train, dataset.test):
        parts = embed_blocks(model, loader, vectors, side)
        x = np.concatenate([part.vector for _, part in parts])
        wanted, found = shortlist_points(index, x, 4), Shortlist.load(whole / side.name)
        np.testing.assert_array_equal(found.labels, wanted.labels)
        np.testing.assert_allclose(found.similarities, wanted.similarities, atol=1e-6)


def test_the_index_is_of_the_kind_that_the_settings_ask_for(
    whole, dataset, pretrained, mesh, tmp_path
):
    """pooled: one entry a label that shows something, its embedding; here without an empty one."""
    config = dataclasses.replace(CONFIG, pooled=True)
    retrieve(config, context_of(dataset, pretrained, tmp_path / "out", mesh))
    pooled, usual = (
        LabelIndex.load(folder / "index", mesh).entries for folder in (tmp_path / "out", whole)
    )
    assert np.diff(pooled.offsets).max() == 1 < np.diff(usual.offsets).max()


@pytest.fixture
def filtered(dataset, pretrained, mesh, tmp_path, monkeypatch):
    """The folder of the stage for data whose overlap filter has three labels a test point.

    In training it has label 5 wherever that is relevant, so the label has no centroid.
    """
    test, train = dataset.test, dataset.train
    three = np.zeros((len(test), dataset.num_labels), np.float32)
    three[:, :3] = 1
    only_5 = np.eye(dataset.num_labels, dtype=np.float32)[[5]]
    taken = train.pairs[:, [5]] @ sparse.csr_matrix(only_5)
    changed = dataclasses.replace(
        dataset,
        train=dataclasses.replace(train, filter=taken),
        test=dataclasses.replace(test, filter=sparse.csr_matrix(three)),
    )
    monkeypatch.setattr(Dataset, "load", lambda path, **_: changed)
    retrieve(CONFIG, context_of(dataset, pretrained, tmp_path / "out", mesh))
    return tmp_path / "out"


def test_lists_are_longer_by_the_labels_that_the_overlap_filter_can_remove(filtered, dataset):
    assert Shortlist.load(filtered / "test").labels.shape == (len(dataset.test), 4 + 3)
    assert Shortlist.load(filtered / "train").labels.shape == (len(dataset.train), 4 + 1)


def test_pairs_of_the_overlap_filter_have_no_effect_on_centroids(whole, filtered, mesh):
    counts = [
        np.diff(LabelIndex.load(folder / "index", mesh).entries.offsets)
        for folder in (whole, filtered)
    ]
    fewer = counts[0] - counts[1]
    assert np.flatnonzero(fewer).tolist() == [5] and fewer[5] == 1


def test_an_interrupted_stage_resumes_with_its_complete_files_and_gives_the_same_result(
    whole, dataset, pretrained, mesh, tmp_path, monkeypatch
):
    write = stage.write_shortlists

    def fails(index, queries, total, k, folder):
        if folder.name == "test":
            raise KeyboardInterrupt
        write(index, queries, total, k, folder)

    monkeypatch.setattr(stage, "write_shortlists", fails)
    with pytest.raises(KeyboardInterrupt):
        retrieve(CONFIG, context_of(dataset, pretrained, tmp_path, mesh))
    left = {"index", "train", "vectors.npy", "x.npy"}
    assert {path.name for path in tmp_path.iterdir()} == left
    monkeypatch.undo()
    monkeypatch.setattr(stage, "build_label_index", None)  # the index is not built again
    monkeypatch.setattr(stage, "_blocks", lambda x: iter([]))  # training points are not searched
    retrieve(CONFIG, context_of(dataset, pretrained, tmp_path, mesh))
    assert contents(tmp_path) == contents(whole)


def test_descriptor_vectors_that_module_one_kept_are_not_made_again(
    whole, dataset, model, pretrained, mesh, tmp_path, monkeypatch
):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "model").symlink_to(pretrained / "model")
    kept = tmp_path / "pretrain" / "vectors.npy"
    describe_once(model, Loader(dataset, "both", devices=mesh.size), kept)
    monkeypatch.setattr(Loader, "texts", None)
    monkeypatch.setattr(Loader, "pictures", None)
    retrieve(CONFIG, context_of(dataset, tmp_path / "pretrain", tmp_path / "out", mesh))
    assert contents(tmp_path / "out") == contents(whole) and kept.exists()
