"""The generated ads and queries: shape, long tail, determinism, bounded memory."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.manifest import MANIFEST
from mufin_jax.data.synthetic.ads import AdsConfig, write_ads
from mufin_jax.data.synthetic.ads_world import MOST_LABELS, Queries
from mufin_jax.runtime.errors import DiskError, InputError

CONFIG = AdsConfig(labels=310, points=1700, test_points=230, dim=17, noise=0.6)


@pytest.fixture(scope="module")
def ads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ads")
    write_ads(CONFIG, folder)
    return Dataset.load(folder, verify=True)


def test_labels_have_one_text_and_points_also_have_one_picture(ads):
    sides = {"train": 1700, "test": 230, "labels": 310}
    rows = []
    for name, count in sides.items():
        side = getattr(ads, name)
        images = 0 if name == "labels" else 1
        assert len(side) == len(side.ids) == len(side.titles) == count
        assert len(set(side.ids)) == count and side.titles[count - 1] == ""
        np.testing.assert_array_equal(np.diff(side.image_offsets), np.full(count, images))
        rows.append(side.text)
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(2240))
    pictures = np.concatenate([ads.train.image_rows, ads.test.image_rows])
    np.testing.assert_array_equal(np.sort(pictures), np.arange(1930))
    assert ads.text_vectors.shape == (2240, 17) and ads.image_vectors.shape == (1930, 17)
    assert ads.train.relevance.shape == (1700, 310) and ads.test.relevance.shape == (230, 310)
    assert ads.train.filter.shape == (1700, 310) and not ads.test.filter.nnz


def test_vectors_are_unit_vectors(ads):
    for vectors in (ads.text_vectors, ads.image_vectors):
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_points_have_one_to_four_labels_of_one_cluster(ads):
    starts = Queries(CONFIG).starts
    assert starts[0] == 0 and starts[-1] == 310 and (np.diff(starts) >= 1).all()
    for pairs in (ads.train.relevance, ads.test.relevance):
        counts = np.diff(pairs.indptr)
        assert set(counts) == set(range(1, MOST_LABELS + 1))
        assert (pairs.data == 1).all() and pairs.has_sorted_indices
        cluster = np.searchsorted(starts, pairs.indices, "right")
        np.testing.assert_array_equal(cluster, np.repeat(cluster[pairs.indptr[:-1]], counts))


def test_label_frequencies_follow_zipfs_law():
    config = AdsConfig(labels=3000, points=1, test_points=1, dim=2)
    pairs = Queries(config).draw("train", 200_000)
    found = np.sort(np.bincount(pairs.indices, minlength=3000))[::-1]
    rank = np.array([10, 30, 100, 300, 1000])
    slope = np.polyfit(np.log(rank), np.log(found[rank - 1]), 1)[0]
    assert -1.15 < slope < -0.85
    flat = np.bincount(
        Queries(dataclasses.replace(config, zipf=0.0)).draw("train", 200_000).indices
    )
    assert flat.max() < 3 * np.median(flat) and found.max() > 100 * np.median(found)


def test_clusters_are_of_very_unequal_size():
    sizes = np.diff(Queries(AdsConfig(labels=50_000, dim=2)).starts)
    assert len(sizes) == 1000 and sizes.sum() == 50_000
    assert sizes.max() > 10 * sizes.min() and (np.diff(sizes) <= 1).all()
    assert len(Queries(AdsConfig(labels=310, clusters=7, dim=2)).starts) == 8


def test_title_and_picture_together_rank_better_than_either(ads):
    labels = ads.text_vectors[ads.labels.text]
    text = ads.text_vectors[ads.test.text]
    picture = ads.image_vectors[ads.test.image_rows]

    def precision(queries):
        best = (queries @ labels.T).argmax(1)
        return np.asarray(ads.test.relevance[np.arange(230), best]).mean()

    both = precision(text + picture)
    assert both > 1.1 * max(precision(text), precision(picture))
    assert min(precision(text), precision(picture)) > 20 / 310


def test_training_points_show_what_the_texts_of_their_labels_lack(ads):
    labels = ads.text_vectors[ads.labels.text]
    images = ads.image_vectors[ads.train.image_rows]
    frequent = np.argsort(-np.bincount(ads.train.relevance.indices, minlength=310))[:20]
    mean = np.stack(
        [images[ads.train.relevance[:, [c]].toarray()[:, 0] > 0].mean(0) for c in frequent]
    )
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    test = ads.image_vectors[ads.test.image_rows]
    relevant = ads.test.relevance[:, frequent].toarray() > 0
    learned, titled = (np.mean((test @ v.T)[relevant]) for v in (mean, labels[frequent]))
    assert learned > titled + 0.05


@pytest.mark.parametrize("block", [1, 64, 1000, 1024, 5000])
def test_the_result_does_not_depend_on_the_block_size(ads, block, tmp_path):
    if block == 1:  # too slow for all rows: check one
        queries = Queries(CONFIG)
        np.testing.assert_array_equal(queries.vectors(123, 124)[0], ads.text_vectors[123])
        return
    write_ads(CONFIG, tmp_path, block)
    names = json.loads((tmp_path / MANIFEST).read_text())["files"]
    assert names == ads.manifest["files"]


def test_the_seed_changes_everything_and_the_number_of_points_no_label(ads, tmp_path):
    write_ads(dataclasses.replace(CONFIG, seed=1, points=17), tmp_path / "other")
    other = Dataset.load(tmp_path / "other")
    assert not np.allclose(other.text_vectors[:310], ads.text_vectors[:310], atol=0.1)
    write_ads(dataclasses.replace(CONFIG, points=17), tmp_path / "fewer")
    fewer = Dataset.load(tmp_path / "fewer")
    np.testing.assert_array_equal(fewer.text_vectors[:310], ads.text_vectors[:310])
    np.testing.assert_array_equal(fewer.test.relevance.indices, ads.test.relevance.indices)


def test_an_interrupted_attempt_is_overwritten(ads, tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    (tmp_path / "text_vectors.npy").write_bytes(b"half")
    write_ads(CONFIG, tmp_path)
    assert Dataset.load(tmp_path, verify=True).manifest == ads.manifest


_MEASURE = """
import resource, sys
from pathlib import Path
from mufin_jax.data.synthetic.ads import AdsConfig, write_ads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_ads(AdsConfig(labels=100_000, points=40_000, test_points=10_000), Path(sys.argv[1]), 2048)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_vectors(tmp_path):
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    grown = int(subprocess.check_output(command, text=True)) * 1024
    written = sum((tmp_path / f"{kind}_vectors.npy").stat().st_size for kind in ("text", "image"))
    assert written > 150e6 and grown < 0.7 * written


def test_a_folder_that_cannot_be_written_is_a_disk_error(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mufin_jax.runtime.storage.npy.NpyWriter.append", full)
    with pytest.raises(DiskError, match="No space left"):
        write_ads(CONFIG, tmp_path)
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": 1}, {"points": 0}, {"test_points": 0}, {"dim": 1}, {"seed": -1},
        {"zipf": -0.1}, {"noise": float("nan")}, {"spread": float("inf")}, {"hidden": -1.0},
        {"clusters": 0}, {"clusters": 2001}, {"labels": 2**31},
    ],
)  # fmt: skip
def test_impossible_sizes_are_rejected_by_field(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=rf"generated data: {name}="):
        AdsConfig(**wrong)
