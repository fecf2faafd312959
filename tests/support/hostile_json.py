"""Hostile JSON files and tables: changed in their structure, where `mutation.py` changes bytes."""

import copy
import importlib
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 8, 9, 224, 2048, 16_384, 2**31 - 1, 2**31, 2**63, 10**40),
    *(0.5, -0.0, 1e-45, 1e39, 1e300, float("inf"), float("nan"), 1 / 255, 5e-324),
    *("", " ", "a", "7", "7_1", "\ud800", "\0", "a\nb", "x" * 5000, "../x", "[CLS]", "[UNK]"),
    *([], {}, [[]], [None], [0, 0, 0], [1e-45] * 3, {"height": 8, "width": 9}, {"id": "B"}),
]
NORMALIZERS = [
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000},
    {"type": "Replace", "pattern": {"Regex": "(a|a)*$"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "((((((.*)*)*)*)*)*)*x"}, "content": "y"},
    {"type": "Replace", "pattern": {"Regex": "("}, "content": "y"},
    {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
    {"type": "Precompiled", "precompiled_charsmap": "AAAAAAAA"},
    {"type": "Prepend", "prepend": "a" * 100_000},
    *({"type": name} for name in ("NFKD", "Lowercase", "Nmt", "ByteLevel", "Nothing")),
    {"type": "Strip", "strip_left": True, "strip_right": 7},
]
PIECES = [
    *({"Sequence": {"id": which, "type_id": 0}} for which in "ABC"),
    *({"SpecialToken": {"id": which, "type_id": 0}} for which in ("[CLS]", "[X]", "")),
]
MODELS: list[dict[str, Any]] = [
    {"type": "Unigram", "unk_id": None, "vocab": [["a", -1.0]], "byte_fallback": False},
    {"type": "Unigram", "unk_id": 9, "vocab": [["a", -1.0]], "byte_fallback": True},
    {"type": "Unigram", "unk_id": 0, "vocab": [], "byte_fallback": False},
    {"type": "Unigram", "unk_id": 0, "vocab": [["", float("nan")], ["a", 1e308]]},
    {"type": "BPE", "vocab": {"a": 0, "aa": 9}, "merges": [["a", "a"]], "dropout": 0.5},
    {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]},
    {"type": "BPE", "vocab": {}, "merges": [], "byte_fallback": True, "unk_token": "a"},
    {"type": "WordLevel", "vocab": {"a": 2**32 - 1}, "unk_token": "[UNK]"},
    {"type": "WordPiece", "vocab": {"a": 5}, "unk_token": "a", "max_input_chars_per_word": 0},
]


def restructured(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one value in a JSON file: by another value, another part of it, or copies."""
    try:
        root = json.loads(data)
    except ValueError:
        return data[::-1]
    places = list(_places(root))
    if not places:
        return b"[]"
    for _ in range(int(rng.integers(1, 4))):
        holder, key = places[int(rng.integers(len(places)))]
        other, at = places[int(rng.integers(len(places)))]
        match int(rng.integers(5)):
            case 0 if isinstance(holder, dict):
                holder.pop(key, None)
            case 1 if len(json.dumps(root)) < 10_000_000:
                holder[key] = [copy.deepcopy(_at(other, at))] * int(rng.integers(1, 90))
            case 2:
                holder[key] = copy.deepcopy(_at(other, at))
            case _:
                holder[key] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    return json.dumps(root).encode("utf-8")


def tokenizer(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a tokenizer.json: another normalizer, template or model, ids out of range."""
    try:
        root = json.loads(data)
        vocabulary = root["model"]["vocab"]
    except (ValueError, KeyError, TypeError):
        return restructured(data, rng)

    def some(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [values[int(i)] for i in rng.integers(len(values), size=int(rng.integers(1, 5)))]

    match int(rng.integers(6)):
        case 0:
            root["normalizer"] = {"type": "Sequence", "normalizers": some(NORMALIZERS)}
        case 1:
            ids = [int(rng.choice([0, 2, 99, 2**31, 2**32 - 1]))] * int(rng.integers(4))
            special = {"[CLS]": {"id": "[CLS]", "ids": ids, "tokens": ["[CLS]"]}}
            pieces = some(PIECES) * int(rng.choice([1, 1, 50]))
            root["post_processor"] = {"type": "TemplateProcessing", "single": pieces,
                                      "pair": pieces, "special_tokens": special}  # fmt: skip
        case 2:
            root["model"] = some(MODELS)[0]
        case 3:
            name = str(rng.choice(list(vocabulary)))
            vocabulary[name] = int(rng.choice([5000, 2**31, 2**32 - 1, 0, 17]))
        case 4:
            number = int(rng.choice([0, 3, 5000, 2**32 - 1]))
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), True)
            token = {"id": number, "content": str(rng.choice(["", "a", "chair", "\n"])), **flags}
            root["added_tokens"] = [token | {"special": False}] * int(rng.integers(1, 3))
        case _:
            return restructured(data, rng)
    return json.dumps(root).encode("utf-8")


def parquet(data: bytes, rng: np.random.Generator) -> bytes:
    """Change a column of a Parquet file: of another type, missing, empty, twice."""
    pyarrow, files = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    table = files.read_table(io.BytesIO(data))
    count, at = len(table), int(rng.integers(table.num_columns))
    name = table.column_names[at]
    columns: list[Callable[[], Any]] = [
        lambda: pyarrow.array([float("nan")] * count),
        lambda: pyarrow.array([2**63 - 1, -1] * count, pyarrow.int64())[:count],
        lambda: pyarrow.array([1.5, None] * count)[:count],
        lambda: pyarrow.array([None] * count),
        lambda: pyarrow.array([True] * count),
        lambda: pyarrow.array([b"\xff\xfe"] * count),
        lambda: pyarrow.array([10**17] * count, pyarrow.timestamp("ns")),
        lambda: pyarrow.array([[{"large": "images/1.png"}]] * count),
        lambda: pyarrow.array([{"large": ["images/1.png"], "thumb": [None]}] * count),
        lambda: pyarrow.array([[[1], []]] * count),
        lambda: pyarrow.array(["B1|B2;B3"] * count).dictionary_encode(),
        lambda: pyarrow.array(["x" * 100_000] * count),
        lambda: pyarrow.array([["B1", None, ""]] * count),
        lambda: pyarrow.array([[("a", 1)]] * count, pyarrow.map_(pyarrow.string(), pyarrow.int8())),
    ]
    match int(rng.integers(10)):
        case 0:
            table = table.drop_columns([name])
        case 1:
            table = table.slice(0, int(rng.integers(0, 3)))
        case 2:
            table = table.rename_columns([str(rng.choice(table.column_names))] * 1 + [
                str(rng.choice([one, "", " id ", "also_buy"])) for one in table.column_names[1:]
            ])  # fmt: skip
        case _:
            table = table.set_column(at, name, columns[int(rng.integers(len(columns)))]())
    out = io.BytesIO()
    files.write_table(table, out, row_group_size=int(rng.choice([1, 7, 1000])))
    return out.getvalue()


def _places(value: Any) -> Any:
    """Yield every holder (a dict or list) in a JSON value, with each of its keys."""
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in list(enumerate(value) if isinstance(value, list) else pairs):
        yield value, key
        yield from _places(inner)


def _at(holder: Any, key: Any) -> Any:
    try:
        return holder[key]
    except (KeyError, IndexError):
        return None
