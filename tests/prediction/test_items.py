"""What a user hands to `predict`: all forms that people hold are read, all else is one line."""

import copy
import dataclasses
import decimal
import io
import os
import signal
import types
import warnings

import jax
import numpy as np
import pytest
from PIL import Image
from raw_folders import picture
from small import label_predictor

from mufin_jax.data.images import MAX_PIXELS
from mufin_jax.prediction.items import read_query
from mufin_jax.prediction.queries import names_of
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError

LAMP = {"title": "red lamp"}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, dataset, one_device):
    """A predictor of label embeddings, on one device."""
    return label_predictor(tmp_path_factory.mktemp("items"), dataset, one_device)


class NAType:
    """Stands for pandas.NA: it is no float, and its comparisons are no truth values."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")


class Frame:
    """Stands for a pandas DataFrame: iterated over, it gives the names of its columns."""

    def __init__(self, **columns):
        self.columns, self._values = list(columns), columns

    def __iter__(self):
        return iter(self.columns)

    def to_dict(self, orient):
        assert orient == "records"
        rows = zip(*self._values.values(), strict=True)
        return [dict(zip(self.columns, row, strict=True)) for row in rows]


MISSING = [None, np.nan, float("nan"), np.float32("nan"), decimal.Decimal("nan"), NAType()]


@pytest.mark.parametrize("missing", MISSING, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize(
    "field", ["id", "title", "titles", "images", "text_vector", "image_vectors"]
)
def test_missing_values_count_as_absent(predictor, field, missing):
    other = {"titles": ["red lamp"]} if field == "title" else LAMP
    assert predictor.predict([other | {field: missing}]) == predictor.predict([LAMP])


@pytest.mark.parametrize("missing", MISSING, ids=lambda value: type(value).__name__)
def test_missing_values_within_a_list_count_as_absent(predictor, missing):
    given = {"titles": ["red lamp", missing], "images": [missing, picture(3)]}
    plain = LAMP | {"images": [picture(3)]}
    assert predictor.predict([given]) == predictor.predict([plain])


def test_an_item_of_missing_values_alone_has_nothing_to_see(predictor):
    with pytest.raises(InputError, match=r"^item 0: nothing to see"):
        predictor.predict([{"title": np.nan, "images": [None, "", " "]}])


class Pixels:
    """Stands for a tensor of another package."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.fixture
def forms(tmp_path):
    """One picture in all forms."""
    encoded, path = picture(7), tmp_path / "7.jpg"
    path.write_bytes(encoded)
    image = Image.open(io.BytesIO(encoded))
    opened = path.open("rb")
    yield {
        "path": path,
        "text": str(path),
        "bytes": encoded,
        "bytearray": bytearray(encoded),
        "memoryview": memoryview(encoded),
        "file": io.BytesIO(encoded),
        "opened": opened,
        "image": image,
        "array": np.asarray(image),
        "other array": Pixels(np.asarray(image)),
    }
    opened.close()


def test_a_picture_may_have_any_form_and_one_counts_as_one(predictor, forms):
    (wanted,) = predictor.predict([{"images": [picture(7)]}])
    for name, form in forms.items():
        for given in (form, [form], (form,), iter([form])):
            (found,) = predictor.predict([{"images": given}])
            assert [one.label for one in found] == [one.label for one in wanted], name
            scores = [one.score for one in found], [one.score for one in wanted]
            np.testing.assert_allclose(*scores, atol=1e-6, err_msg=name)


def test_an_array_of_four_axes_is_a_list_of_pictures(predictor):
    one, two = (np.full((9, 9, 3), shade, np.uint8) for shade in (20, 200))
    stacked = predictor.predict([{"images": np.stack([one, two])}])
    assert stacked == predictor.predict([{"images": [one, two]}])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4)])
def test_arrays_may_be_grey_or_transparent(predictor, shape):
    array = np.full(shape, 255, np.uint8)
    white = np.full((6, 5, 3), 255, np.uint8)
    assert predictor.predict([{"images": array}]) == predictor.predict([{"images": white}])


@pytest.mark.parametrize(
    "make",
    [
        lambda rows: tuple(rows),
        lambda rows: (row for row in rows),
        lambda rows: [types.MappingProxyType(row) for row in rows],
        lambda rows: np.array(rows, object),
        lambda rows: Frame(title=[row.get("title") for row in rows]),
    ],
    ids=["tuple", "generator", "mappings", "array", "frame"],
)
def test_items_may_come_in_any_iterable_or_table(predictor, make):
    rows = [LAMP, {"title": "blue chair"}]
    assert predictor.predict(make(rows)) == predictor.predict(rows)


def test_a_pyarrow_table_is_read_row_by_row(predictor):
    pyarrow = pytest.importorskip("pyarrow")
    rows = [LAMP | {"id": 4, "images": None}, {"id": 5, "title": None, "images": [picture(1)]}]
    assert predictor.predict(pyarrow.Table.from_pylist(rows)) == predictor.predict(rows)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"title": 5}, "item 1: title: found int 5; expected a text, or titles for a list"),
        ({"title": ["red", "lamp"]}, "item 1: title: found list"),
        ({"title": b"red lamp"}, "item 1: title: found bytes"),
        ({"title": {"en": "lamp"}}, "item 1: title: found dict"),
        ({"titles": "red lamp"}, "item 1: titles: found str 'red lamp'; expected a list"),
        ({"titles": ["red", 4]}, "item 1: titles: found int 4 among them; expected texts"),
        ({"titles": {"en": "lamp"}}, "item 1: titles: found dict"),
        ({"title": "a", "titles": ["b"]}, "item 1: titles: found a title next to them"),
        (LAMP | {"id": [4]}, r"item 1: id: found list \[4\]; expected an id: a text or a whole"),
        (LAMP | {"id": 4.5}, "item 1: id: found float 4.5"),
        ({"titel": "lamp"}, "item 1: unknown field .titel.; expected id, title"),
        ({"images": {"url": "a.jpg"}}, "item 1: images: found dict; expected a path, bytes"),
        ({"images": 7}, "item 1: images: found int; expected a path, bytes, an open file"),
        ({"images": [7]}, "item 1: picture: found int; expected a path"),
        ({"images": [["a.jpg"]]}, "item 1: picture: found list; expected a path"),
        ({"images": io.StringIO("x")}, 'item 1: picture: a file of text; open it with .* "rb"'),
        ({"images": np.zeros((4, 4, 3))}, r"item 1: picture: an array of float64 \(4, 4, 3\)"),
        ({"images": np.zeros((3, 4, 5), np.uint8)}, r"an array of uint8 \(3, 4, 5\); expected"),
        ({"images": np.zeros((0, 4), np.uint8)}, r"an array of uint8 \(0, 4\); expected"),
        ({"images": "https://shop.example/a.jpg"}, "item 1: picture .*: an address, and pictures"),
        ({"images": "absent.jpg"}, r"item 1: picture \(absent.jpg\): cannot be decoded"),
        ({"images": "\0"}, r"item 1: picture .*: expected a path, as text or as a pathlib.Path"),
        ({"images": b""}, "item 1: picture: an empty file"),
    ],
)
def test_what_is_not_understood_is_one_line_that_names_item_and_type(predictor, item, message):
    with pytest.raises(InputError, match=f"^{message}" if message[0] == "i" else message):
        predictor.predict([LAMP, item])


def test_a_closed_file_is_one_line(predictor):
    closed = io.BytesIO(picture(1))
    closed.close()
    with pytest.raises(InputError, match=r"item 0: picture: the file cannot be read .*closed"):
        predictor.predict([{"images": closed}])


def test_the_name_of_a_picture_is_cut_in_messages(predictor):
    with pytest.raises(InputError) as error:
        predictor.predict([{"images": "x" * 10_000}])
    assert len(str(error.value)) < 600


def test_whole_numbers_are_ids_and_blanks_around_them_do_not_count():
    given = [4, np.int64(4), 4.0, " 4 ", "4"]
    assert {item.id for item in read_query([{"id": one} for one in given])} == {"4"}
    assert [item.id for item in read_query([{"id": " "}, {}])] == [None, None]


def limited(predictor, **limits):
    """Return the predictor of a run that was prepared under other limits."""
    manifest = predictor.dataset.manifest
    manifest = manifest | {"config": manifest["config"] | limits}
    other = copy.copy(predictor)
    other.dataset = dataclasses.replace(predictor.dataset, manifest=manifest)
    return other


@pytest.mark.parametrize("limit", ["max_bytes", "max_pixels"])
def test_pictures_have_the_limits_that_the_run_was_prepared_with(predictor, limit):
    item, few = {"images": [picture(7)]}, {limit: 50}
    with pytest.raises(InputError, match=r"more than 50 pixels|larger than 50 bytes"):
        limited(predictor, **few).predict([item])
    for form in (io.BytesIO(picture(7)), np.zeros((60, 60, 3), np.uint8)):
        if limit == "max_pixels" or isinstance(form, io.BytesIO):
            with pytest.raises(InputError, match=r"more than 50 pixels|larger than 50 bytes"):
                limited(predictor, **few).predict([{"images": form}])
    wide = Image.new("RGB", (4100, 4000))  # more than the default allows
    assert wide.width * wide.height > MAX_PIXELS
    assert limited(predictor, max_pixels=20_000_000).predict([{"images": wide}])


def test_a_fork_of_the_process_that_loaded_a_predictor_is_one_line_and_does_not_wait(predictor):
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX and Python warn of forks, too
        child = os.fork()
    if not child:
        signal.alarm(20)
        try:
            predictor.predict([LAMP])
            line = "it answered"
        except InputError as error:
            line = str(error)
        os.write(writing, line.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        line = pipe.read()
    os.waitpid(child, 0)
    assert line.startswith(f"process {child} is a fork of process {os.getpid()}, which loaded the")
    assert "load the predictor in each process" in line


def test_a_process_with_64_bits_is_one_line(predictor):
    jax.config.update("jax_enable_x64", True)
    try:
        for compute in (lambda: predictor.predict([LAMP]), make_mesh):
            with pytest.raises(InputError, match=r"^jax_enable_x64 is on, .* JAX_ENABLE_X64=0 or"):
                compute()
    finally:
        jax.config.update("jax_enable_x64", False)
    assert predictor.predict([LAMP])


def test_parts_that_read_titles_read_the_first_one_of_an_item():
    """As `Side.titles` has it for the items of a prepared folder."""
    items = read_query([{"titles": ["red lamp", "ornate"], "id": 3}, {"images": b"any"}, LAMP])
    assert names_of(items) == (["red lamp", "", "red lamp"], ["3", None, None])
