"""Files of answers: JSON lines with an item a line; CSV, TSV and Parquet with a label a line.

An answer file is made of parts, each written whole. Joined, they have the same bytes however often
the work was stopped in between.
"""

import csv
import gzip
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mufin_jax.prediction.answers import Prediction, as_json
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import replacing

FORMS = (".jsonl", ".csv", ".tsv", ".parquet")
"""The ends of the names of answer files; all but the last one may also have .gz behind them."""
_FIELDS = ("row", "id", "rank", "label", "title", "score")


class Answered(NamedTuple):
    """An item of a file, and its labels.

    Attributes:
        row: the item's row in its file.
        id: the item's id, None if it has none.
        labels: best first.
    """

    row: int
    id: str | None
    labels: Sequence[Prediction]


def form_of(path: Path) -> str:
    """Return the form of an answer file, such as ".csv.gz".

    Raises:
        InputError: if its name has another end, or pyarrow is missing.
    """
    for form in (*FORMS, *(f"{one}.gz" for one in FORMS[:-1])):
        if path.name.endswith(form):
            if form == ".parquet":
                _pyarrow(path)
            return form
    raise InputError(
        f"{path}: expected a name that ends in {', '.join(FORMS)}, or .gz after the first three"
    )


def save_part(path: Path, form: str, answers: Sequence[Answered]) -> None:
    """Write a part of an answer file in one step.

    Raises:
        DiskError: if the disk does not take it.
    """
    if form == ".parquet":
        content = _parquet(path, answers)
    else:
        lines = _json_lines(answers) if ".jsonl" in form else _table(form, _lines_of(answers))
        content = _packed(lines.encode("utf-8", "backslashreplace"), form)
    with replacing(path, len(content)) as file:
        file.write(content)


def join_parts(path: Path, form: str, parts: Sequence[Path]) -> None:
    """Write an answer file out of its parts, in one step.

    Raises:
        DiskError: if the disk does not take it.
    """
    with replacing(path) as file:
        if form == ".parquet":
            _join_parquet(path, file, parts)
            return
        if ".jsonl" not in form:
            file.write(_packed(_table(form, iter([_FIELDS])).encode(), form))
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)


def _packed(content: bytes, form: str) -> bytes:
    """Return bytes as the file holds them: a member of a gzip file, or themselves."""
    return gzip.compress(content, 6, mtime=0) if form.endswith(".gz") else content


def _json_lines(answers: Sequence[Answered]) -> str:
    lines = []
    for row, uid, labels in answers:
        item = {"row": row} | ({} if uid is None else {"id": uid})
        lines.append(json.dumps(item | {"labels": as_json(labels)}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _lines_of(answers: Sequence[Answered]) -> Iterator[tuple]:
    for row, uid, labels in answers:
        for rank, one in enumerate(labels, 1):
            yield row, uid, rank, one.id, one.title, one.score


def _table(form: str, lines: Iterator[Sequence]) -> str:
    text = io.StringIO()
    separator = "\t" if ".tsv" in form else ","
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _pyarrow(path: Path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: run `pip install pyarrow`, or name a .csv"
        ) from None
    return pyarrow


def _schema(arrow):
    kinds = (arrow.int64(), arrow.string(), arrow.int32(), arrow.string(), arrow.string())
    return arrow.schema(list(zip(_FIELDS, (*kinds, arrow.float32()), strict=True)))


def _parquet(path: Path, answers: Sequence[Answered]) -> bytes:
    arrow, file = _pyarrow(path), io.BytesIO()
    columns = list(zip(*_lines_of(answers), strict=True)) or [()] * len(_FIELDS)
    table = arrow.table([list(one) for one in columns], schema=_schema(arrow))
    arrow.parquet.write_table(table, file)
    return file.getvalue()


def _join_parquet(path: Path, file: BinaryIO, parts: Sequence[Path]) -> None:
    arrow = _pyarrow(path)
    with arrow.parquet.ParquetWriter(file, _schema(arrow)) as writer:
        for part in parts:
            if (table := arrow.parquet.read_table(part)).num_rows:
                writer.write_table(table)
