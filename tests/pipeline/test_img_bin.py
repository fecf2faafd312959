"""The command that writes img.bin: every kind of picture, in order, and no other file."""

from pathlib import Path

import numpy as np
import pytest
from raw_folders import SIDES, number_of, picture, tiny_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.pipeline.img_bin import ImgBinConfig, main, pictures_of, write_img_bin
from mufin_jax.runtime.errors import InputError

FILES = {"2.jpg": 2, "10.png": 10, "1.jpeg": 1, "3.JPG": 3, "7.webp": 7, "8.gif": 8, "9.bmp": 9}
"""The name of each picture, and the number that its colour tells."""
FORMS = {"png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}


@pytest.fixture
def raw(tmp_path) -> Path:
    """A repository without pictures, whose items 0 and 2 of the labels have some."""
    folder = tiny_repository(tmp_path / "raw")
    for path in (folder / "images").iterdir():
        path.unlink()
    return folder


def ids(raw: Path, side: str) -> list[str]:
    lines = (raw / "raw_data" / f"{side}.raw.txt").read_text().splitlines()
    return [line.partition("->")[0] for line in lines]


def show(folder: Path, uid: str, files: dict[str, int]) -> None:
    (folder / uid).mkdir(parents=True)
    for name, number in files.items():
        form = FORMS.get(name.rpartition(".")[2].lower(), "JPEG")
        (folder / uid / name).write_bytes(picture(number, form=form))


def test_all_kinds_of_pictures_are_written_in_order_and_read_again(raw, tmp_path, caplog):
    pictures = tmp_path / "pictures"
    labels, points = ids(raw, "label"), ids(raw, "train")
    show(pictures, labels[0], FILES)
    (pictures / labels[0] / "._0.jpg").write_bytes(b"macOS")
    (pictures / labels[0] / "notes.txt").write_text("no picture")
    (pictures / labels[0] / "5.jpg").mkdir()
    (pictures / f"{labels[2]}.png").write_bytes(picture(5, form="PNG"))
    for uid in {*points, *ids(raw, "test")} - {labels[0], labels[2]}:
        (pictures / f"{uid}.jpg").write_bytes(picture(6))
    assert main([f"--data={raw}", f"--pictures={pictures}"]) == 0
    assert {path.name for path in (raw / "images").iterdir()} == {
        "img.bin", *(f"{side}.img.bin.npz" for side in SIDES)
    }  # fmt: skip

    config = PrepareConfig(image_size=16, records=False, vocab_size=128, max_tokens=8)
    prepare(config, raw, tmp_path / "prepared")
    dataset = Dataset.load(tmp_path / "prepared")
    shown = {
        uid: [number_of(pixels) for pixels in dataset.images[side.images_of(i)]]
        for side in (dataset.train, dataset.test, dataset.labels)
        for i, uid in enumerate(side.ids)
    }
    assert shown[labels[0]] == sorted(FILES.values())
    assert shown[labels[2]] == [5] and 6 in np.concatenate([*shown.values()])


def test_large_files_and_items_without_a_picture_are_counted(raw, tmp_path, caplog):
    labels = ids(raw, "label")
    show(tmp_path / "pictures", labels[0], {"0.jpg": 1})
    (tmp_path / "pictures" / labels[0] / "1.jpg").write_bytes(bytes(5000))
    found = write_img_bin(ImgBinConfig(raw, tmp_path / "pictures", max_bytes=4999))
    every = len({uid for side in SIDES for uid in ids(raw, side)})
    assert found == {
        "items": every, "without a picture": every - 1, "pictures": 1, "left out": 1
    }  # fmt: skip
    assert "1.jpg: larger than 4999 bytes: left out" in caplog.text


def test_nothing_is_written_without_a_picture(raw, tmp_path):
    with pytest.raises(InputError, match="is not a folder: expected the folder of the pictures"):
        write_img_bin(ImgBinConfig(raw, tmp_path / "none"))
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=r"none of the .* items has a picture; expected .*/0\.jpg"):
        write_img_bin(ImgBinConfig(raw, tmp_path / "pictures"))
    assert not list((raw / "images").iterdir())


def test_an_id_that_is_no_plain_name_has_no_pictures(tmp_path):
    show(tmp_path / "pictures", "a", {"0.jpg": 1})
    (tmp_path / "0.jpg").write_bytes(picture(1))
    for uid in ("..", ".", "", "a/..", "../pictures/a", "a\\b", "a\0", "x" * 300, ".a"):
        assert pictures_of(tmp_path / "pictures", uid) == []
    assert [path.name for path in pictures_of(tmp_path / "pictures", "a")] == ["0.jpg"]
