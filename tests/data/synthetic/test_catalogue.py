"""The miniature catalogue on disk: its form and its statistics."""

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_matrix, load_npz

from mufin_jax.data.synthetic import catalogue, draw
from mufin_jax.data.synthetic import titles as titles_module
from mufin_jax.data.synthetic.catalogue import MiniatureConfig, write_miniature
from mufin_jax.data.synthetic.catalogue_world import COMPANION_ODDS
from mufin_jax.runtime.errors import DiskError, InputError

SMALL = MiniatureConfig(points=70, test_points=30, labels=110, picture=16)
CHROMA = np.array(draw.COLOURS, float) - np.min(draw.COLOURS, axis=1, keepdims=True)
CHROMA /= np.linalg.norm(CHROMA, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """The catalogue of the default configuration."""
    folder = tmp_path_factory.mktemp("miniature") / "catalogue"
    write_miniature(MiniatureConfig(), folder)
    return folder


@pytest.fixture(scope="module")
def truth(out) -> dict[str, np.ndarray]:
    with np.load(out / "truth.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def train(out) -> csr_matrix:
    return read_relevance(out / "trn_X_Y.txt")


@pytest.fixture(scope="module")
def test(out) -> csr_matrix:
    return read_relevance(out / "tst_X_Y.txt")


def read_relevance(path: Path) -> csr_matrix:
    header, *lines = path.read_text().split("\n")[:-1]
    rows, columns = map(int, header.split())
    assert len(lines) == rows
    ends, labels = [0], []
    for line in lines:
        labels += [int(pair.removesuffix(":1")) for pair in line.split()]
        ends.append(len(labels))
    return csr_matrix((np.ones(len(labels)), labels, ends), shape=(rows, columns))


def read_raw(out: Path, split: str) -> tuple[list[str], list[str]]:
    lines = (out / "raw_data" / f"{split}.raw.txt").read_text(encoding="utf-8").splitlines()
    uids, titles = zip(*(line.split("->", 1) for line in lines), strict=True)
    return list(uids), list(titles)


def read_picture(out: Path, place: int) -> tuple[str, Image.Image]:
    with (out / "images" / "img.bin").open("rb") as file:
        file.seek(place - 1)
        uid, code = file.readline().rstrip(b"\n").split(b"\t")
    return uid.decode(), Image.open(io.BytesIO(base64.b64decode(code, validate=True)))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- the form on disk


@pytest.mark.parametrize("pictures", ["drawn", "vectors"])
def test_the_same_configuration_gives_the_same_bytes(tmp_path, pictures):
    config = MiniatureConfig(points=70, test_points=30, labels=110, picture=16, pictures=pictures)
    write_miniature(config, tmp_path / "a")
    write_miniature(config, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_another_seed_gives_another_catalogue(tmp_path):
    write_miniature(SMALL, tmp_path / "a")
    other = MiniatureConfig(seed=1, points=70, test_points=30, labels=110, picture=16)
    write_miniature(other, tmp_path / "b")
    one, two = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert one.keys() == two.keys()
    changed = {name for name in one if one[name] != two[name]}
    assert {"trn_X_Y.txt", "raw_data/label.raw.txt", "images/img.bin"} <= changed


@pytest.mark.parametrize("split", ["train", "test", "label"])
def test_every_offset_of_the_matrix_gives_a_picture_of_its_own_product(out, truth, split):
    uids, _ = read_raw(out, split)
    places = load_npz(out / "images" / f"{split}.img.bin.npz")
    assert places.shape == (len(uids), places.nnz)
    scenes = truth[f"{split}_companion"] >= 0
    np.testing.assert_array_equal(np.diff(places.indptr), truth[f"{split}_pictures"] + scenes)
    assert (np.diff(places.data) < 0).any(), "img.bin keeps the order of the products"
    for row in range(0, len(uids), 17):
        for place in places[row].data:
            uid, picture = read_picture(out, int(place))
            assert uid == uids[row]
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (64, 64), "RGB")


def test_pictures_show_the_hues_of_product_and_companion(out, truth):
    def hue(pixels):
        # A paler colour is the same colour plus grey, which is subtracted.
        vivid = pixels[np.ptp(pixels, axis=2) > 60].mean(0)
        return (CHROMA @ (vivid - vivid.min())).argmax()

    places = load_npz(out / "images" / "test.img.bin.npz")
    right = []
    for row in range(0, places.shape[0], 3):
        companion, alone = truth["test_companion"][row], truth["test_pictures"][row]
        pictures = [read_picture(out, int(place))[1] for place in places[row].data]
        for n, picture in enumerate(pictures):
            pixels = np.asarray(picture, float)
            if n < alone:
                right.append(hue(pixels) == truth["test_hue"][row])
            else:  # the upper rows show only the companion
                right.append(hue(pixels[:22]) == truth["label_hue"][companion])
    assert len(right) > 300 and np.mean(right) > 0.97


def test_uids_are_unique_within_a_split_and_some_join_two_asins(out):
    for split in ("train", "test", "label"):
        uids, _ = read_raw(out, split)
        asins = [asin for uid in uids for asin in uid.split(",")]
        assert len(set(asins)) == len(asins) > len(uids)


def test_the_filter_contains_exactly_the_datapoints_that_are_labels(out, train, test):
    labels, titles = read_raw(out, "label")
    for split, relevance in (("train", train), ("test", test)):
        uids, own_titles = read_raw(out, split)
        pairs = np.loadtxt(out / f"filter_labels_{split}.txt", dtype=int)
        expected = [(row, labels.index(uid)) for row, uid in enumerate(uids) if uid in labels]
        assert pairs.tolist() == [list(pair) for pair in expected]
        assert 0.12 <= len(pairs) / len(uids) <= 0.18
        assert relevance[pairs[:, 0], pairs[:, 1]].sum() == 0
        assert all(own_titles[row] == titles[label] for row, label in pairs)


def test_a_datapoint_that_is_a_label_has_the_pictures_of_the_label(out):
    places = {name: load_npz(out / "images" / f"{name}.img.bin.npz") for name in ("train", "label")}
    pairs = np.loadtxt(out / "filter_labels_train.txt", dtype=int)
    assert len(pairs) > 100
    for row, label in pairs:
        assert places["train"][row].data.tolist() == places["label"][label].data.tolist()


def test_an_interrupted_attempt_is_overwritten(tmp_path):
    write_miniature(SMALL, tmp_path / "a")
    whole = contents(tmp_path / "a")
    (tmp_path / "a" / "ceiling.json").unlink()
    (tmp_path / "a" / "images" / "img.bin").write_bytes(b"half a li")
    write_miniature(SMALL, tmp_path / "a")
    assert contents(tmp_path / "a") == whole


def test_a_failed_attempt_leaves_no_ceiling(tmp_path, monkeypatch):
    write_miniature(SMALL, tmp_path)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(catalogue, "write_images", full_disk)
    with pytest.raises(DiskError, match="No space left"):
        write_miniature(SMALL, tmp_path)
    assert not (tmp_path / "ceiling.json").exists()


@pytest.mark.parametrize("name", ["miniature.json", "somebody_elses.txt"])
def test_a_folder_with_other_files_is_rejected_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match="holds"):
        write_miniature(SMALL, tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize(
    "wrong",
    [
        dict(labels=0),
        dict(points=-1),
        dict(seed=-1),
        dict(picture=3),
        dict(noise=1.5),
        dict(overlap=2.0),
        dict(labels=10_000_000),
        dict(hue_word=float("nan")),
        dict(no_text=0.7, no_pictures=0.7),
    ],
)
def test_an_impossible_configuration_is_rejected_by_field(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        MiniatureConfig(**wrong)


def test_pictures_must_be_drawn_or_vectors():
    config = MiniatureConfig()
    object.__setattr__(config, "pictures", "painted")  # beartype checks only the constructor
    with pytest.raises(InputError, match="'painted'"):
        config.__post_init__()


def test_the_command_line_writes_the_requested_catalogue(tmp_path, monkeypatch, capsys):
    arguments = "--seed=3 --points=40 --test-points=20 --labels=50 --picture=16".split()
    monkeypatch.setattr(sys, "argv", ["miniature", str(tmp_path / "out"), *arguments])
    catalogue.main()
    assert (tmp_path / "out" / "trn_X_Y.txt").read_text().startswith("40 50\n")
    monkeypatch.setattr(sys, "argv", ["miniature", str(tmp_path / "out"), "--seed=4"])
    with pytest.raises(SystemExit) as ended:
        catalogue.main()
    assert ended.value.code == InputError.exit_code
    assert "another configuration" in capsys.readouterr().err


# ---- statistics


def test_every_product_has_text_or_pictures_and_some_lack_one(out, truth):
    for split in ("train", "test", "label"):
        text = np.array([bool(title) for title in read_raw(out, split)[1]])
        np.testing.assert_array_equal(text, truth[f"{split}_has_text"])
        pictures = truth[f"{split}_pictures"] > 0
        assert (text | pictures).all()
        assert 0.04 <= 1 - text.mean() <= 0.12
        assert 0.03 <= 1 - pictures.mean() <= 0.09


def test_label_frequencies_have_a_long_tail_and_no_row_or_column_is_empty(train, test):
    frequency = train.getnnz(0)
    assert frequency.min() >= 1 and train.getnnz(1).min() >= 1 and test.getnnz(1).min() >= 1
    assert 6 <= train.nnz / train.shape[0] <= 9 and 6 <= test.nnz / test.shape[0] <= 9
    assert np.median(frequency) < frequency.max() / 4
    assert 5 <= (frequency <= 3).sum() <= 60


def test_there_are_twenty_categories_with_a_dozen_labels_a_style(out, truth):
    categories = (out / "categories.txt").read_text().splitlines()
    assert [titles_module.CATEGORIES[theme] for theme in truth["label_theme"]] == categories
    groups = np.bincount(truth["label_theme"] * 4 + truth["label_hue"] // 2)
    assert len(set(categories)) == 20 and set(groups) == {12, 13}


def test_pictures_are_about_two_a_product_and_scenes_a_third(out, truth):
    lines = (out / "images" / "img.bin").read_bytes().count(b"\n")
    products = 1000 + (truth["train_label"] < 0).sum() + (truth["test_label"] < 0).sum()
    assert 1.9 <= lines / products <= 2.1
    assert 0.3 <= (truth["train_companion"] >= 0).mean() <= 0.36


def test_the_companion_of_a_scene_is_the_likeliest_label(truth, test):
    rows = np.flatnonzero(truth["test_companion"] >= 0)
    twins = truth["test_companion"][rows]
    keep = truth["test_label"][rows] != twins
    wanted = np.asarray(test[rows[keep], twins[keep]]).mean()
    assert abs(wanted - COMPANION_ODDS) < 0.06
    style = truth["label_hue"] // 2
    assert (style[twins] != truth["test_hue"][rows] // 2).mean() > 0.7


# ---- ready vectors


def test_vectors_belong_to_their_items_and_show_kind_and_hue(tmp_path):
    write_miniature(MiniatureConfig(pictures="vectors"), tmp_path)
    assert not (tmp_path / "images").exists()
    with np.load(tmp_path / "truth.npz", allow_pickle=False) as arrays:
        truth = dict(arrays)
    first = {}
    for split, short in (("train", "trn"), ("test", "tst"), ("label", "lbl")):
        vectors = np.load(tmp_path / f"{short}_embs_imgs_64.npy", allow_pickle=False)
        rows = np.load(tmp_path / f"{short}_imgs_64_map.npy", allow_pickle=False)
        assert vectors.dtype == np.float32 and rows.dtype == np.int64
        counts = truth[f"{split}_pictures"] + (truth[f"{split}_companion"] >= 0)
        np.testing.assert_array_equal((rows >= 0).sum(1), counts)
        assert sorted(rows[rows >= 0]) == list(range(len(vectors)))
        first[split] = np.where(rows[:, :1] >= 0, vectors[rows[:, 0]], np.nan)
    own = np.flatnonzero(truth["train_label"] >= 0)
    np.testing.assert_array_equal(first["train"][own], first["label"][truth["train_label"][own]])

    known, asked = (np.flatnonzero(~np.isnan(first[s][:, 0])) for s in ("label", "test"))
    asked = asked[truth["test_label"][asked] < 0]
    nearest = known[(first["test"][asked] @ first["label"][known].T).argmax(1)]
    for name, chance in (("kind", 0.1), ("hue", 0.125)):
        right = (truth[f"test_{name}"][asked] == truth[f"label_{name}"][nearest]).mean()
        assert right > 0.8 > 6 * chance
