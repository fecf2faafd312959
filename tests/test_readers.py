"""Claims about the forms that are read, and about what is wrong in them."""

import base64
import gzip
import json
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
from raw_folders import (
    picture,
    tiny_repository,
    write_json_lines,
    write_matrix,
    write_pairs,
    write_repository,
    write_vectors,
)

from mufin_jax.data import readers
from mufin_jax.data.images import BadImage
from mufin_jax.data.overlap import overlap_filter
from mufin_jax.data.readers import matrices
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.jsonlines import is_test
from mufin_jax.data.readers.objects import read_lists
from mufin_jax.data.readers.repository import ImageBin
from mufin_jax.data.tally import Tally
from mufin_jax.errors import InputError, TooManyBadRows


def read(folder, max_bad=0.05, max_images=15):
    tally = Tally(max_bad)
    return readers.read(folder, tally, max_images, 10_000_000), tally


TITLES = {
    "train": [("A,B", "a -> b"), ("C", ""), ("D", "d")],
    "test": [("E", "e"), ("F", "f")],
    "label": [("A,B", "x"), ("G", "y"), ("E", "z"), ("D", "w")],
}
RELEVANCE = {"train": [[3, 1], [], [0, 2]], "test": [[2, 3], [0]]}


def test_the_repository_form_is_read_as_it_stands(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    catalogue, _ = read(folder)
    assert catalogue.form == "repository"
    assert catalogue.sides["train"].ids == ["A,B", "C", "D"]
    assert catalogue.sides["train"].titles == ["a -> b", "", "d"]
    np.testing.assert_array_equal(
        catalogue.relevance["train"].toarray(), [[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0]]
    )
    assert catalogue.filters is None


def test_latin_1_titles_are_read_as_such(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    (folder / "raw_data" / "test.raw.txt").write_bytes(b"E->caf\xe9\r\nF->caf\xc3\xa9\n")
    assert read(folder)[0].sides["test"].titles == ["café", "café"]


def test_image_offsets_lose_their_one_and_keep_their_order(tmp_path):
    images = {"train": [[5, 3], [], [3]], "test": [[], []], "label": [[], [5], [], []]}
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE, images, order=[5, 3])
    catalogue, _ = read(folder)
    train = catalogue.sides["train"]
    read_back = [catalogue.images.read(int(key)) for key in train.image_keys]
    assert read_back == [picture(5), picture(3), picture(3)]
    np.testing.assert_array_equal(train.image_offsets, [0, 2, 2, 3])
    assert catalogue.sides["label"].image_keys.tolist() == [0]


def test_only_the_first_images_are_kept(tmp_path):
    images = {"train": [[5, 3, 4], [], [3]], "test": [[], []], "label": [[], [], [], []]}
    catalogue, tally = read(write_repository(tmp_path / "raw", TITLES, RELEVANCE, images), 0.05, 2)
    np.testing.assert_array_equal(catalogue.sides["train"].image_offsets, [0, 2, 2, 3])
    assert tally.counts == {"more images than max_images": 1}


def test_one_filter_file_leaves_the_other_side_unfiltered(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    write_pairs(folder / "filter_labels_test.txt", [(0, 2), (0, 2), (1, 3)])
    choice, filters = overlap_filter(read(folder)[0], "given")
    assert choice == "given" and filters["train"].nnz == 0
    np.testing.assert_array_equal(filters["test"].toarray(), [[0, 0, 1, 0], [0, 0, 0, 1]])


def test_self_filters_the_same_id_and_reciprocal_also_reversed_pairs(tmp_path):
    # Training has (D, E) and (A,B -> D); testing asks for (E, E) and (E, D).
    catalogue, _ = read(write_repository(tmp_path / "raw", TITLES, RELEVANCE))
    _, own = overlap_filter(catalogue, "self")
    np.testing.assert_array_equal(own["train"].toarray(), [[1, 0, 0, 0], [0] * 4, [0, 0, 0, 1]])
    np.testing.assert_array_equal(own["test"].toarray(), [[0, 0, 1, 0], [0] * 4])
    for choice in ("reciprocal", "given"):
        effective, both = overlap_filter(catalogue, choice)
        assert effective == "reciprocal"
        np.testing.assert_array_equal(both["test"].toarray(), [[0, 0, 1, 1], [0] * 4])
        assert (both["train"] != own["train"]).nnz == 0


def test_urls_are_counted_and_the_report_says_what_to_do(tmp_path):
    folder = write_repository(tmp_path / "raw", TITLES, RELEVANCE)
    (folder / "img.urls.txt").write_text("C\thttp://x/1.jpg\nD\thttp://x/2.jpg\n")
    _, tally = read(folder)
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
    "empty matrix": (edit("trn_X_Y.txt", lambda _: ""), "trn_X_Y.txt:1: wanted a header"),
    "no header": (replace_line("trn_X_Y.txt", 1, "0:1.0"), "trn_X_Y.txt:1: wanted a header"),
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
    "empty titles": (edit("raw_data/test.raw.txt", lambda _: ""), "test.raw.txt is empty"),
    "no archive": (
        lambda f: (f / "images/test.img.bin.npz").write_bytes(b"PK"),
        "not a CSR matrix",
    ),
    "offsets of other items": (save_offsets(lambda m: m[:39]), "39 rows, but there are 40 items"),
    "NaN among the offsets": (save_offsets(nan), "NaN"),
    "other categories": (lambda f: (f / "categories.txt").write_text("a\n"), "has 1 lines"),
}


@pytest.mark.parametrize("name", FATAL)
def test_a_repository_folder_that_does_not_fit_together_is_one_clear_error(name, tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    damage, message = FATAL[name]
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_an_archive_that_would_unfold_to_gigabytes_is_refused(tmp_path, monkeypatch):
    folder = tiny_repository(tmp_path / "raw")
    monkeypatch.setattr(matrices, "_FREE", 2**20)
    zeros = np.zeros(2**22, np.uint8)
    np.savez_compressed(folder / "images" / "train.img.bin.npz", data=zeros)
    with pytest.raises(InputError, match="would unpack to 4,194"):
        read(folder)


def test_a_few_bad_lines_are_listed_by_file_and_row_and_leave_the_other_rows_in_place(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    replace_line("raw_data/train.raw.txt", 3, "no arrow")(folder)
    replace_line("raw_data/test.raw.txt", 5, "B1->again")(folder)
    replace_line("trn_X_Y.txt", 7, "2:1.0 99:1.0")(folder)
    replace_line("tst_X_Y.txt", 8, "3:x")(folder)
    catalogue, tally = read(folder)
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
    assert catalogue.relevance["train"][39].indices.tolist() == [19]
    assert catalogue.relevance["test"][6].nnz == 0


def test_too_many_bad_lines_stop_with_the_worst_kind_and_its_first_row(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    for row in (4, 5, 6, 7, 8, 9):
        replace_line("raw_data/label.raw.txt", row, "no arrow")(folder)
    with pytest.raises(TooManyBadRows, match=r"6 of 100 lines.*bad line.*label.raw.txt:4"):
        read(folder)
    assert read(folder, max_bad=0.06)[0].sides["label"].kept.sum() == 14


PRODUCTS = [
    {"ASIN": f"P{i}", "title": f"t{i}", "images": [f"images/{i}.jpg"], "also_buy": [f"P{i + 1}"]}
    for i in range(40)
]


def test_products_without_a_split_are_split_by_their_hash(tmp_path):
    catalogue, tally = read(write_json_lines(tmp_path / "raw", products=PRODUCTS))
    train, test, label = (catalogue.sides[name] for name in ("train", "test", "label"))
    assert all(is_test(uid) for uid in test.ids) and not any(is_test(uid) for uid in train.ids)
    # P39's only partner is no product; labels are those that follow a training point.
    assert label.ids == [f"P{i + 1}" for i in range(39) if not is_test(f"P{i}")]
    assert set(test.ids) == {f"P{i}" for i in range(39) if is_test(f"P{i}")} & {
        f"P{int(uid[1:]) - 1}" for uid in label.ids
    }
    for name in ("train", "test"):
        rows = catalogue.relevance[name]
        for i, uid in enumerate(catalogue.sides[name].ids):
            assert [label.ids[j] for j in rows[i].indices] == [f"P{int(uid[1:]) + 1}"]
    assert tally.counts.keys() <= {"unknown label"}


def test_files_by_side_win_over_products(tmp_path):
    folder = write_json_lines(
        tmp_path / "raw",
        products=PRODUCTS,
        trn=[{"ASIN": "A", "title": "a", "also_buy": ["Y", "X"]}, {"ASIN": "X", "also_buy": []}],
        tst=[{"asin": "B", "title": "b", "also_buy": ["Y", "unheard of"]}],
        lbl=[{"ASIN": "X", "category": "c"}, {"ASIN": "Y", "title": "y", "category": "d"}],
    )
    catalogue, tally = read(folder)
    np.testing.assert_array_equal(catalogue.relevance["train"].toarray(), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(catalogue.relevance["test"].toarray(), [[0, 1]])
    assert catalogue.sides["label"].categories == ["c", "d"]
    assert tally.counts == {"unknown label": 1}


def test_a_matrix_beside_the_json_is_the_relevance(tmp_path):
    sides = {"trn": [{"ASIN": "A", "also_buy": ["X"]}], "tst": [{"ASIN": "B"}]}
    folder = write_json_lines(tmp_path / "raw", **sides, lbl=[{"ASIN": "X"}, {"ASIN": "Y"}])
    write_matrix(folder / "trn_X_Y.txt", [[1]], 2)
    write_matrix(folder / "tst_X_Y.txt", [[0, 1]], 2)
    catalogue, _ = read(folder)
    assert catalogue.relevance["train"].indices.tolist() == [1]
    assert catalogue.relevance["test"].indices.tolist() == [0, 1]


def test_lf_amazontitles_is_read_from_its_archives(tmp_path):
    content = {
        "trn": [{"uid": "A", "title": "a", "content": "", "target_ind": [1], "target_rel": [1.0]}],
        "tst": [{"uid": 7, "title": "b", "target_ind": [0, 1], "target_rel": [1.0, 0.0]}],
        "lbl": [{"uid": "X", "title": "x"}, {"uid": "Y", "title": "y"}],
    }
    for name, items in content.items():
        with gzip.open(tmp_path / f"{name}.json.gz", "wt") as file:
            file.writelines(json.dumps(item) + "\n" for item in items)
    catalogue, _ = read(tmp_path)
    assert catalogue.sides["test"].ids == ["7"]
    assert catalogue.relevance["train"].indices.tolist() == [1]
    assert catalogue.relevance["test"].indices.tolist() == [0]


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"ASIN": "A", "title": "cut', "Unterminated"),
        ('["A"]', "wanted a JSON object"),
        ('{"title": "no id"}', "wanted a non-empty `ASIN`"),
        ('{"ASIN": "A", "title": 7}', "`title` is no string"),
        ('{"ASIN": "A", "images": "a.jpg"}', "`images` is no list"),
        ('{"ASIN": "A", "also_buy": [NaN]}', "NaN is not JSON"),
        ('{"ASIN": "A", "ASIN": "B"}', "a key stands twice"),
        ('{"ASIN": ' + "9" * 5000 + "}", "limit"),
        ("[" * 100_000, "recursion"),
        ("", "wanted a JSON object|Expecting value"),
    ],
)
def test_a_broken_line_of_json_is_named_by_row_and_reason(line, reason, tmp_path):
    folder = write_json_lines(tmp_path, products=PRODUCTS)
    lines = (folder / "products.jsonl").read_text().splitlines()
    (folder / "products.jsonl").write_text("\n".join([*lines[:9], line, *lines[9:]]) + "\n")
    _, tally = read(folder)
    (entry,) = [entry for entry in tally.listed if entry["kind"] == "bad line"]
    assert (entry["file"], entry["row"]) == ("products.jsonl", 10)
    assert re.search(reason, entry["reason"])


def test_a_damaged_archive_is_one_clear_error(tmp_path):
    write_json_lines(tmp_path, trn=PRODUCTS, tst=PRODUCTS)
    (tmp_path / "lbl.json.gz").write_bytes(gzip.compress(b'{"ASIN": "A"}\n' * 99)[:-12])
    with pytest.raises(InputError, match=r"lbl.json.gz cannot be read"):
        read(tmp_path)


HOSTILE = [
    *("../secret.jpg", "images/../../secret.jpg", "/etc/passwd", "~/secret.jpg", "~root/x"),
    *("images\\..\\..\\secret.jpg", "\\\\host\\share\\x.jpg", "images/\0.jpg", "images/out.jpg"),
    *("images/outdir/secret.jpg", "images", ".", "x" * 5000, "images/fifo", "/dev/zero", ""),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_path_in_the_data_leads_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "raw"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (folder / "images" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (folder / "images" / "outdir").symlink_to(tmp_path)
    os.mkfifo(folder / "images" / "fifo")
    with pytest.raises(BadImage):
        SourceFolder(folder).image(name)


def test_a_link_within_the_folder_is_followed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(picture(1))
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    assert SourceFolder(tmp_path).image("b.jpg").read_bytes() == picture(1)


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


VECTORS = {side: np.arange(12, dtype=np.float16).reshape(4, 3) for side in TITLES}
MAPS = {"train": [[2, 0], -1, [3]], "test": [[1], [0]], "label": [-1, [0], [1, 2], [3]]}


def test_image_vectors_are_counted_through_all_files(tmp_path):
    catalogue, _ = read(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS))
    assert catalogue.form == "image vectors" and len(catalogue.vectors) == 3
    assert catalogue.sides["train"].image_keys.tolist() == [2, 0, 3]
    np.testing.assert_array_equal(catalogue.sides["train"].image_offsets, [0, 2, 2, 3])
    assert catalogue.sides["label"].image_keys.tolist() == [8, 9, 10, 11]


def test_titles_without_ids_get_ids_of_their_own(tmp_path):
    folder = write_vectors(tmp_path / "raw", TITLES, RELEVANCE, VECTORS, MAPS)
    (folder / "tst.raw.txt").write_text("first\nsecond\n")
    side = read(folder)[0].sides["test"]
    assert side.titles == ["first", "second"] and len(set(side.ids)) == 2


def test_a_vector_that_is_not_finite_is_named_by_file_and_row(tmp_path):
    vectors = VECTORS | {"test": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}
    with pytest.raises(InputError, match=r"tst_embs_imgs_3_3.npy: row 1 holds NaN"):
        read(write_vectors(tmp_path / "raw", TITLES, RELEVANCE, vectors, MAPS))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_object_arrays_are_read_without_unpickling(protocol, tmp_path, monkeypatch):
    entries = np.empty(5, object)
    entries[:] = [[1, 2], -1, np.array([3, 300_000]), np.int64(4), []]
    entries[4] = [np.int32(7), 2**40]
    with (tmp_path / "map.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": (5,)}
        np.lib.format.write_array_header_1_0(file, header)
        pickle.dump(entries, file, protocol=protocol)
    monkeypatch.setattr(pickle, "load", None)
    wanted = [[1, 2], [], [3, 300_000], [4], [7, 2**40]]
    assert read_lists(tmp_path / "map.npy") == wanted


def test_a_hostile_object_array_is_refused_and_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "canary"), "w"))

    entries = np.empty(2, object)
    entries[:] = [[1], Hostile()]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    with pytest.raises(InputError, match="no array of lists of integers"):
        read_lists(tmp_path / "map.npy")
    assert not (tmp_path / "canary").exists()


def test_damaged_object_arrays_raise_input_error_only(tmp_path):
    entries = np.empty(3, object)
    entries[:] = [[1, 2], -1, np.array([3])]
    np.save(tmp_path / "map.npy", entries, allow_pickle=True)
    whole = (tmp_path / "map.npy").read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        data = bytearray(whole)
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "map.npy").write_bytes(data[: rng.integers(len(data))] if trial % 2 else data)
        try:
            read_lists(tmp_path / "map.npy")
        except InputError:
            pass


def test_an_unknown_folder_says_what_was_found_and_what_is_read(tmp_path):
    (tmp_path / "holiday.mp4").touch()
    with pytest.raises(InputError, match=r"holds holiday.mp4: wanted raw_data.*products.jsonl"):
        read(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read(tmp_path / "absent")


def test_readers_do_not_import_jax():
    code = "import sys, mufin_jax.data.prepare, mufin_jax.data.dataset; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_real_products_are_split_as_their_makers_split_them(shared_data, tmp_path):
    source = shared_data("ikea") / "converted"
    (tmp_path / "products.jsonl").write_bytes((source / "products.jsonl").read_bytes())
    by_hash, (given, _) = read(tmp_path)[0], read(source)
    for name in ("train", "test", "label"):
        assert by_hash.sides[name].ids == given.sides[name].ids
    for name in ("train", "test"):
        assert (by_hash.relevance[name] != given.relevance[name]).nnz == 0


def test_real_reciprocal_pairs_are_those_their_makers_counted(shared_data):
    source = shared_data("ikea") / "converted"
    catalogue, _ = read(source)
    _, own = overlap_filter(catalogue, "self")
    _, both = overlap_filter(catalogue, "reciprocal")
    given = overlap_filter(catalogue, "given")[1]
    for name in ("train", "test"):
        assert (own[name] != given[name]).nnz == 0
    reversed_pairs = (both["test"] - own["test"]).tocoo()
    found = {(int(i), int(j)) for i, j, v in zip(*scipy.sparse.find(reversed_pairs), strict=True)}
    wanted = np.loadtxt(source / "tst_reciprocal_pairs.txt", dtype=int)
    assert len(found) == 8124 and found == set(map(tuple, wanted.tolist()))
