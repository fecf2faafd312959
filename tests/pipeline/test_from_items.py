"""Items in memory become a prepared folder, as the same items in files do."""

import ast
import gc
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from minute import MINUTE
from PIL import Image
from places import ROOT

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import prepare
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.storage.files import load_json

COLOURS = ["red", "blue", "green", "white", "black", "pink", "teal", "gold"]


def picture(i: int) -> Image.Image:
    return Image.new("RGB", (20, 10 + i), COLOURS[i % 8])


def items(count: int = 16) -> list[dict]:
    """Products that relate to the next two; each but the third has a picture."""
    return [
        {
            "id": f"B{i}",
            "title": f"{COLOURS[i % 8]} lamp &amp; {i}",
            "images": [] if i == 3 else [picture(i)],
            "related": [f"B{(i + 1) % count}", f"B{(i + 2) % count}"],
        }
        for i in range(count)
    ]


def from_items(train, *arguments, **settings) -> Dataset:
    return Dataset.from_items(train, *arguments, preset=MINUTE, **settings)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return from_items(items(), test=0.25)


def test_items_are_prepared_as_the_same_items_in_files_are(dataset, tmp_path):
    for i in range(16):
        picture(i).save(tmp_path / f"{i}.png")
    rows = (
        {**item, "images": [f"{i}.png"] if item["images"] else []} for i, item in enumerate(items())
    )
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = MINUTE.prepare.__class__(**{**vars(MINUTE.prepare), "test_share": 0.25})
    prepare(config, tmp_path, tmp_path / "prepared")
    wanted = Dataset.load(tmp_path / "prepared")
    assert [*dataset.labels.titles] == [*wanted.labels.titles]
    assert dataset.labels.titles[0] == "red lamp & 0"
    np.testing.assert_array_equal(dataset.texts, wanted.texts)
    np.testing.assert_array_equal(dataset.images[np.arange(15)], wanted.images[np.arange(15)])
    for one, other in ((dataset.train, wanted.train), (dataset.test, wanted.test)):
        assert [*one.ids] == [*other.ids]
        np.testing.assert_array_equal(one.pairs.toarray(), other.pairs.toarray())
        np.testing.assert_array_equal(one.image_rows, other.image_rows)


def test_labels_and_test_points_of_their_own_are_what_they_are_given_as(tmp_path):
    labels, points = items(), [{"title": f"room {i}", "related": [f"B{i}"]} for i in range(5)]
    found = from_items(points, labels, points[:2])
    assert [len(side) for side in (found.train, found.test, found.labels)] == [5, 2, 16]
    assert found.train.pairs.nonzero()[1].tolist() == [0, 1, 2, 3, 4]
    shared = from_items([{**one, "id": one["title"]} for one in points], labels, 0.5)
    assert len(shared.test) and len(shared.train) + len(shared.test) == 5


def test_without_labels_the_items_that_a_training_item_relates_to_are_labels():
    found = from_items(items()[:6], None, items()[6:8])
    assert sorted(found.labels.ids) == ["B1", "B2", "B3", "B4", "B5", "B6", "B7"]
    with pytest.raises(InputError, match=r"^train: none of 1 related ids is the id of an item"):
        from_items([{"id": "B0", "title": "a", "related": ["B9"]}], None, items(2))
    assert len(from_items(items()).test) == 0


def test_each_form_of_a_picture_is_read_and_the_same_picture_is_stored_once(tmp_path):
    red = picture(0)
    red.save(tmp_path / "red.png")
    encoded = io.BytesIO()
    red.save(encoded, "PNG")
    transparent = Image.new("LA", (20, 10), (0, 0))
    forms = [
        tmp_path / "red.png", str(tmp_path / "red.png"), encoded.getvalue(), encoded, red,
        np.asarray(red), transparent,
    ]  # fmt: skip
    given = items(len(forms))
    for item, form in zip(given, forms, strict=True):
        item["images"] = form
    found = from_items(given)
    assert [len(found.train.images_of(i)) for i in range(7)] == [1] * 7
    pixels = found.images[np.concatenate([found.train.images_of(i) for i in range(7)])]
    for one in pixels[:6]:
        np.testing.assert_array_equal(one, pixels[0])
    assert (pixels[6] == 255).all()
    assert len(list((found.path.parent / "items" / "images").iterdir())) == 4


def test_every_title_of_an_item_is_a_text_of_its_own():
    given = items(8)
    given[2] = {"id": "B2", "titles": ["a lamp", "of brass", "heavy"], "related": ["B3"]}
    found = from_items(given)
    assert found.train.text.shape == (8, 3)
    assert sorted((found.train.text >= 0).sum(1)) == [1] * 7 + [3]


def test_ready_vectors_of_items_take_the_place_of_titles_and_pictures():
    given = items(8)
    for i, item in enumerate(given):
        item |= {"text_vector": np.full(3, i + 1.0), "images": None}
        item["image_vectors"] = [[1.0, i], [2.0, i]] if i else None
    found = from_items(given)
    row = [*found.train.ids].index("B4")
    assert found.text_vectors is not None and found.image_vectors is not None
    assert found.text_vectors[found.train.text[row]].tolist() == [5.0, 5.0, 5.0]
    assert found.image_vectors[found.train.images_of(row)].tolist() == [[1.0, 4.0], [2.0, 4.0]]
    assert [len(found.train.images_of(i)) for i in range(8)] == [0] + [2] * 7


@pytest.mark.slow
def test_the_model_on_a_batch_of_the_page_learns():
    page = (ROOT / "docs" / "python.md").read_text("utf-8")
    (code,) = re.findall(r"A model on a batch.*?```python\n(.*?)```", page, re.DOTALL)
    imports = (ast.Import, ast.ImportFrom)
    assert len([one for one in ast.parse(code).body if not isinstance(one, imports)]) <= 11
    code = code.replace(
        "from experiments.amazon import CATALOGUE", "from minute import MINUTE as CATALOGUE"
    )
    found = {"data": from_items(items())}
    exec(code, found)
    assert found["step"](found["model"], found["batch"])[0] < found["loss"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([{"id": "B0", "titel": "a"}],), "^train: item 0: unknown field 'titel'; expected id"),
        ((5,), "^train: items: found int; expected a list of dicts"),
        (([],), "^train: no items; expected at least one"),
        (([{"title": "a"}],), "^train: item 0: no id; expected one, as relations are ids"),
        ((items(2) + items(1),), "^train: item 2: the id 'B0' is that of item 0, too"),
        (
            ([{"id": "B0"}, {"id": "B1", "images": ["no/such.jpg"]}],),
            r"^train: item 1: picture \(no/such.jpg\): no such file",
        ),
        (
            ([{"id": "B0", "images": [7]}],),
            "^train: item 0: picture: found int; expected a path, bytes",
        ),
        (
            ([{"id": "B0", "text_vector": [1.0]}, {"id": "B1", "text_vector": [1.0, 2.0]}],),
            "^train: item 1: text_vector: expected 1 numbers a vector, as in the first one; finite",
        ),
        (
            ([{"id": "B0", "image_vectors": [[1.0], [0.0]]}],),
            "^train: item 0: image_vectors: expected a list of numbers; finite, and not all zero",
        ),
        ((items(), [*items()[:4], {"title": "x"}]), "^labels: item 4: no id; expected one"),
        ((items(), None, 2.0), "^test=2.0: expected items, or a share above 0 and up to 0.5"),
    ],
)
def test_a_wrong_item_is_named_by_its_place(arguments, message):
    with pytest.raises(InputError, match=message):
        from_items(*arguments)


def test_only_settings_of_preparation_are_taken():
    found = from_items(items(8), prepare={"max_tokens": 4})
    assert found.texts.shape[1] == 4
    with pytest.raises(InputError, match=r"^pretrain.epochs: from_items prepares, and this"):
        from_items(items(8), pretrain={"epochs": 4})
    with pytest.raises(InputError, match=r"^unknown setting 'max_tokens'; did you mean prepare"):
        from_items(items(8), max_tokens=4)
    with pytest.raises(InputError, match=r"^prepare.test_share: from_items sets it itself"):
        from_items(items(8), **{"prepare.test_share": 0.2})


def test_the_folder_of_a_dataset_goes_with_it_or_stays_where_it_is_named(tmp_path):
    found = from_items(items(8))
    folder = found.path.parent
    assert folder.is_dir()
    del found
    gc.collect()
    assert not folder.exists()
    kept = from_items(items(8), folder=tmp_path / "kept")
    assert kept.path == tmp_path / "kept" / "prepare"
    assert load_json(tmp_path / "kept" / "items" / "settings.json") == {"prepare.test_share": 0}
    with pytest.raises(InputError, match="kept is not empty: expected a new folder"):
        from_items(items(8), folder=tmp_path / "kept")
    with pytest.raises(InputError, match="no such file"):
        from_items([{"id": "B0", "images": ["none.jpg"]}], folder=tmp_path / "other")
    assert len(from_items(items(8), folder=tmp_path / "other").train) == 8
    torn = [{**item, "images": [b"no picture"]} for item in items(8)]
    with pytest.raises(TooManyBadRows, match=r"train-item-0-0.*; .*prepare_rejected.json") as error:
        from_items(torn)
    assert Path(str(error.value).rpartition("; ")[2].partition(" ")[0]).is_file()
