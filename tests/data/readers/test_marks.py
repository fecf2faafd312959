"""Byte-order marks, UTF-16, blanks around ids, HTML entities: what looks right is read right."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from raw_folders import (
    read_catalogue,
    tiny_outfits,
    tiny_repository,
    write_json_lines,
    write_vectors,
)

from mufin_jax.data.readers import Catalogue, load_ceiling
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.products import product_of
from mufin_jax.data.readers.values import clean_id
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.encoders.checkpoint_files import parsed
from mufin_jax.runtime.errors import InputError

MARK = b"\xef\xbb\xbf"
SIDES = ("train", "test", "label")
COLUMNS = ("id=sku", "related=goes_with")


def by_side(folder: Path) -> Path:
    items = [{"uid": f"L{i}", "title": f"shelf {i}"} for i in range(4)]
    points = [{"uid": f"T{i}", "title": "oak", "target_ind": [0, i]} for i in range(4)]
    return write_json_lines(folder, trn=points, tst=points, lbl=items)


def repository(folder: Path) -> Path:
    tiny_repository(folder)
    (folder / "filter_labels_train.txt").write_text("0 1\n2 3\n")
    (folder / "filter_labels_test.txt").write_text("0 1\n2 3\n")
    (folder / "categories.txt").write_text("".join(f"kind {i % 3}\n" for i in range(20)))
    return folder


def vectors(folder: Path) -> Path:
    titles = {side: [(f"{side}{i}", f"chair {i}") for i in range(9)] for side in SIDES}
    ones = {side: np.ones((9, 4), np.float32) for side in SIDES}
    maps = {side: [[i] for i in range(9)] for side in SIDES}
    return write_vectors(
        folder, titles, {s: [[i] for i in range(9)] for s in SIDES[:2]}, ones, maps
    )


def outfits(folder: Path) -> Path:
    folder.mkdir()
    return tiny_outfits(folder)


def content(catalogue: Catalogue) -> list:
    """Return everything that a reader found."""
    matrices = {
        **catalogue.relevance,
        **{f"{n} filter": m for n, m in (catalogue.filters or {}).items()},
    }
    found: list = [
        (name, scipy.sparse.csr_matrix(m).toarray().tolist()) for name, m in matrices.items()
    ]
    for side in catalogue.sides.values():
        found += [side.ids, side.titles, side.kept.tolist(), side.categories, side.texts]
    judged = catalogue.questions
    return [*found, judged and (judged.answers.tolist(), judged.compatible.tolist())]


@pytest.mark.parametrize("make", [by_side, repository, vectors, outfits])
def test_a_byte_order_mark_changes_nothing_in_any_file_of_text(make, tmp_path):
    folder = make(tmp_path / "raw")
    expected = content(read_catalogue(folder)[0])
    texts = [path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".jsonl")]
    assert len(texts) >= 3
    for path in texts:
        path.write_bytes(MARK + path.read_bytes())
    catalogue, tally = read_catalogue(folder)
    assert content(catalogue) == expected and not tally.counts


def test_files_with_marks_that_were_joined_lose_no_row(tmp_path):
    items = [{"ASIN": f"A{i}", "title": "t", "also_buy": [f"A{(i + 1) % 40}"]} for i in range(40)]
    folder = write_json_lines(tmp_path, products=items)
    expected = content(read_catalogue(folder)[0])
    rows = (folder / "products.jsonl").read_bytes().splitlines(True)
    (folder / "products.jsonl").write_bytes(MARK + b"".join(rows[:20]) + MARK + b"".join(rows[20:]))
    assert content(read_catalogue(folder)[0]) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_named_with_the_command_that_converts_it(encoding, tmp_path):
    folder = by_side(tmp_path / "raw")
    text = (folder / "lbl.jsonl").read_text()
    (folder / "lbl.jsonl").write_bytes(text.encode(encoding))
    name = encoding[:6].upper()
    with pytest.raises(
        InputError, match=rf"lbl\.jsonl is {name}: expected UTF-8; .*iconv -f {name}"
    ):
        read_catalogue(folder)


def test_a_mark_is_dropped_from_ceilings_vocabularies_and_settings_of_checkpoints(tmp_path):
    (tmp_path / "ceiling.json").write_bytes(MARK + b'{"P@1": 50.0}')
    assert load_ceiling(tmp_path) == {"P@1": 50.0}
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chair"])
    (tmp_path / "vocab.txt").write_bytes(MARK + words.encode())
    (tmp_path / "tokenizer_config.json").write_bytes(MARK + b'{"do_lower_case": false}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode(["chair Chair"], 8)[0][0].tolist() == [2, 5, 1, 3, 0, 0, 0, 0]
    assert tokenizer.backend.token_to_id("[PAD]") == 0
    tokenizer.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(MARK + (tmp_path / "tokenizer.json").read_bytes())
    assert Tokenizer.load(tmp_path / "tokenizer.json").vocab_size == 6
    (tmp_path / "config.json").write_bytes(MARK + b'{"a": 1}')
    assert parsed(tmp_path / "config.json", dict) == {"a": 1}


def test_html_entities_become_characters_once_and_are_counted(tmp_path):
    folder = tiny_repository(tmp_path / "raw")
    path = folder / "raw_data" / "train.raw.txt"
    path.write_text(
        path.read_text().replace("red chair 3\n", "A &amp;amp; B &#39;x&#39; R&D &para\n")
    )
    (folder / "categories.txt").write_text("home &amp; kitchen\n" * 20)
    catalogue, tally = read_catalogue(folder)
    assert catalogue.sides["train"].titles[3] == "A &amp; B 'x' R&D &para"
    assert catalogue.sides["label"].categories == ["home & kitchen"] * 20
    assert tally.counts == {"HTML entities": 1} and tally.listed[0]["row"] == 4

    lines = [{"uid": "a", "title": "A &amp; B", "category": "x &lt; y", "target_ind": [0]}]
    found, tally = read_catalogue(
        write_json_lines(tmp_path / "lines", trn=lines, tst=lines, lbl=lines)
    )
    assert found.sides["label"].titles == ["A & B"]
    assert found.sides["label"].categories == ["x < y"] and tally.counts == {"HTML entities": 3}

    raw = outfits(tmp_path / "outfits")
    facts = json.loads((raw / "polyvore_item_metadata.json").read_text())
    facts["4"].update(title="wool &amp; silk", semantic_category="tops &amp; more")
    (raw / "polyvore_item_metadata.json").write_text(json.dumps(facts))
    catalogue, tally = read_catalogue(raw)
    assert "wool & silk" in catalogue.sides["label"].titles and tally.counts == {"HTML entities": 1}


def test_of_a_repair_that_most_rows_need_a_hundred_are_listed(tmp_path):
    items = [{"uid": f"L{i}", "title": "a &amp; b", "target_ind": [0]} for i in range(150)]
    _, tally = read_catalogue(write_json_lines(tmp_path, trn=items, tst=items[:2], lbl=items[:2]))
    assert tally.counts == {"HTML entities": 154} and len(tally.listed) == 100


def test_blanks_around_the_ids_of_outfits_and_items_are_no_part_of_them(tmp_path):
    raw = outfits(tmp_path / "raw")
    expected = content(read_catalogue(raw)[0])
    train = json.loads((raw / "disjoint" / "train.json").read_text())
    train[0]["set_id"], train[0]["items"][1]["item_id"] = " 7 ", "2 "
    train[1]["items"][0].update(item_id=5.0, index=1.0)  # a table with a missing value writes these
    (raw / "disjoint" / "train.json").write_text(json.dumps(train))
    asked = json.loads((raw / "disjoint" / "fill_in_blank_test.json").read_text())
    asked[0]["answers"][1] += " "
    (raw / "disjoint" / "fill_in_blank_test.json").write_text(json.dumps(asked))
    facts = json.loads((raw / "polyvore_item_metadata.json").read_text())
    facts = {f"{uid} ": fact for uid, fact in facts.items()}
    (raw / "polyvore_item_metadata.json").write_text(json.dumps(facts))
    judged = raw / "disjoint" / "compatibility_test.txt"
    judged.write_text("\n" + judged.read_text().replace("\n", "\n\n"))
    catalogue, tally = read_catalogue(raw)
    assert content(catalogue) == expected and not tally.counts


@pytest.mark.parametrize(
    ("value", "uid"),
    [(3.0, "3"), (2.0**53 - 1, "9007199254740991"), (2.0**53, None), (1e300, None), (2.5, None)],
)
def test_a_number_that_may_have_been_another_one_is_no_id(value, uid):
    assert clean_id(value) == uid


def test_the_number_0_is_an_id_like_any_other():
    for uid in (0, "0"):
        found = product_of(1, {"sku": uid, "goes_with": [0, 7]}, Columns.parse(COLUMNS))
        assert found.uid == "0" and list(found.relevant or ()) == ["0", "7"]
    rest = {"sku": None, "uid": "x", "goes_with": [1]}
    with pytest.raises(ValueError, match="expected a non-empty `sku`"):
        product_of(1, rest, Columns.parse(COLUMNS))
    usual = product_of(1, {"ASIN": "", "asin": None, "uid": 0, "id": 5}, Columns())
    assert usual.uid == "0"  # the first that there is
