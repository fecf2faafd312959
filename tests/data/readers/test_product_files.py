"""Products in every layout that people hold: JSON of any shape, CSV, TSV, Parquet, Amazon's."""

import csv
import gzip
import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from raw_folders import picture, read_catalogue, write_json_lines

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.readers import files, load_catalogue
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.json_rows import json_rows
from mufin_jax.data.readers.tables import split_cell
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError, TooManyBadRows

CONFIG = PrepareConfig(image_size=8, records=False, vocab_size=64, max_tokens=8)
PRODUCTS = [
    {"ASIN": f"P{i}", "title": f"lamp {i}, oak",
     "images": [f"images/{i}.jpg", f"images/{i + 1}.jpg"],
     "also_buy": [f"P{(i + k) % 40}" for k in (1, 2, 3)], "category": f"kind {i % 3}"}
    for i in range(40)
]  # fmt: skip


def content(folder: Path, *columns: str):
    """Return all that is read of a folder or file, in simple types."""
    tally = Tally(0.05)
    catalogue = load_catalogue(folder, tally, 15, 10**7, Columns.parse(columns))
    found = [
        (side.ids, side.titles, side.categories, side.image_offsets.tolist(),
         [catalogue.images.name(int(key)) for key in side.image_keys])
        for side in catalogue.sides.values()
    ]  # fmt: skip
    assert not tally.counts, tally.counts
    return found, [matrix.toarray().tolist() for matrix in catalogue.relevance.values()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return content(write_json_lines(tmp_path_factory.mktemp("lines"), products=PRODUCTS))


def table(separator: str, lists: str, names: dict[str, str] | None = None, **changes) -> str:
    """Return the products as a table."""
    out = io.StringIO()
    renamed = [names.get(name, name) if names else name for name in PRODUCTS[0]]
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerow(renamed)
    for item in PRODUCTS:
        cells = (lists.join(v) if isinstance(v, list) else v for v in item.values())
        writer.writerow(cells)
    return out.getvalue()


def wrapped(**more) -> str:
    return json.dumps({**more, "products": PRODUCTS, "next": {"page": [2]}})


def python_lists() -> str:
    rows = [{k: str(v) for k, v in item.items()} for item in PRODUCTS]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


LAYOUTS = {
    "array.json": json.dumps(PRODUCTS),
    "indented array.json": json.dumps(PRODUCTS, indent=2),
    "array in a jsonl.jsonl": json.dumps(PRODUCTS),
    "products in an object.json": wrapped(),
    "products after other fields.json": json.dumps(json.loads(wrapped(total=40, of="x")), indent=1),
    "indented objects.json": "\n".join(json.dumps(item, indent=4) for item in PRODUCTS),
    "commas.csv": table(",", "|"),
    "semicolons.csv": table(";", "|"),
    "semicolons in cells.csv": table(",", "; "),
    "named separator.csv": "sep=;\n" + table(";", "|"),
    "loudly named separator.csv": "SEP=;\r\n" + table(";", "|"),
    "tabs.tsv": table("\t", "|"),
    "lists as Python writes them.csv": python_lists(),
    "a byte-order mark.csv": "\ufeff" + table(",", "|"),
    "Windows line ends.csv": table(",", "|").replace("\n", "\r\n"),
    "blank lines.csv": table(",", "|").replace("\n", "\n\n"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_products_is_read_alike(layout, zipped, expected, tmp_path):
    data = LAYOUTS[layout].encode()
    name = f"products.{layout.rpartition('.')[2]}"
    if zipped:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    else:
        (tmp_path / name).write_bytes(data)
    assert content(tmp_path) == expected


def test_only_the_first_images_are_kept(tmp_path):
    items = [item | {"images": ["a.jpg", "b.jpg", "c.jpg"][: i % 4]}
             for i, item in enumerate(PRODUCTS)]  # fmt: skip
    tally = Tally(0.05)
    catalogue = load_catalogue(write_json_lines(tmp_path, products=items), tally, 2, 10**7)
    label, number = catalogue.sides["label"], {item["ASIN"]: i for i, item in enumerate(PRODUCTS)}
    counts = [min(number[uid] % 4, 2) for uid in label.ids]
    assert [*map(int, label.image_offsets[1:] - label.image_offsets[:-1])] == counts
    names = {catalogue.images.name(int(key)) for key in label.image_keys}
    assert names == {"a.jpg", "b.jpg"} and tally.counts["more images than max_images"] >= 10


def write_parquet(path: Path, items: list[dict]) -> None:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(items), path)


def test_parquet_is_read(expected, tmp_path):
    write_parquet(tmp_path / "products.parquet", PRODUCTS)
    assert content(tmp_path) == expected
    data = (tmp_path / "products.parquet").read_bytes()
    for bad in (data[:200], b"", data[:40] + bytes(40) + data[80:], b"PAR1" * 9):
        (tmp_path / "products.parquet").write_bytes(bad)
        with pytest.raises((InputError, TooManyBadRows)) as error:
            content(tmp_path)
        assert "\n" not in str(error.value) and "products.parquet" in str(error.value)


def test_cells_that_pandas_left_empty_are_absent(expected, tmp_path):
    """A column without a value is one of numbers that are NaN."""
    rows = [item | {"ASIN": float("nan"), "asin": item["ASIN"]} for item in PRODUCTS]
    write_parquet(tmp_path / "products.parquet", rows)
    assert content(tmp_path) == expected


def test_without_pyarrow_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "products.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"Parquet needs pyarrow: run `pip install pyarrow`"):
        content(tmp_path)


def test_one_file_can_be_the_data(expected, tmp_path):
    (tmp_path / "my shop.csv").write_text(table(",", "|"))
    (tmp_path / "products.jsonl").write_text("{}")
    assert content(tmp_path / "my shop.csv") == expected
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes.txt is another kind of file: expected a folder"):
        content(tmp_path / "notes.txt")


def test_columns_name_the_fields_and_the_separator(expected, tmp_path):
    names = {"ASIN": "sku", "title": "name", "images": "photos", "also_buy": "goes with",
             "category": "group"}  # fmt: skip
    (tmp_path / "products.csv").write_text(table(",", "#", names))
    given = ("id=sku", "title=name", "images=photos", "related=goes with", "category=group")
    assert content(tmp_path, *given, "separator=#") == expected
    with pytest.raises(InputError, match=r"no column is an id: expected ASIN, .*columns sku, name"):
        content(tmp_path)
    with pytest.raises(
        InputError, match="no item has a value in 'label', which columns names; fou"
    ):
        content(tmp_path, *given[:1], "title=label", "related=goes with")
    with pytest.raises(InputError, match="columns: 'id=x': expected id=NAME"):
        PrepareConfig(columns=("title=name", "id=sku", "id=x"))


def test_columns_are_rejected_where_there_are_none(tmp_path):
    (tmp_path / "label.raw.txt").write_text("a->b\n")
    with pytest.raises(InputError, match="has the form repository, which has no columns to name"):
        content(tmp_path, "id=sku")


AMAZON_2014 = [
    {"asin": f"B{i}", "title": f"lamp {i} &amp; oak's", "imUrl": "http://a/1.jpg", "price": 3.5,
     "related": {"also_bought": [f"B{(i + k) % 40}" for k in (1, 2, 3)], "also_viewed": ["B1"]}}
    for i in range(40)
]  # fmt: skip
AMAZON_2018 = [
    {"asin": f"B{i}", "title": f"lamp {i} &amp; oak's", "imageURL": ["http://a/1.jpg"],
     "imageURLHighRes": ["http://a/2.jpg"], "category": ["a", "b"], "price": "", "feature": [],
     "also_buy": [f"B{(i + k) % 40}" for k in (1, 2, 3)], "also_view": [], "description": [""]}
    for i in range(40)
]  # fmt: skip
AMAZON_2023 = [
    {"main_category": "Home", "title": [f"lamp {i} &amp; oak's"], "average_rating": 4.5,
     "images": [{"thumb": "http://a/t.jpg", "large": "http://a/l.jpg", "hi_res": None}],
     "parent_asin": f"B{i}", "bought_together": [f"B{(i + k) % 40}" for k in (1, 2, 3)]}
    for i in range(40)
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("meta_Home.json.gz", [repr(item) for item in AMAZON_2014]),  # not JSON, but Python
        ("meta_Home.json", [json.dumps(item) for item in AMAZON_2014]),
        ("meta_Home_and_Kitchen.json.gz", [json.dumps(item) for item in AMAZON_2018]),
        ("meta_Home.jsonl.gz", [json.dumps(item) for item in AMAZON_2023]),
    ],
)
def test_amazons_metadata_are_read_as_published(name, rows, tmp_path):
    data = "".join(f"{row}\n" for row in rows).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    catalogue, tally = read_catalogue(tmp_path)
    train = catalogue.sides["train"]
    assert train.ids[0] == "B0" and train.titles[0] == "lamp 0 & oak's"
    related = [catalogue.sides["label"].ids[i] for i in catalogue.relevance["train"][0].indices]
    assert sorted(related) == ["B1", "B2", "B3"]
    assert tally.counts["image by URL"] >= 40 and "bad line" not in tally.counts
    (tmp_path / "meta_Toys.json").write_text("{}")
    with pytest.raises(InputError, match=r"has meta_.*name the one to read by --data=FILE"):
        read_catalogue(tmp_path)


def test_of_several_sizes_of_a_picture_the_large_one_is_read(tmp_path):
    sizes = {"thumb": "t.jpg", "hi_res": "h.jpg", "large": "l.jpg"}
    items = [item | {"images": [sizes, {"thumb": "t.jpg"}]} for item in AMAZON_2023]
    (tmp_path / "products.json").write_text(json.dumps(items))
    catalogue, _ = read_catalogue(tmp_path)
    keys = catalogue.sides["train"].image_keys[:2]
    assert [catalogue.images.name(int(key)) for key in keys] == ["l.jpg", "t.jpg"]


def test_amazons_tables_have_a_list_for_each_size_of_a_picture(tmp_path):
    sizes = {"hi_res": [None, "h.jpg"], "large": ["l.jpg", None], "thumb": ["t.jpg", "u.jpg"]}
    items = [item | {"images": sizes} for item in AMAZON_2023]
    write_parquet(tmp_path / "products.parquet", items)
    catalogue, _ = read_catalogue(tmp_path)
    assert [catalogue.images.name(int(k)) for k in catalogue.sides["train"].image_keys[:2]] == [
        *("l.jpg", "h.jpg")
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("products.json", json.dumps(PRODUCTS)[:-1], "value 40: the file ends before its"),
        ("products.json", json.dumps(PRODUCTS)[:-30], "value 40: not JSON"),
        ("products.json", '[{"ASIN": "A"}, {"ASIN": }]', "value 2: not JSON"),
        ("products.json", '[{"ASIN": "A"}]]', "value 1: ']' closes nothing"),
        ("products.json", "[{" + "[" * 100_000, "value 1: not JSON"),
        ("products.json", '[{"ASIN": ' + "[" * 100_000, "value 1: not JSON"),
        ("products.csv", 'id,title\nA,"oak\n' + "B,x\n" * 90_000, "csv:2: field larger than"),
        ("products.csv", "id,id\n1,2\n", "two columns are named 'id'"),
        ("products.csv", "", "products.csv: no column is an id"),
        ("products.tsv", "id\ttitle\n", "products.tsv is empty"),
    ],
)  # fmt: skip
def test_a_damaged_table_is_one_clear_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message.replace("]", r"\]")) as error:
        read_catalogue(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_row_with_too_many_values_is_a_bad_line_with_its_row(tmp_path):
    rows = table(",", "|").splitlines()
    rows[7] += ",more"
    (tmp_path / "products.csv").write_text("\n".join(rows))
    _, tally = read_catalogue(tmp_path)
    assert tally.counts["bad line"] == 1
    assert (tally.listed[0]["row"], tally.listed[0]["reason"]) == (8, "6 values, expected 5")


def test_an_array_is_read_in_pieces(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"ASIN": "ä" * 1000, "n": i} for i in range(3000)], indent=1))
    read = []
    monkeypatch.setattr(files, "check_stop", lambda stage: read.append(stage))
    rows = json_rows(path)
    assert next(rows) == (1, {"ASIN": "ä" * 1000, "n": 0})
    assert len(read) <= 3  # the start, and a piece of a megabyte
    assert [row for row, _ in rows] == [*range(2, 3001)]
    assert len(read) >= 6


@pytest.mark.parametrize(
    ("text", "separator", "values"),
    [
        ("a|b;c", None, ["a", "b;c"]),
        ("a; b", None, ["a", "b"]),
        ("a,b", None, ["a", "b"]),
        ("a,b", "|", ["a,b"]),
        ('["a, b", "c"]', None, ["a, b", "c"]),
        ("['a, b', 'c']", ";", ["a, b", "c"]),
        ("[1, 2]", None, ["1", "2"]),
        ("[]", None, []),
        ("a b", None, ["a b"]),
        ("a  b", " ", ["a", "", "b"]),
    ],
)
def test_a_cell_is_cut_into_its_values(text, separator, values):
    assert split_cell(text, separator, "|;,") == values


def test_commas_separate_ids_of_related_products_but_belong_to_names_of_pictures(tmp_path):
    rows = [
        item | {"images": f"images/{i}, front.jpg", "also_buy": ",".join(item["also_buy"])}
        for i, item in enumerate(PRODUCTS)
    ]
    with (tmp_path / "products.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    lists = [p | {"images": [row["images"]]} for p, row in zip(PRODUCTS, rows, strict=True)]
    wanted = content(write_json_lines(tmp_path / "lines", products=lists))
    assert content(tmp_path / "products.csv") == wanted


def linked(folder: Path) -> Path:
    """Write products whose pictures lie in another folder, behind a link."""
    raw = write_json_lines(folder / "raw", products=PRODUCTS)
    for i in range(41):
        (raw / "images" / f"{i}.jpg").write_bytes(picture(i))
    (raw / "images").rename(folder / "photos")
    os.symlink(folder / "photos", raw / "images")
    return raw


def test_a_linked_folder_of_pictures_is_its_own_kind_with_its_remedy(tmp_path):
    raw = linked(tmp_path)
    message = r"linked image, first at .*by --prepare.images. Name the folder of the pictures by --"
    with pytest.raises(TooManyBadRows, match=message):
        prepare(CONFIG, raw, tmp_path / "out")
    config = PrepareConfig(image_size=8, records=False, images=tmp_path / "photos")
    prepare(config, raw, tmp_path / "out")
    assert len(Dataset.load(tmp_path / "out").images) == 41
    (raw / "images").unlink()  # the names now count from the folder of the pictures
    (tmp_path / "photos").rename(tmp_path / "images")
    config = PrepareConfig(image_size=8, records=False, images=tmp_path)
    prepare(config, raw, tmp_path / "again")
    assert len(Dataset.load(tmp_path / "again").images) == 41
    with pytest.raises(InputError, match="is not a folder: expected the folder of the pictures"):
        prepare(PrepareConfig(images=tmp_path / "absent"), raw, tmp_path / "out")


def test_the_pictures_folder_opens_no_other_folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(picture(1))
    (tmp_path / "raw").mkdir()
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "secret.jpg", tmp_path / "photos" / "x.jpg")
    source = files.SourceFolder(tmp_path / "raw", None, tmp_path / "photos")
    for name in ("../secret.jpg", "x.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(InputError):
            source.image(name)


@pytest.mark.parametrize(("stored", "named"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_picture_names_may_be_written_in_both_ways(stored, named, tmp_path):
    (tmp_path / unicodedata.normalize(stored, "lämpchen é.jpg")).write_bytes(picture(1))
    found = files.SourceFolder(tmp_path).image(unicodedata.normalize(named, "lämpchen é.jpg"))
    assert found.read_bytes() == picture(1)


def test_reading_a_table_imports_neither_pandas_nor_pyarrow(tmp_path):
    (tmp_path / "products.csv").write_text(table(",", "|"))
    code = (
        "import sys; from pathlib import Path; from mufin_jax.data.readers import *;"
        "load_catalogue(Path(sys.argv[1]), Tally(0.05), 15, 10**7);"
        "print([name for name in ('pandas', 'pyarrow') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "ASIN,title\rB1,lamp\rB2,chair\r",
            r"products\.csv has lines that end in CR alone",
        ),
        ("ASIN,title," + "x" * 200_000 + "\nB1,lamp,1\n", r"products\.csv:1: field larger than"),
        ('ASIN,title\nB1,"lamp\n' + "x" * 200_000, r"products\.csv:2: field larger than"),
    ],
)
def test_a_table_that_is_no_csv_is_one_line(content, message, tmp_path):
    (tmp_path / "products.csv").write_text(content, newline="")
    with pytest.raises(InputError, match=message) as error:
        load_catalogue(tmp_path, Tally(0.05), 15, 10**7)
    assert "\n" not in str(error.value)


def test_a_cell_in_brackets_that_is_no_list_is_cut_as_any_other():
    assert split_cell("['a', 'b']", None, "|") == ["a", "b"]
    assert split_cell("[a\rb|c]", None, "|") == ["[a\rb", "c]"]
    long = "[" + "x" * 200_000 + "]"
    assert split_cell(long, None, "|") == [long]
