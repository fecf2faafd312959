"""Damaged data sets, prepared folders and checkpoints, and a script that reads them.

    python hostile_files.py COUNT SEED [KIND ...]    prints the outcomes of each kind as JSON

A process of its own reads them: Python cannot catch a crash in compiled code.
"""

import csv
import dataclasses
import faulthandler
import gzip
import importlib
import io
import json
import math
import re
import shutil
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile_json
import numpy as np
import raw_folders
from mutation import EXTREMES, cost, limit_memory, mutated
from places import GOLDEN

from mufin_jax.data import tokenizer_trial
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.images import read_image
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.tokenizer import Tokenizer
from mufin_jax.data.tokenizer_trial import load_tried
from mufin_jax.encoders.pretrained import (
    image_processing,
    load_image_encoder,
    load_text_encoder,
)
from mufin_jax.runtime.errors import MufinError
from mufin_jax.runtime.storage.files import MANIFEST, save_sealed
from mufin_jax.runtime.storage.npy import mapped

CONFIG = PrepareConfig(
    image_size=8, records=False, vocab_size=64, max_tokens=8, max_images=3, max_bad=0.4
)
SIDES = ("train", "test", "label")
JSON_TOKENS = [
    *("[" * 100_000, '{"a":' * 50_000, "[" * 900 + "]" * 900, "NaN", "Infinity", "-Infinity"),
    *("1e999", "-1e999", "9" * 5000, "-" + "9" * 4000, "1" + "0" * 400, "18446744073709551616"),
    *("-9223372036854775809", "0.1", "-1", "0", "null", "true", "{}", "[]", '""', "[[]]", "01"),
    *('"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"a\\nb"', '"%s"' % ("x" * 2_000_000), "\0"),
    *('{"a":1,"a":2}', '"\\', "1e", "[1,]", "\ufeff", '"../../x"', '"/etc/passwd"', "'a'", "#"),
]
WORDS = [
    *("9" * 5000, "9" * 4000, "-1", "-0", "nan", "inf", "-inf", "1e308", "1e999", "1e18", "0x10"),
    *("1_0", "٣", "1:1:1", ":", "::", "->", "\0", "\x1a", "\u2028", "\ufeff", "", "1.5", "1e-400"),
    *("x" * 2_000_000, "0 " * 100_000, "0:1 " * 100_000, "\n" * 100_000, "\r", "\t", "=" * 999),
]
SHAPES = [
    *((2**62,), (2**40, 1), (-1,), (0,), (0, 4), (10**9, 0), (2**63, 2), (3, -4), (1, 1, 1, 1)),
    *((), (10**12, 10**12), (True, 4), (1,) * 40),
]
DTYPES = ["|O", "|V0", "|S0", "<U0", "<f2", "<f8", "<c16", ">i8", "|b1", "<M8[s]", "<i4", "|V8",
          "|i1", "<U9999999", [("a", "<i4")], "object", "<f4,<f4"]  # fmt: skip


def retold(data: bytes, rng: np.random.Generator, tokens: list[str]) -> bytes:
    """Replace one token of a text (mostly a number or a quoted string) by a hostile one."""
    found = list(re.finditer(rb'"[^"\n]*"|[^\s,:\[\]{}"]+|\n', data))
    token = str(tokens[int(rng.integers(len(tokens)))]).encode("utf-8", "surrogatepass")
    if not found:
        return token
    at = found[int(rng.integers(len(found)))]
    return data[: at.start()] + token + data[at.end() :]


def npy(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the shape or type in the header of a npy file, or one of its numbers."""
    file = io.BytesIO(data)
    try:
        np.lib.format.read_magic(file)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError:
        return data[::-1]
    descr: Any = np.lib.format.dtype_to_descr(dtype)
    match int(rng.integers(4)):
        case 0:
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
        case 1:
            descr = DTYPES[int(rng.integers(len(DTYPES)))]
        case 2:
            shape = tuple(side + int(rng.integers(-2, 3)) for side in shape)
        case _:  # another number
            kind = np.dtype("<i8") if dtype.hasobject else dtype
            body = np.frombuffer(data[file.tell() :][: -1 or None], np.uint8).copy()
            if len(body) >= kind.itemsize > 0:
                body = body[: len(body) // kind.itemsize * kind.itemsize]
                view = body.view(f"V{kind.itemsize}")
                value = int(rng.choice(EXTREMES)) % 2 ** (8 * min(8, kind.itemsize))
                view[int(rng.integers(len(view)))] = value.to_bytes(kind.itemsize, "little")
            return data[: file.tell()] + body.tobytes()
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape}).encode()
    if rng.random() < 0.1:
        header = b"(" * 5000 if rng.random() < 0.5 else header[:-1]
    header = header.ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data[file.tell() :]


def npz(data: bytes, rng: np.random.Generator) -> bytes:
    """Make an archive in which one member is damaged, missing, repeated or very large."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, out = int(rng.integers(len(members))), io.BytesIO()
    name, content = members[at]
    match int(rng.integers(6)):
        case 0:
            members[at] = (name, mutated(content, members[0][1], rng))
        case 1:
            del members[at]
        case 2:
            members.append((name, members[0][1]))
        case 3 if rng.random() < 0.2:
            members[at] = (name, content + bytes(100_000_000))
        case _:
            members[at] = (name, npy(content, rng))
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of repeated names
        for name, content in members:
            archive.writestr(name, content)
    made = bytearray(out.getvalue())
    if rng.random() < 0.15:  # a wrong method, size or flag in the archive's directory
        place = made.index(b"PK\1\2") + int(rng.choice([8, 10, 20, 24]))
        made[place : place + 2] = struct.pack("<H", int(rng.choice([1, 99, 0xFFFF, 9])))
    return bytes(made)


def safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a checkpoint's header: overlaps, wrong lengths, other types or shapes."""
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    names = sorted(name for name in header if name != "__metadata__")
    at = header[names[int(rng.integers(len(names)))]]
    dtypes = ["F8_E4M3", "BF16", "F64", "I8", "BOOL", "C64", "F4", "U64", "Q", None, "F16"]
    shapes = [[2**62], [2**32, 2**32], [0], [], [-1], [1.5], "x", [1] * 40, at["shape"][::-1]]
    shapes += [[*at["shape"], 1], [int(np.prod(at["shape"]))]]
    match int(rng.integers(7)):
        case 0:
            at["dtype"] = dtypes[int(rng.integers(len(dtypes)))]
        case 1:
            at["shape"] = shapes[int(rng.integers(len(shapes)))]
        case 2:
            at["data_offsets"][int(rng.integers(2))] = int(rng.choice(EXTREMES))
        case 3:
            header[str(rng.choice(["x" * 5000, "a\nb", "", names[0] + ".weight"]))] = at
        case 4:
            header = json.loads(json.dumps(header).replace(names[0], names[-1]))
        case 5:
            return retold(data[: 8 + size], rng, JSON_TOKENS) + body
        case _:
            return struct.pack("<Q", int(rng.choice(EXTREMES))) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def damaged(name: str, data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file in a way that suits its format, or in any way."""
    if rng.random() < 0.3:
        return mutated(data, other, rng)
    if name.endswith(".json") and rng.random() < 0.5:
        change = hostile_json.restructured
        return (hostile_json.tokenizer if name == "tokenizer.json" else change)(data, rng)
    if name.endswith((".gz",)):
        text = retold(gzip.decompress(data), rng, JSON_TOKENS)
        if rng.random() < 0.1:  # an archive of a few kilobytes
            more = [b"\n" * 50_000_000, b"{}\n" * 10_000_000, b"x" * 50_000_000]
            text += more[int(rng.integers(3))] + b"x"
        return gzip.compress(text, 9)
    ways: dict[str, Callable[[], bytes]] = {
        ".npz": lambda: npz(data, rng),
        ".npy": lambda: npy(data, rng),
        ".safetensors": lambda: safetensors(data, rng),
        ".txt": lambda: retold(data, rng, WORDS),
        ".csv": lambda: retold(data, rng, [*WORDS, '"', ",", "\n", '",\n"']),
        ".parquet": lambda: hostile_json.parquet(data, rng),
        ".bin": lambda: retold(data, rng, WORDS),
    }
    return ways.get(Path(name).suffix, lambda: retold(data, rng, JSON_TOKENS))()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of folder: how it is made, and how it is read."""

    make: Callable[[Path], object]
    use: Callable[[Path, Path], object]
    sealed: bool = False
    most: float = 1.0
    """Share of its trials that are made; kinds that open slowly have few."""


def _titles() -> dict[str, list[tuple[str, str]]]:
    return {s: [(f"{s}{i}", f"red chair {i}") for i in range(9)] for s in SIDES}


_PAIRS = {side: [[i] for i in range(9)] for side in SIDES[:2]}


def _repository(folder: Path) -> None:
    images = {side: [[i] for i in range(9)] for side in SIDES}
    raw_folders.write_repository(folder, _titles(), _PAIRS, images)
    raw_folders.write_pairs(folder / "filter_labels_train.txt", [(0, 1), (2, 3)])
    raw_folders.write_pairs(folder / "filter_labels_test.txt", [(0, 1), (2, 3)])
    (folder / "categories.txt").write_text("".join(f"kind {i % 3}\n" for i in range(9)))
    (folder / "ceiling.json").write_text('{"P@1": 50.0, "of": "words"}')


def _vectors(folder: Path) -> None:
    vectors = {side: np.ones((9, 4), np.float32) for side in SIDES}
    maps = {side: [[i] if i % 2 else i for i in range(9)] for side in SIDES}
    raw_folders.write_vectors(folder, _titles(), _PAIRS, vectors, maps)
    np.save(folder / "lbl_imgs_384_3_map.npy", np.arange(9))


def _products(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"ASIN": f"B{i}", "title": f"lamp {i}", "images": [f"images/{i % 3}.png"],
         "also_buy": [f"B{(i + 1) % count}", "C7"], "category": f"kind {i % 3}", **more}
        for i in range(count)
    ]  # fmt: skip


def _json_lines(folder: Path) -> None:
    points = _products(9, also_buy=None, target_ind=[0, 3], target_rel=[1, 0.5])
    raw_folders.write_json_lines(folder, trn=points, tst=_products(9), lbl=_products(9))
    raw_folders.write_pairs(folder / "filter_labels_test.txt", [(0, 1), (2, 3)])


def _archives(folder: Path) -> None:
    products = _products(40)
    for i, product in enumerate(products):  # so many that test points share labels with training
        product["also_buy"] = [f"B{(i + k) % 40}" for k in range(1, 4)]
    raw_folders.write_json_lines(folder, products=products)
    (folder / "products.jsonl.gz").write_bytes(
        gzip.compress((folder / "products.jsonl").read_bytes())
    )
    (folder / "products.jsonl").unlink()


def _wide(ending: str) -> Callable[[Path], None]:
    """Return what writes the products of `_archives` as one file with another ending."""

    def make(folder: Path) -> None:
        _archives(folder)
        path = folder / "products.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        path.unlink()
        cells = [{k: "|".join(v) if isinstance(v, list) else v for k, v in r.items()} for r in rows]
        if ending == ".json":
            (folder / "products.json").write_text(json.dumps({"total": 40, "products": rows}))
        elif ending == ".csv":
            with (folder / "products.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(cells[0]))
                writer.writeheader()
                writer.writerows(cells)
        else:
            parquet = importlib.import_module("pyarrow.parquet")
            table = importlib.import_module("pyarrow").Table.from_pylist(rows)
            parquet.write_table(table, folder / "products.parquet")

    return make


def _prepare(folder: Path, out: Path) -> None:
    prepare(CONFIG, folder, out)


def _prepared(make: Callable[[Path], object], **changes: Any) -> Callable[[Path], object]:
    def finish(folder: Path) -> None:
        make(folder.with_name("raw"))
        prepare(dataclasses.replace(CONFIG, **changes), folder.with_name("raw"), folder)
        shutil.rmtree(folder.with_name("raw"))

    return finish


def _open(folder: Path, out: Path) -> None:
    """Open a prepared folder and read everything in it."""
    del out
    dataset = Dataset.load(folder, verify=False)
    for side in (dataset.train, dataset.test, dataset.labels):
        _ = list(side.ids), list(side.titles)
        rows = [side.images_of(i) for i in range(len(side))]
        if dataset.image_vectors is not None:
            _ = dataset.image_vectors[np.concatenate(rows)].sum()
        elif len(side):
            _ = dataset.images[np.concatenate(rows)].sum()
        if side is not dataset.labels:
            _ = side.pairs.tocsc().sum(), side.filter is not None and (side.pairs @ side.pairs.T)
        if dataset.text_vectors is None:
            _ = dataset.texts[side.text].sum()
        if side.categories is not None:
            _ = side.categories[1].at(side.categories[0])
    _ = dataset.tokenizer.vocab_size, dataset.processing


_LOADERS = {
    "vit": [load_image_encoder],
    "distilbert": [load_text_encoder],
    "resnet_basic": [load_image_encoder],
    "clip": [load_image_encoder, load_text_encoder, Tokenizer.load],
    "siglip": [load_image_encoder],
    "visual_bert": [load_text_encoder],
    "xlm_roberta": [load_text_encoder, Tokenizer.load],
    "modernbert": [load_text_encoder],
    "efficientnet_lite": [load_image_encoder],
    "dinov2": [load_image_encoder],
}


def _checkpoint(name: str) -> Kind:
    def use(folder: Path, out: Path) -> None:
        for load in _LOADERS[name]:
            load(folder)
        if load_image_encoder in _LOADERS[name]:
            image_processing(folder)

    def make(folder: Path) -> None:
        shutil.copytree(GOLDEN / name, folder, ignore=shutil.ignore_patterns("expected.npz"))

    return Kind(make, use, most=0.5)


def _tokenizer(folder: Path) -> None:
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abc", "##a", "chair"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    Tokenizer.load(folder).save(folder / "tokenizer.json")


def _tokenize(folder: Path, out: Path) -> None:
    del out
    for name in ("tokenizer.json", "vocab.txt"):
        Tokenizer.load(folder / name).encode(["a chair", "b" * 200, ""], 8)


def _tried(folder: Path, out: Path) -> None:
    """Load a tokenizer as a run does, and encode with what passes its trial."""
    del out
    tokenizer_trial.SECONDS = 2
    tokenizer = load_tried(folder / "tokenizer.json", None, 8, ["a chair"])
    ids, lengths = tokenizer.encode(["a chair", "b" * 200, "", "日本"], 8)
    assert 0 <= ids.min() <= ids.max() < tokenizer.vocab_size and lengths.max() <= 8


def _processing(folder: Path) -> None:
    folder.mkdir()
    for name in ("vit", "siglip", "clip", "dinov2", "resnet_basic"):
        (folder / name).mkdir()
        file = f"{name}/preprocessor_config.json"
        shutil.copyfile(GOLDEN / file, folder / file)


def _process(folder: Path, out: Path) -> None:
    """Read a picture as each checkpoint does: it has finite numbers."""
    del out
    for checkpoint in sorted(folder.iterdir()):
        processing = image_processing(checkpoint)
        pixels = read_image(raw_folders.picture(7), processing)
        assert np.isfinite(processing.normalise(pixels)).all()


def _mapped(folder: Path, out: Path) -> None:
    del out
    _ = mapped(folder / "vectors.npy").shape


KINDS = {
    "repository": Kind(_repository, _prepare),
    "json lines": Kind(_json_lines, _prepare),
    "archives": Kind(_archives, _prepare),
    "vectors": Kind(_vectors, _prepare),
    "prepared": Kind(_prepared(_repository), _open, sealed=True),
    "prepared vectors": Kind(_prepared(_vectors), _open, sealed=True),
    "prepared records": Kind(
        _prepared(_repository, records=True, image_array_gb=0.0), _open, sealed=True, most=0.2
    ),
    "vit": _checkpoint("vit"),
    "distilbert": _checkpoint("distilbert"),
    "tokenizer": Kind(_tokenizer, _tokenize),
    "precomputed": Kind(
        lambda folder: (folder.mkdir(), np.save(folder / "vectors.npy", np.ones((9, 4)))), _mapped
    ),
    "resnet": _checkpoint("resnet_basic"),
    "clip": _checkpoint("clip"),
    "siglip": _checkpoint("siglip"),
    "visual_bert": _checkpoint("visual_bert"),
    "xlm_roberta": _checkpoint("xlm_roberta"),
    "modernbert": _checkpoint("modernbert"),
    "efficientnet_lite": _checkpoint("efficientnet_lite"),
    "dinov2": _checkpoint("dinov2"),
    "json in one array": Kind(_wide(".json"), _prepare, most=0.5),
    "csv": Kind(_wide(".csv"), _prepare, most=0.5),
    "parquet": Kind(_wide(".parquet"), _prepare, most=0.5),
    "outfits": Kind(raw_folders.tiny_outfits, _prepare, most=0.5),
    "tried tokenizer": Kind(_tokenizer, _tried, most=0.3),
    "preprocessing": Kind(_processing, _process, most=0.5),
}


def seal_again(folder: Path, name: str, rng: np.random.Generator) -> None:
    """Update a folder's lists of files: otherwise their sizes alone would reveal the damage."""
    lists = [folder / MANIFEST, folder / "records.json"]
    found = []
    for path in lists:
        try:
            found.append(json.loads(path.read_bytes()))
        except (ValueError, RecursionError):
            found.append(None)
    for path, value in zip(lists, found, strict=True):
        files = value.get("files", value) if isinstance(value, dict) else None
        if not isinstance(value, dict):
            continue
        if isinstance(files, dict) and isinstance(files.get(name), dict) and rng.random() < 0.97:
            files[name]["bytes"] = (folder / name).stat().st_size
        value.pop("sha256", None)
        save_sealed(path, value)


def run(kind: Kind, count: int, rng: np.random.Generator, root: Path) -> dict[str, Any]:
    """Repeat `count` times: damage a file, read the folder, and restore the file."""
    folder, out, saved = root / "data", root / "out", root / "saved"
    kind.make(folder)
    shutil.copytree(folder, saved)
    kind.use(folder, out)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    names = [name for name in names if not name.endswith((".png", ".jpg"))]  # see hostile_images.py
    outcomes, wrong = Counter(), []
    slowest = largest = (0.0, "")
    for trial in range(max(1, math.ceil(count * kind.most))):
        name, other = (str(chosen) for chosen in rng.choice(names, 2))
        data = damaged(name, (saved / name).read_bytes(), (saved / other).read_bytes(), rng)
        (folder / name).write_bytes(data)
        if kind.sealed:
            seal_again(folder, name, rng)
        what = f"{trial} {name}"
        with cost() as spent:
            try:
                kind.use(folder, out)
                outcomes["read"] += 1
            except MufinError as error:
                outcomes["rejected"] += 1
                if "\n" in str(error) or not 0 < len(str(error)) < 900:
                    wrong.append(f"{what}: {len(str(error))} characters: {str(error)[:300]!r}")
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-3:]
                places = [f"{Path(at.filename).name}:{at.lineno}" for at in where]
                wrong.append(f"{what}: {type(error).__name__}: {str(error)[:150]!r} {places}")
        slowest = max(slowest, (spent["seconds"], what))
        largest = max(largest, (spent["bytes"], what))
        for changed in {name, *((MANIFEST, "records.json") if kind.sealed else ())}:
            shutil.copyfile(saved / changed, folder / changed)
    return {**outcomes, "wrong": wrong, "slowest": slowest, "largest": largest}


def main(count: int, seed: int, *kinds: str) -> dict[str, Any]:
    """Read about `count` damaged files, and return the outcomes of each kind."""
    faulthandler.dump_traceback_later(900, exit=True)
    warnings.simplefilter("error")  # a user would see warnings
    warnings.simplefilter("ignore", ResourceWarning)  # numpy leaves invalid archives open
    chosen = kinds or tuple(KINDS)
    each = count / sum(KINDS[name].most for name in chosen)
    found = {}
    for number, name in enumerate(chosen):
        rng = np.random.default_rng([seed, number])
        with tempfile.TemporaryDirectory() as root:
            found[name] = run(KINDS[name], round(each + 0.5), rng, Path(root))
    return found


if __name__ == "__main__":
    limit_memory(16 * 2**30)
    print(json.dumps(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
