"""Relations that match nothing are counted and explained; ids may be written in several ways."""

import numpy as np
import pytest
from raw_folders import (
    SIDES,
    read_catalogue,
    tiny_repository,
    write_json_lines,
    write_matrix,
    write_pairs,
    write_vectors,
)

from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.runtime.errors import InputError

CONFIG = PrepareConfig(image_size=8, records=False, vocab_size=64, max_tokens=8)


def products(count: int = 40, **changes) -> list[dict]:
    """Return products of which each relates to the next three."""
    return [
        {"ASIN": f"P{i}", "title": f"lamp {i}",
         "also_buy": [f"P{(i + k) % count}" for k in (1, 2, 3)], **changes}
        for i in range(count)
    ]  # fmt: skip


def pairs(folder) -> tuple[int, int]:
    catalogue, _ = read_catalogue(folder)
    return catalogue.relevance["train"].nnz, catalogue.relevance["test"].nnz


def test_blanks_around_related_ids_lose_no_relation(tmp_path):
    items = products()
    expected = pairs(write_json_lines(tmp_path / "a", products=items))
    for item in items[::2]:
        item["also_buy"] = [f"{uid} " for uid in item["also_buy"]]
        item["ASIN"] = f"\ufeff {item['ASIN']}\u00a0"
    assert pairs(write_json_lines(tmp_path / "b", products=items)) == expected
    assert min(expected) > 10


def test_whole_numbers_are_ids_on_both_sides_and_nulls_are_skipped_and_counted(tmp_path):
    items = products()
    expected = pairs(write_json_lines(tmp_path / "a", products=items))
    for i, item in enumerate(items):
        item["also_buy"] = [int(uid[1:]) for uid in item["also_buy"]] + [None]
        item["ASIN"] = i if i % 2 else float(i)
    items[3]["also_buy"] += [None, " "]
    numbered = pairs(write_json_lines(tmp_path / "b", products=items))
    assert sum(numbered) > 0.7 * sum(expected)  # other ids fall into other parts
    catalogue, tally = read_catalogue(tmp_path / "b")
    assert catalogue.sides["train"].ids[0].isdigit()
    assert tally.counts["null in a list"] == 40 and "bad line" not in tally.counts


def test_numbers_of_labels_may_be_written_as_floats_and_null_pairs_are_skipped(tmp_path):
    points = [{"uid": 1, "target_ind": [1.0, None, 0], "target_rel": [1, 1, None]}]
    labels = [{"uid": "X", "title": "x"}, {"uid": "Y", "title": "y"}]
    folder = write_json_lines(tmp_path, trn=points, tst=points, lbl=labels)
    catalogue, tally = read_catalogue(folder)
    assert catalogue.relevance["train"].indices.tolist() == [1]
    assert tally.counts == {"null in a list": 2}


def test_filters_and_headers_that_numpy_saved_as_floats_are_read(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    text = (folder / "trn_X_Y.txt").read_text()
    (folder / "trn_X_Y.txt").write_text(text.replace("40 20\n", "4.0e+01 2.0e+01\n", 1))
    (folder / "filter_labels_train.txt").write_text("0.0e+00 1.0e+00\n\n2.0e+00 3.0e+00\n")
    catalogue, tally = read_catalogue(folder)
    assert catalogue.filters is not None and catalogue.filters["train"].nnz == 2
    assert not tally.counts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.update(also_buy=[uid.lower() for uid in p["also_buy"]]),
         r"none of the 120 ids in `also_buy` is the id of a product; the first, in line 1, is 'p1' "
         r"\(there is 'P1'\)"),
        (lambda p: p.update(also_buy=[f"P00{uid[1:]}x" for uid in p["also_buy"]]),
         "the first, in line 1, is 'P001x'; the first product's id is 'P0'"),
        (lambda p: p.update(alsoBought=p.pop("also_buy")),
         "none of the 40 products has ids in `also_buy`; found the fields ASIN, title, alsoBought; "
         "if the relations are in alsoBought, set --prepare.columns related=alsoBought"),
        (lambda p: p.update(also_buy=None), "none of the 40 products has ids in `also_buy`"),
    ],
)  # fmt: skip
def test_relations_that_match_nothing_are_explained(change, message, tmp_path):
    items = products()
    for item in items:
        change(item)
    with pytest.raises(InputError, match=rf"products\.jsonl: .*{message}") as error:
        prepare(CONFIG, write_json_lines(tmp_path / "raw", products=items), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_products_that_relate_to_nothing_known_are_counted_with_the_first_example(tmp_path):
    items = products()
    for item in items[10:30]:
        item["also_buy"] = ["gone", "lost"]
    _, tally = read_catalogue(write_json_lines(tmp_path, products=items))
    assert tally.counts["product without a match"] == 20
    first = next(e for e in tally.listed if e["kind"] == "product without a match")
    assert first["row"] == 11 and first["reason"].endswith("is a product: 'gone'")


def test_an_empty_test_part_is_told_in_its_own_words(tmp_path):
    few = [item | {"also_buy": ["P0", "P1"]} for item in products(2)]  # neither is a test product
    with pytest.raises(InputError, match="no product falls into the test part: of 2 products"):
        prepare(CONFIG, write_json_lines(tmp_path / "a", products=few), tmp_path / "out")
    items = products()
    for item in items:
        item["also_buy"] = item["also_buy"][:1]
    with pytest.raises(InputError, match="products of the test part has a label: nothing that"):
        prepare(CONFIG, write_json_lines(tmp_path / "b", products=items), tmp_path / "out")


def test_training_points_without_any_relation_name_the_fields_found(tmp_path):
    points = [{"uid": "A", "title": "a", "boughtWith": ["X"]}]
    folder = write_json_lines(
        tmp_path / "raw", trn=points, tst=points, lbl=[{"uid": "X", "title": "x"}]
    )
    message = r"trn\.jsonl: no item has .*found the fields uid, title, boughtWith; if the rel"
    with pytest.raises(InputError, match=message):
        read_catalogue(folder)


def test_blank_lines_and_unread_fields_cost_no_product(tmp_path):
    items = products()
    expected = pairs(write_json_lines(tmp_path / "a", products=items))
    lines = (tmp_path / "a" / "products.jsonl").read_text().splitlines()
    lines[4] = lines[4].replace(
        "{", '{"price": NaN, "size": [1e999, -Infinity], "weight": NaN, ', 1
    )
    lines[5] = lines[5].replace("{", '{"more": {"a": 1, "a": 2}, "x": 1, "x": 2, ', 1)
    lines[6] = lines[6].replace("{", '{"serial": %s, ' % ("9" * 5000), 1)
    (tmp_path / "a" / "products.jsonl").write_text("\n".join([*lines[:9], "", " ", *lines[9:]]))
    _, tally = read_catalogue(tmp_path / "a")
    assert pairs(tmp_path / "a") == expected
    assert tally.counts.keys() <= {"blank line", "test product without a label"}
    assert tally.counts["blank line"] == 2


def test_a_blank_line_amid_labels_keeps_the_place_of_the_others(tmp_path):
    points = [{"uid": "A", "title": "a", "target_ind": [2]}]
    labels = [{"uid": "X", "title": "x"}, {"uid": "Y", "title": "y"}]
    folder = write_json_lines(tmp_path, trn=points, tst=points, lbl=labels)
    text = (folder / "lbl.jsonl").read_text()
    (folder / "lbl.jsonl").write_text(text.replace("\n", "\n\n", 1))
    catalogue, _ = read_catalogue(folder)
    assert [catalogue.sides["label"].ids[i] for i in catalogue.relevance["train"].indices] == ["Y"]


@pytest.mark.parametrize("form", ["matrix", "target_ind", "filter", "vectors"])
def test_numbers_that_count_from_one_are_a_warning(form, tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    shifted = [[i // 2 + 1] for i in range(40)]
    if form == "matrix":
        write_matrix(folder / "trn_X_Y.txt", shifted, 20)
    elif form == "vectors":
        titles = {side: [(f"{side}{i}", "t") for i in range(20)] for side in SIDES}
        ones = {side: np.ones((20, 4), np.float32) for side in SIDES}
        rows = {side: [[i] for i in range(20)] for side in SIDES[:2]}
        maps = {side: [[i + 1] for i in range(20)] for side in SIDES}
        folder = write_vectors(tmp_path / "vectors", titles, rows, ones, maps)
    elif form == "filter":
        write_pairs(folder / "filter_labels_train.txt", [(i, i // 2 + 1) for i in range(40)])
    else:
        points = [
            {"uid": f"T{i}", "title": "t", "target_ind": row} for i, row in enumerate(shifted)
        ]
        labels = [{"uid": f"L{i}", "title": "t"} for i in range(20)]
        folder = write_json_lines(tmp_path / "lines", trn=points, tst=points, lbl=labels)
    _, tally = read_catalogue(folder, max_bad=0.2)
    assert "number 0 is never used, and 20 is, though the last one is 19" in tally.warnings[0]
    file = {
        "matrix": "trn_X_Y.txt",
        "target_ind": "trn.jsonl: `target_ind`",
        "filter": "filter_labels_train.txt, labels",
        "vectors": "trn_imgs_384_3_map.npy",
    }[form]
    assert tally.warnings[0].startswith(f"{file}: number 0")


def test_numbers_that_count_from_zero_are_no_warning(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    write_pairs(folder / "filter_labels_train.txt", [(i, i // 2) for i in range(2, 40)])
    assert not read_catalogue(folder)[1].warnings


def test_numbers_from_one_to_the_last_one_are_a_warning(tmp_path):
    folder = tiny_repository(tmp_path / "raw", 60)
    write_matrix(folder / "trn_X_Y.txt", [[max(1, i // 2)] for i in range(60)], 30)
    (warning,) = read_catalogue(folder)[1].warnings
    assert "number 0 is never used, and nearly all others are, up to the last one (29)" in warning
