"""Tiny raw catalogues in each format that users have: how tests write, break and read them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from PIL import Image

from mufin_jax.data.readers import Catalogue, load_catalogue
from mufin_jax.data.readers.tally import Tally

SIDES = ("train", "test", "label")
_SHORT = {"train": "trn", "test": "tst", "label": "lbl"}

Titles = Mapping[str, Sequence[tuple[str, str]]]
Pairs = Sequence[Sequence[int]]

# Nine items. An id or a title may contain a separator of the format, or be on several sides.
TITLES = {
    "train": [("A,B", "a -> b"), ("C", ""), ("D", "d")],
    "test": [("E", "e"), ("F", "f")],
    "label": [("A,B", "x"), ("G", "y"), ("E", "z"), ("D", "w")],
}
RELEVANCE = {"train": [[3, 1], [], [0, 2]], "test": [[2, 3], [0]]}


def read_catalogue(
    folder: Path, max_bad: float = 0.05, max_images: int = 15
) -> tuple[Catalogue, Tally]:
    """Return the catalogue of a raw folder, and the tally of its bad rows."""
    tally = Tally(max_bad)
    return load_catalogue(folder, tally, max_images, 10_000_000), tally


def colour(number: int) -> tuple[int, int, int]:
    """Return a colour for each number below 512; JPEG changes it by far less than a step."""
    return tuple(16 + 32 * (number >> shift & 7) for shift in (0, 3, 6))  # pyright: ignore


def number_of(pixels: np.ndarray) -> int:
    """Return the number whose `colour` is in the middle of a picture."""
    middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
    return int(sum(round((middle[i] - 16) / 32) << 3 * i for i in range(3)))


def picture(number: int, size: tuple[int, int] = (24, 24), form: str = "JPEG") -> bytes:
    """Return a picture file of one `colour`."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour(number)).save(buffer, form)
    return buffer.getvalue()


def write_matrix(path: Path, rows: Pairs, num_columns: int) -> None:
    """Write a relevance file in the repository's text format."""
    lines = [f"{len(rows)} {num_columns}"]
    lines += [" ".join(f"{label}:1.0" for label in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")


def write_pairs(path: Path, pairs: Sequence[tuple[int, int]]) -> None:
    """Write a filter file."""
    path.write_text("".join(f"{point} {label}\n" for point, label in pairs))


def write_repository(
    folder: Path,
    titles: Titles,
    relevance: Mapping[str, Pairs],
    images: Mapping[str, Sequence[Sequence[int]]] | None = None,
    order: Sequence[int] | None = None,
) -> Path:
    """Write a catalogue in the format of the Extreme Classification Repository.

    Args:
      folder: The folder to make.
      titles: For each side, `(uid, title)` of each item.
      relevance: For "train" and "test", the labels of each point.
      images: For each side, the numbers of each item's pictures (see `picture`).
      order: The order of the pictures' lines in img.bin; by number if None.
    """
    (folder / "raw_data").mkdir(parents=True)
    for side in SIDES:
        lines = "".join(f"{uid}->{title}\n" for uid, title in titles[side])
        (folder / "raw_data" / f"{side}.raw.txt").write_text(lines)
    for side in SIDES[:2]:
        write_matrix(folder / f"{_SHORT[side]}_X_Y.txt", relevance[side], len(titles["label"]))
    if images is not None:
        (folder / "images").mkdir()
        numbers = sorted({n for side in SIDES for item in images[side] for n in item})
        offsets, bin_file = {}, b""
        for number in order if order is not None else numbers:
            offsets[number] = len(bin_file)
            bin_file += b"P%d\t%s\n" % (number, base64.b64encode(picture(number)))
        (folder / "images" / "img.bin").write_bytes(bin_file)
        for side in SIDES:
            flat = [offsets[number] + 1.0 for item in images[side] for number in item]
            indptr = np.cumsum([0] + [len(item) for item in images[side]])
            matrix = scipy.sparse.csr_matrix(
                (np.array(flat, float), np.arange(len(flat)), indptr),
                (len(images[side]), len(flat)),
            )
            scipy.sparse.save_npz(folder / "images" / f"{side}.img.bin.npz", matrix)
    return folder


def write_json_lines(folder: Path, **files: Sequence[Mapping]) -> Path:
    """Write `<name>.jsonl` for each list of objects, and the pictures that they name.

    The picture `images/7.jpg` has the colour of number 7.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, items in files.items():
        lines = "".join(json.dumps(item) + "\n" for item in items)
        (folder / f"{name}.jsonl").write_text(lines)
        for path in (path for item in items for path in item.get("images") or ()):
            stem = Path(path).stem
            if path.startswith("images/") and stem.isdigit():
                form = "PNG" if path.endswith(".png") else "JPEG"
                (folder / path).write_bytes(picture(int(stem), form=form))
    return folder


def numbered_products(count: int) -> list[dict]:
    """Return products for `write_json_lines`: product i shows picture i, and its label is "L"."""
    return [
        {"ASIN": f"A{i}", "title": f"title {i}", "images": [f"images/{i}.jpg"], "also_buy": ["L"]}
        for i in range(count)
    ]


LABEL = {"ASIN": "L", "images": ["images/300.jpg"]}
"""The label of `numbered_products`."""


def write_vectors(
    folder: Path,
    titles: Titles,
    relevance: Mapping[str, Pairs],
    vectors: Mapping[str, np.ndarray],
    maps: Mapping[str, Sequence[Sequence[int] | int]],
) -> Path:
    """Write a catalogue with ready image vectors; `maps` become arrays of objects."""
    folder.mkdir(parents=True)
    for side in SIDES:
        lines = "".join(f"{uid}->{title}\n" for uid, title in titles[side])
        (folder / f"{_SHORT[side]}.raw.txt").write_text(lines)
        np.save(folder / f"{_SHORT[side]}_embs_imgs_3_{vectors[side].shape[1]}.npy", vectors[side])
        entries = np.empty(len(maps[side]), object)
        for i, rows in enumerate(maps[side]):
            entries[i] = rows
        np.save(folder / f"{_SHORT[side]}_imgs_384_3_map.npy", entries, allow_pickle=True)
    for side in SIDES[:2]:
        write_matrix(folder / f"{_SHORT[side]}_X_Y.txt", relevance[side], len(titles["label"]))
    return folder


def tiny_repository(folder: Path, num_items: int = 40) -> Path:
    """Write a valid catalogue with text and images: `num_items` points a side, half as many labels.

    Label l is relevant to the points 2 l and 2 l + 1; item i of a side has picture i.
    """
    labels = num_items // 2
    titles = {
        "train": [(f"A{i}", f"red chair {i}") for i in range(num_items)],
        "test": [(f"B{i}", f"blue table {i}") for i in range(num_items)],
        "label": [(f"C{i}", f"green lamp {i}") for i in range(labels)],
    }
    relevance = {side: [[i // 2] for i in range(num_items)] for side in SIDES[:2]}
    images = {side: [[i] for i in range(len(titles[side]))] for side in SIDES}
    return write_repository(folder, titles, relevance, images)


def many_pictures(folder: Path, count: int) -> Path:
    """Write a catalogue of so many pictures, five to a training item, for tests of memory."""
    items = count // 5
    titles = {side: [(f"{side}{i}", f"title {i}") for i in range(items)] for side in SIDES}
    relevance = {side: [[0]] * items for side in SIDES[:2]}
    images: dict[str, list[list[int]]] = {side: [[]] * items for side in SIDES}
    images["train"] = np.arange(count).reshape(-1, 5).tolist()
    return write_repository(folder, titles, relevance, images)


def break_pictures(folder: Path, count: int) -> None:
    """Break the first pictures of a catalogue in the repository's form."""
    path = folder / "images" / "img.bin"
    # A base64 text of the same length, so the offsets of the other pictures stay right.
    path.write_bytes(path.read_bytes().replace(b"/9j/", b"AAAA", count))


def tiny_outfits(folder: Path, where: str = "disjoint") -> Path:
    """Write valid outfits: items 1..9 in training, 10..17 in test; item n has picture n.

    Question 0 asks which of 12, 16, 13 and 17 fits 10 and 11; question 1 has an item of training.
    """

    def outfit(set_id: str, *items: int) -> dict:
        members = [{"item_id": str(item), "index": i} for i, item in enumerate(items, 1)]
        return {"set_id": set_id, "items": members}

    train = [outfit("7", 1, 2, 3, 4), outfit("8", 5, 6), outfit("9", 7, 8, 9, 1)]
    test = [outfit("21", 10, 11, 12), outfit("22", 13, 14, 15), outfit("23", 16, 17, 2)]
    asked = [
        {"question": ["21_1", "21_2"], "answers": ["22_1", "21_3", "23_1", "23_2"]},
        {"question": ["23_3", "23_2"], "answers": ["23_1", "21_1", "21_2", "22_3"]},
    ]
    metadata = {
        str(n): {"title": f"garment {n}", "url_name": f"url {n}", "semantic_category": "tops"}
        for n in range(1, 18)
    }
    metadata["3"]["title"] = ""  # the url_name is read instead
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir()
    for n in range(1, 18):
        (folder / "images" / f"{n}.jpg").write_bytes(picture(n))
    found = {"train": train, "test": test, "fill_in_blank_test": asked}
    for name, entries in found.items():
        (folder / where / f"{name}.json").write_text(json.dumps(entries))
    (folder / "polyvore_item_metadata.json").write_text(json.dumps(metadata))
    judged = "1 21_1 21_2 21_3\n0 21_1 22_1 23_1\n"
    (folder / where / "compatibility_test.txt").write_text(judged)
    return folder
