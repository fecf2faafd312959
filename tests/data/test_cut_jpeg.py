"""JPEGs that lack their end: how much is missing, and what is read of them by an option."""

import functools
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_folders import write_json_lines

from mufin_jax.data.cut_jpeg import complete
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import BadImage, read_image
from mufin_jax.data.preparation import resize_beam
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.preparation.resize_one import Resized, Resizer
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.prediction.pictures import read_picture
from mufin_jax.runtime.errors import InputError, TooManyBadRows

HEIGHT, WIDTH = 400, 296
STRETCH = ImageProcessing(64, "stretch")


def photo(**options) -> bytes:
    steps = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3))
    smooth = np.cumsum(np.cumsum(steps, 0), 1)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    out = io.BytesIO()
    Image.fromarray(smooth.astype(np.uint8)).save(out, "JPEG", quality=85, **options)
    return out.getvalue()


WHOLE = {"baseline": photo(), "progressive": photo(progressive=True)}


def rows_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"))


@pytest.mark.parametrize("kind", WHOLE)
def test_the_missing_share_is_that_of_the_rows_that_differ(kind):
    whole = rows_of(WHOLE[kind])
    for share in np.linspace(0.7, 0.999, 10):
        cut = WHOLE[kind][: int(len(WHOLE[kind]) * share)]
        found = complete(cut, 10**7, 0.5)
        if found is None:
            assert kind == "progressive", share  # a cut within the tables of a pass, or far up
            continue
        data, missing = found
        sound = int((1 - missing) * HEIGHT) - 16
        np.testing.assert_array_equal(rows_of(data)[:sound], whole[:sound])
        if kind == "baseline":
            assert missing == pytest.approx(1 - share, abs=0.12)
            assert complete(cut, 10**7, missing / 2) is None or missing == 0


def test_a_cut_within_a_mark_is_a_cut_in_front_of_it():
    """Noise after the first byte of a mark would be another mark, and the rest would count."""
    data = WHOLE["baseline"]
    cut = data[: data.index(b"\xff\x00", len(data) * 9 // 10) + 1]
    whole, missing = complete(cut, 10**7, 0.5) or (b"", 0)
    assert missing > 0.01 and (whole, missing) == complete(cut[:-1], 10**7, 0.5)


def test_what_is_no_jpeg_without_its_end_is_left_alone(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (9, 9)).save(png, "PNG")
    for data in (b"", b"\xff\xd8", b"\xff\xd8\xff", b"GIF89a", png.getvalue()[:40]):
        assert complete(data, 10**7, 0.5) is None
    cut = WHOLE["baseline"][:-50]
    assert complete(cut, len(cut) - 1, 0.5) is None
    (tmp_path / "a.jpg").write_bytes(cut)
    assert complete(tmp_path / "a.jpg", 10**7, 0.5) == complete(cut, 10**7, 0.5) != None  # noqa: E711
    with pytest.raises(BadImage, match="truncated"):
        read_image(cut, STRETCH)


def catalogue(folder: Path, *shares: float) -> Path:
    """Write products of which the first ones show pictures cut to these shares of their bytes."""
    names = [f"images/{i}.jpg" if i < len(shares) else "images/whole.jpg" for i in range(40)]
    products = [
        {"ASIN": f"A{i}", "title": f"t {i}", "images": [name], "also_buy": ["A0", "A1", "A2"]}
        for i, name in enumerate(names)
    ]
    write_json_lines(folder, products=products)
    for i, name in enumerate(names):
        share = shares[i] if i < len(shares) else 1
        (folder / name).write_bytes(WHOLE["baseline"][: int(share * len(WHOLE["baseline"]))])
    return folder


def prepared(folder: Path, **changes) -> tuple[Dataset, dict]:
    config = PrepareConfig(image_size=64, fit="stretch", max_bad=0.7, max_tokens=8, **changes)
    prepare(config, folder / "raw", folder / "prepared")
    report = json.loads((folder / "prepared" / "prepare_report.json").read_text())
    return Dataset.load(folder / "prepared"), report


def test_a_picture_without_its_end_is_broken_unless_the_option_allows_it(tmp_path):
    catalogue(tmp_path / "raw", 0.97, 0.6)
    dataset, report = prepared(tmp_path, records=False)
    assert report["counts"] == {"broken image": 2}
    with pytest.raises(InputError, match=r"a query: picture: cannot be decoded .*truncated"):
        read_picture((tmp_path / "raw" / "images" / "0.jpg").read_bytes(), dataset, "a query")
    dataset, report = prepared(tmp_path, missing_rows=0.1)
    assert report["counts"] == {"broken image": 1, "image without its end": 1}
    (noted,) = [one for one in report["listed"] if one["kind"] == "image without its end"]
    assert noted["file"] == "products.jsonl" and noted["row"] == 1
    assert noted["reason"] == "images/0.jpg: 4% of its rows are missing, and filled"
    (fact,) = [one for one in report["summary"] if one["what"] == "image without its end"]
    assert (fact["number"], fact["of"]) == (1, 3)
    whole = read_image(WHOLE["baseline"], STRETCH).astype(int)
    found = dataset.images[np.arange(len(dataset.images))].astype(int)
    errors = np.abs(found - whole).mean((1, 2, 3))
    cut = (tmp_path / "raw" / "images" / "0.jpg").read_bytes()
    np.testing.assert_array_equal(read_picture(cut, dataset, "a query"), found[errors.argmax()])
    assert len(found) == 2 and errors.min() == 0 and 0 < errors.max() < 5


def test_a_shard_of_beam_tells_of_a_missing_end_too(tmp_path):
    folder = SourceFolder(catalogue(tmp_path / "raw", 0.97, 0.6))
    names = ImageFiles(folder)
    keys = np.array([names.add(f"images/{name}.jpg") for name in ("whole", "0", "1")])
    read = functools.partial(read_image, processing=STRETCH)
    resizer, spool = Resizer(names, read, 64, True, True, 0.1), JpegSpool(tmp_path / "spool")
    spool.create()
    np.save(spool.folder / "keys.npy", keys)
    resize_beam._Shards(resizer, spool, 10)(0)
    whole, cut, broken = resize_beam._collect(0, resizer, spool)
    assert isinstance(whole, Resized) and (whole.missing, whole.name) == (0.0, "")
    assert isinstance(cut, Resized) and 0 < cut.missing <= 0.1 and cut.name == "images/0.jpg"
    assert whole.pixels is not None and whole.pixels.shape == (64, 64, 3)
    assert isinstance(broken, BadImage) and "truncated" in str(broken)


def test_the_option_is_a_share(tmp_path):
    with pytest.raises(InputError, match=r"missing_rows is 0\.6: expected a share from 0 to 0\.5"):
        PrepareConfig(missing_rows=0.6)
    with pytest.raises(TooManyBadRows):
        catalogue(tmp_path / "raw", *[0.3] * 20)
        prepare(PrepareConfig(missing_rows=0.1), tmp_path / "raw", tmp_path / "out")
