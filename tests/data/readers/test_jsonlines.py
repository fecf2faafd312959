"""Catalogues as JSON lines."""

import gzip
import json
import re

import numpy as np
import pytest
from raw_folders import read_catalogue, write_json_lines, write_matrix

from mufin_jax.data.readers.hash_split import is_test
from mufin_jax.runtime.errors import InputError

PRODUCTS = [
    {"ASIN": f"P{i}", "title": f"t{i}", "images": [f"images/{i}.jpg"], "also_buy": [f"P{i + 1}"]}
    for i in range(40)
]


def test_products_without_a_split_are_split_by_hash(tmp_path):
    catalogue, tally = read_catalogue(write_json_lines(tmp_path / "raw", products=PRODUCTS))
    train, test, label = (catalogue.sides[name] for name in ("train", "test", "label"))
    assert all(is_test(uid) for uid in test.ids) and not any(is_test(uid) for uid in train.ids)
    # P39's only partner is not a product; a label is what a training point's also_buy names.
    assert label.ids == [f"P{i + 1}" for i in range(39) if not is_test(f"P{i}")]
    assert set(test.ids) == {f"P{i}" for i in range(39) if is_test(f"P{i}")} & {
        f"P{int(uid[1:]) - 1}" for uid in label.ids
    }
    for name in ("train", "test"):
        rows = catalogue.relevance[name]
        for i, uid in enumerate(catalogue.sides[name].ids):
            assert [label.ids[j] for j in rows[i].indices] == [f"P{int(uid[1:]) + 1}"]
    # P39 relates to nothing, and the six test products to what no training product is bought with.
    assert tally.counts == {"product without a match": 1, "test product without a label": 6}


def test_files_by_side_take_precedence_over_products(tmp_path):
    folder = write_json_lines(
        tmp_path / "raw",
        products=PRODUCTS,
        trn=[{"ASIN": "A", "title": "a", "also_buy": ["Y", "X"]}, {"ASIN": "X", "also_buy": []}],
        tst=[{"asin": "B", "title": "b", "also_buy": ["Y", "unheard of"]}],
        lbl=[{"ASIN": "X", "category": "c"}, {"ASIN": "Y", "title": "y", "category": "d"}],
    )
    catalogue, tally = read_catalogue(folder)
    np.testing.assert_array_equal(catalogue.relevance["train"].toarray(), [[1, 1], [0, 0]])
    np.testing.assert_array_equal(catalogue.relevance["test"].toarray(), [[0, 1]])
    assert catalogue.sides["label"].categories == ["c", "d"]
    assert tally.counts == {"unknown label": 1}


def test_a_matrix_next_to_the_json_files_is_the_relevance(tmp_path):
    sides = {"trn": [{"ASIN": "A", "also_buy": ["X"]}], "tst": [{"ASIN": "B"}]}
    folder = write_json_lines(tmp_path / "raw", **sides, lbl=[{"ASIN": "X"}, {"ASIN": "Y"}])
    write_matrix(folder / "trn_X_Y.txt", [[1]], 2)
    write_matrix(folder / "tst_X_Y.txt", [[0, 1]], 2)
    catalogue, _ = read_catalogue(folder)
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
    catalogue, _ = read_catalogue(tmp_path)
    assert catalogue.sides["test"].ids == ["7"]
    assert catalogue.relevance["train"].indices.tolist() == [1]
    assert catalogue.relevance["test"].indices.tolist() == [0]


@pytest.mark.parametrize(
    "line, reason",
    [
        ('{"ASIN": "A", "title": "cut', "Unterminated"),
        ('["A"]', "expected a JSON object"),
        ('{"title": "no id"}', "expected a non-empty `ASIN`"),
        ('{"ASIN": "A", "title": 7}', "expected `title` to be a string"),
        ('{"ASIN": "A", "images": "a.jpg"}', "expected `images` to be a list"),
        ('{"ASIN": "A", "also_buy": [NaN]}', "NaN is not JSON"),
        ('{"ASIN": "A", "ASIN": "B"}', "a key occurs twice"),
        ('{"ASIN": ' + "9" * 5000 + "}", "limit"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_an_invalid_json_line_is_reported_with_row_and_reason(line, reason, tmp_path):
    folder = write_json_lines(tmp_path, products=PRODUCTS)
    lines = (folder / "products.jsonl").read_text().splitlines()
    (folder / "products.jsonl").write_text("\n".join([*lines[:9], line, *lines[9:]]) + "\n")
    _, tally = read_catalogue(folder)
    (entry,) = [entry for entry in tally.listed if entry["kind"] == "bad line"]
    assert (entry["file"], entry["row"]) == ("products.jsonl", 10)
    assert re.search(reason, entry["reason"])


def test_a_damaged_archive_is_one_clear_error(tmp_path):
    write_json_lines(tmp_path, trn=PRODUCTS, tst=PRODUCTS)
    (tmp_path / "lbl.json.gz").write_bytes(gzip.compress(b'{"ASIN": "A"}\n' * 99)[:-12])
    with pytest.raises(InputError, match=r"lbl.json.gz cannot be read"):
        read_catalogue(tmp_path)


def test_real_products_are_split_as_in_their_published_split(shared_data, tmp_path):
    source = shared_data("ikea") / "converted"
    (tmp_path / "products.jsonl").write_bytes((source / "products.jsonl").read_bytes())
    by_hash, (given, _) = read_catalogue(tmp_path)[0], read_catalogue(source)
    for name in ("train", "test", "label"):
        assert by_hash.sides[name].ids == given.sides[name].ids
    for name in ("train", "test"):
        np.testing.assert_array_equal(
            by_hash.relevance[name].toarray(), given.relevance[name].toarray()
        )
