"""Fields of the labels are kept for filters, whatever form the products have."""

import csv
import gzip
import json

import numpy as np
import pytest
from raw_folders import tiny_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.kept_fields import FILE, KeptFields
from mufin_jax.data.preparation.prepare import REPORT, PrepareConfig, prepare
from mufin_jax.data.readers import load_catalogue
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import load_json

COUNT = 12
PRICES = [None if i == 2 else f"${1000 + i:,}.50" for i in range(COUNT)]


def products():
    """Return products that all go with each other; the category of one is missing."""
    ids = [f"B{i:02}" for i in range(COUNT)]
    return [
        {"asin": uid, "title": f"thing {i}", "also_buy": [one for one in ids if one != uid],
         "category": None if i == 1 else ["Home", f"kind {i % 3}"], "price": PRICES[i]}
        for i, uid in enumerate(ids)
    ]  # fmt: skip


def write(folder, form):
    """Write the products in a form, and return the file."""
    rows, path = products(), folder / form
    if form.endswith((".csv", ".tsv")):
        with path.open("w", newline="") as file:
            table = csv.writer(file, delimiter="," if form.endswith(".csv") else "\t")
            table.writerow(rows[0])
            for row in rows:
                table.writerow(
                    "|".join(one) if isinstance(one, list) else one or "" for one in row.values()
                )
    elif form.endswith(".parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif form.endswith(".gz"):
        path.write_bytes(gzip.compress("\n".join(map(repr, rows)).encode()))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize(
    "form", ["products.jsonl", "products.csv", "products.tsv", "x.parquet", "meta_Home.json.gz"]
)
def test_every_form_of_products_gives_the_same_fields(tmp_path, form):
    path, config = write(tmp_path, form), PrepareConfig(keep=("category", "price"))
    side = load_catalogue(path, Tally(0.05), 15, 1 << 20, config.parsed_columns).sides["label"]
    found = KeptFields.build(("category", "price"), side.kept_fields)
    assert found.kinds() == {"category": "text", "price": "number"}
    for uid, texts, price in zip(side.ids, *(f.rows() for f in found.fields.values()), strict=True):
        i = int(uid[1:])
        assert texts == (None if i == 1 else ("Home", f"kind {i % 3}"))
        assert price == (None if i == 2 else 1000.5 + i)


def test_a_prepared_folder_has_the_fields_of_its_labels_and_tells_what_they_lack(tmp_path):
    (tmp_path / "data").mkdir()
    rows = products()
    rows[3]["price"] = "on request"
    rows[4] |= {"title": "", "also_buy": []}  # is left out: nothing is to be seen of it
    text = "\n".join(map(json.dumps, rows))
    (tmp_path / "data" / "products.jsonl").write_text(text)
    config = PrepareConfig(keep=("price:number", "category"), records=False, vocab_size=64)
    prepare(config, tmp_path / "data", tmp_path / "out")
    dataset, fields = Dataset.load(tmp_path / "out"), KeptFields.load(tmp_path / "out" / FILE)
    assert len(fields) == dataset.num_labels and "B04" not in list(dataset.labels.ids)
    wanted = [
        {2: np.nan, 3: np.nan}.get(i := int(uid[1:]), 1000.5 + i) for uid in dataset.labels.ids
    ]
    np.testing.assert_array_equal(fields.fields["price"].values, wanted)
    facts = {one["what"]: one for one in load_json(tmp_path / "out" / REPORT)["summary"]}
    assert facts["labels without price"]["number"] == 2
    assert facts["labels without category"]["first"] == "label 'B01'"
    odd = facts["values of price that are no numbers"]
    assert odd["number"] == 1 and odd["first"] == "such as ('on request',); left out"
    # Without the option, no file is written, and the manifest does not know it.
    prepare(PrepareConfig(records=False, vocab_size=64), tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out" / FILE).exists()
    assert "keep" not in Dataset.load(tmp_path / "out").manifest["config"]


def test_a_field_that_no_label_has_is_named_with_those_that_there_are(tmp_path):
    path, columns = write(tmp_path, "products.jsonl"), PrepareConfig(keep=("pirce",)).parsed_columns
    with pytest.raises(InputError, match="no item has a value in 'pirce', which keep names; found"):
        load_catalogue(path, Tally(0.05), 15, 1 << 20, columns)


def test_a_form_without_fields_has_none_to_keep(tmp_path):
    folder, columns = tiny_repository(tmp_path / "raw"), PrepareConfig(keep=("a",)).parsed_columns
    with pytest.raises(InputError, match=r"has no fields to keep: leave --prepare.keep out"):
        load_catalogue(folder, Tally(0.05), 15, 1 << 20, columns)
