"""What preparation tells about a catalogue as a whole, and about one that it rejects."""

import io
import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from raw_folders import (
    break_pictures,
    read_catalogue,
    tiny_repository,
    write_json_lines,
)

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.runtime.errors import InputError, TooManyBadRows

CONFIG = PrepareConfig(image_size=8, records=False, vocab_size=64, max_tokens=8)


def products(**changes) -> list[dict]:
    return [
        {"ASIN": f"P{i}", "title": f"lamp {i}", "also_buy": [f"P{(i + k) % 40}" for k in (1, 2, 3)],
         **changes} for i in range(40)
    ]  # fmt: skip


def report_of(items, tmp_path, config=CONFIG) -> dict:
    prepare(config, write_json_lines(tmp_path / "raw", products=items), tmp_path / "out")
    return json.loads((tmp_path / "out" / "prepare_report.json").read_text())


@pytest.mark.parametrize("field", ["ImageUrl", "imgs", "picture", "photos", "thumbnails"])
def test_a_catalogue_without_pictures_is_a_warning_that_names_fields_that_look_alike(
    field, tmp_path, caplog
):
    warnings = report_of(products(**{field: ["images/1.jpg"]}), tmp_path)["warnings"]
    wanted = f"no train or test or label item has a picture; unread fields that look alike: {field}"
    assert warnings == [f"{wanted} (in 40 of 40)"]
    assert wanted in caplog.text


def test_pictures_that_are_only_urls_are_a_warning(tmp_path):
    items = products(imageURLHighRes=["https://shop/1.jpg"], imageURL=["https://shop/2.jpg"])
    warnings = report_of(items, tmp_path)["warnings"]
    assert warnings[0].startswith("no train or test or label item has a picture: ")
    assert "are given as URLs, which are not downloaded" in warnings[0]


def test_a_side_without_titles_is_a_warning_only_if_a_field_looks_alike(tmp_path):
    labels = [{"uid": f"L{i}", "name": "shelf", "images": [f"images/{i}.jpg"]} for i in range(4)]
    points = [{"uid": f"T{i}", "title": "oak", "target_ind": [i]} for i in range(4)]
    test = [point | {"uid": f"Q{i}"} for i, point in enumerate(points)]
    raw = write_json_lines(tmp_path / "raw", trn=points, tst=test, lbl=labels)
    prepare(CONFIG, raw, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "prepare_report.json").read_text())
    assert report["warnings"] == [
        "no label item has a title; unread fields that look alike: name (in 4 of 4)"
    ]


def test_items_without_title_and_picture_name_the_fields_found(tmp_path):
    items = [{k if k != "title" else "product_title": v for k, v in p.items()} for p in products()]
    with pytest.raises(InputError, match="empty item; found the fields ASIN, product_title, also"):
        report_of(items, tmp_path)


def test_test_points_without_any_label_are_a_warning(tmp_path):
    points = [{"uid": f"T{i}", "title": "oak", "target_ind": [i]} for i in range(4)]
    raw = write_json_lines(
        tmp_path / "raw", trn=points, tst=[{"uid": "A", "title": "a"}],
        lbl=[{"uid": f"L{i}", "title": "shelf"} for i in range(4)],
    )  # fmt: skip
    prepare(CONFIG, raw, tmp_path / "out")
    warnings = json.loads((tmp_path / "out" / "prepare_report.json").read_text())["warnings"]
    assert "no test item has a relevant label" in warnings


def cut_of(report: dict) -> int:
    return next(f["number"] for f in report["summary"] if f["what"] == "titles cut at 8 tokens")


def test_titles_cut_at_max_tokens_are_counted_and_a_warning_above_five_percent(tmp_path):
    items = products()
    for item in items[:2]:
        item["title"] = "a lamp with legs and more legs and yet more of these legs"
    report = report_of(items, tmp_path)
    assert cut_of(report) == 1 and not any("lose their end" in w for w in report["warnings"])
    for item in items[:20]:
        item["title"] = f"a lamp with {item['ASIN']} legs and more legs and yet more of these legs"
    report = report_of(items, tmp_path)
    assert cut_of(report) == 20
    (warning,) = [w for w in report["warnings"] if "lose their end" in w]
    assert warning.startswith("20 of 40 titles (50%) are longer than max_tokens=8")


def test_too_many_bad_pictures_end_with_a_report_the_flag_and_the_remedy(tmp_path):
    raw = tiny_repository(tmp_path / "raw")
    break_pictures(raw, 40)
    out = tmp_path / "out"
    prepared_before = tiny_repository(tmp_path / "good")
    prepare(CONFIG, prepared_before, out)
    with pytest.raises(TooManyBadRows) as error:
        prepare(CONFIG, raw, out)
    message = str(error.value)
    assert "3 of 40 images are bad so far, more than the tolerated 5%" in message
    assert "Replace these pictures, or correct their paths, or raise --prepare.max-bad" in message
    assert message.endswith(f"{out / 'prepare_rejected.json'} lists them")
    listed = json.loads((out / "prepare_rejected.json").read_text())["listed"]
    assert [entry["kind"] for entry in listed] == ["broken image"] * 3
    prepare(CONFIG, prepared_before, out)
    assert not (out / "prepare_rejected.json").exists()


def test_a_rejected_catalogue_leaves_an_earlier_preparation_as_it_is(tmp_path):
    out = tmp_path / "out"
    prepare(CONFIG, tiny_repository(tmp_path / "good"), out)
    raw = write_json_lines(tmp_path / "raw", products=products())
    (raw / "products.jsonl").write_text("{}\n" * 40)
    with pytest.raises(
        TooManyBadRows, match=r"40 of 40 lines are bad, more .* Correct these lines"
    ):
        prepare(CONFIG, raw, out)
    assert json.loads((out / "prepare_rejected.json").read_text())["counts"] == {"bad line": 40}
    Dataset.load(out, verify=True)


def test_a_path_with_backslashes_is_told_what_is_expected(tmp_path):
    items = [p | {"images": [f"images\\{i}.jpg"]} for i, p in enumerate(products())]
    with pytest.raises(TooManyBadRows, match=r'a path with "\\": expected "/" between folders'):
        report_of(items, tmp_path)


def test_long_texts_in_a_png_are_skipped_unread(tmp_path):
    items = [p | {"images": ["images/x.png"]} for p in products()]
    raw = write_json_lines(tmp_path / "raw", products=items)
    notes, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("xmp", "x" * 2_000_000, zip=True)
    notes.add_itxt("more", "y" * 2_000_000, zip=True)
    profile = bytes(2_000_000)
    Image.new("RGB", (32, 16), (255, 0, 0)).save(buffer, "PNG", pnginfo=notes, icc_profile=profile)
    (raw / "images" / "x.png").write_bytes(buffer.getvalue())
    catalogue, _ = read_catalogue(raw)
    assert len(catalogue.sides["train"].image_keys)
    prepare(CONFIG, raw, tmp_path / "out")
    (pixels,) = Dataset.load(tmp_path / "out").images[np.arange(1)]
    assert (pixels[4] == (255, 0, 0)).all()
