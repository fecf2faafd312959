"""The format of the Extreme Classification Repository, valid and damaged."""

import base64

import numpy as np
import pytest
import scipy.sparse
from raw_folders import (
    RELEVANCE,
    TITLES,
    picture,
    read_catalogue,
    tiny_repository,
    write_repository,
)

from mufin_jax.data.images import BadImage
from mufin_jax.data.readers.repository import ImageBin
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.storage import npy


def test_the_repository_form_is_read(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    catalogue, _ = read_catalogue(folder)
    assert catalogue.form == "repository"
    assert catalogue.sides["train"].ids == ["A,B", "C", "D"]
    assert catalogue.sides["train"].titles == ["a -> b", "", "d"]
    np.testing.assert_array_equal(
        catalogue.relevance["train"].toarray(), [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    )
    assert catalogue.filters is None


def test_latin_1_titles_are_decoded(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    (folder / "raw_data" / "test.raw.txt").write_bytes(b"E->caf\xe9\r\nF->caf\xc3\xa9\n")
    assert read_catalogue(folder)[0].sides["test"].titles == ["café", "café"]


def test_image_offsets_count_from_one_and_keep_their_order(tmp_path):
    images = {"train": [[5, 3], [], [3]], "test": [[], []], "label": [[], [5], [], []]}
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE, images, order=[5, 3])
    catalogue, _ = read_catalogue(folder)
    train = catalogue.sides["train"]
    read_back = [catalogue.images.read(int(key)) for key in train.image_keys]
    assert read_back == [picture(5), picture(3), picture(3)]
    np.testing.assert_array_equal(train.image_offsets, [0, 2, 2, 3])
    assert catalogue.sides["label"].image_keys.tolist() == [0]


def test_only_the_first_images_are_kept(tmp_path):
    images = {"train": [[5, 3, 4], [], [3]], "test": [[], []], "label": [[], [], [], []]}
    catalogue, tally = read_catalogue(
        write_repository(tmp_path / "raw", TITLES, RELEVANCE, images), 0.05, 2
    )
    np.testing.assert_array_equal(catalogue.sides["train"].image_offsets, [0, 2, 2, 3])
    assert tally.counts == {"more images than max_images": 1}


def test_image_urls_are_counted_and_the_report_tells_what_to_do(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    (folder / "img.urls.txt").write_text("C\thttp://x/1.jpg\nD\thttp://x/2.jpg\n")
    _, tally = read_catalogue(folder)
    assert tally.counts == {"image by URL": 2}
    assert "download" in tally.listed[1]["reason"] and tally.listed[1]["row"] == 2


def edit(name, change):
    def apply(folder):
        path = folder / name
        path.write_text(change(path.read_text()))

    return apply


def replace_line(name, number, line):
    def change(text):
        lines = text.splitlines()
        lines[number - 1] = line
        return "\n".join(lines) + "\n"

    return edit(name, change)


def save_offsets(change):
    def apply(folder):
        path = folder / "images" / "train.img.bin.npz"
        scipy.sparse.save_npz(path, change(scipy.sparse.csr_matrix(scipy.sparse.load_npz(path))))

    return apply


def nan(matrix):
    matrix.data[0] = np.nan
    return matrix


FATAL = {
    "no label file with the others": (
        lambda f: (f / "raw_data/train.raw.txt").unlink(),
        "lacks raw_data/train.raw.txt",
    ),
    "no matrix": (lambda f: (f / "tst_X_Y.txt").unlink(), "lacks tst_X_Y.txt"),
    "empty matrix": (edit("trn_X_Y.txt", lambda _: ""), "trn_X_Y.txt:1: expected a header"),
    "no header": (replace_line("trn_X_Y.txt", 1, "0:1.0"), "trn_X_Y.txt:1: expected a header"),
    "other columns": (replace_line("trn_X_Y.txt", 1, "40 21"), "40 rows and 21 columns"),
    "too few rows": (
        edit("trn_X_Y.txt", lambda text: "".join(text.splitlines(True)[:-1])),
        "trn_X_Y.txt has 39 rows",
    ),
    "too many rows": (edit("trn_X_Y.txt", lambda text: text + "0:1\n"), "trn_X_Y.txt:42: more"),
    "labels of another set": (
        edit("tst_X_Y.txt", lambda text: text.replace("\n1", "\n91")),
        "do not belong together",
    ),
    "empty titles": (
        edit("raw_data/test.raw.txt", lambda _: ""),
        "test.raw.txt is absent or empty",
    ),
    "no archive": (
        lambda f: (f / "images/test.img.bin.npz").write_bytes(b"PK"),
        "not a CSR matrix",
    ),
    "offsets of other items": (save_offsets(lambda m: m[:39]), "39 rows, but there are 40 items"),
    "NaN among the offsets": (save_offsets(nan), "NaN"),
    "other categories": (lambda f: (f / "categories.txt").write_text("a\n"), "has 1 lines"),
}


@pytest.mark.parametrize("name", FATAL)
def test_inconsistent_repository_files_are_one_clear_error(name, tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    damage, message = FATAL[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        read_catalogue(folder)
    assert "\n" not in str(error.value)


def test_an_archive_that_would_unpack_to_gigabytes_is_rejected(tmp_path, monkeypatch):
    folder = tiny_repository(tmp_path / "raw")
    monkeypatch.setattr(npy, "FREE", 2**20)
    zeros = np.zeros(2**22, np.uint8)
    np.savez_compressed(folder / "images" / "train.img.bin.npz", data=zeros)
    with pytest.raises(InputError, match="would unpack to 4,194"):
        read_catalogue(folder)


def test_bad_lines_are_reported_and_keep_the_other_rows_in_place(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    replace_line("raw_data/train.raw.txt", 3, "no arrow")(folder)
    replace_line("raw_data/test.raw.txt", 5, "B1->again")(folder)
    replace_line("trn_X_Y.txt", 7, "2:1.0 99:1.0")(folder)
    replace_line("trn_X_Y.txt", 9, "3:0.5 5:0 6:-1 4:0.0")(folder)
    replace_line("tst_X_Y.txt", 8, "3:x")(folder)
    catalogue, tally = read_catalogue(folder)
    found = {(entry["kind"], entry["file"], entry["row"]) for entry in tally.listed}
    assert found == {
        ("bad line", "raw_data/train.raw.txt", 3),
        ("repeated id", "raw_data/test.raw.txt", 5),
        ("unknown label", "trn_X_Y.txt", 7),
        ("bad line", "tst_X_Y.txt", 8),
    }
    assert np.flatnonzero(~catalogue.sides["train"].kept).tolist() == [2]
    assert np.flatnonzero(~catalogue.sides["test"].kept).tolist() == [4]
    assert catalogue.relevance["train"][5].indices.tolist() == [2]
    assert catalogue.relevance["train"][7].indices.tolist() == [3]  # others are stored as none
    assert catalogue.relevance["train"][39].indices.tolist() == [19]
    assert catalogue.relevance["test"][6].nnz == 0


def test_too_many_bad_lines_stop_with_the_most_frequent_kind_and_its_first_row(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    for row in (4, 5, 6, 7, 8, 9):
        replace_line("raw_data/label.raw.txt", row, "no arrow")(folder)
    with pytest.raises(TooManyBadRows, match=r"6 of 100 lines.*bad line.*label.raw.txt:4"):
        read_catalogue(folder)
    assert read_catalogue(folder, max_bad=0.06)[0].sides["label"].kept.sum() == 14


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"no tab\n", "no tab"),
        (b"P\tnot base64!\n", "not base64"),
        (b"P\t" + base64.b64encode(bytes(20_000)) + b"\n", "larger than 12,000 bytes"),
    ],
)
def test_a_bad_line_of_img_bin_is_a_bad_image(line, reason, tmp_path):
    (tmp_path / "img.bin").write_bytes(b"first\tAAAA\n" + line)
    images = ImageBin(tmp_path / "img.bin", "img.bin", max_bytes=12_000)
    assert images.read(0) == b"\0\0\0"
    with pytest.raises(BadImage, match=reason):
        images.read(11)
    with pytest.raises(BadImage, match="no line starts at byte 4"):
        images.read(4)
    with pytest.raises(BadImage, match="outside"):
        images.read(10**9)
