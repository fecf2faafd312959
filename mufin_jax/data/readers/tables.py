"""Products as tables: CSV and TSV with a header, and Parquet. Rows are read piece by piece."""

import contextlib
import csv
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.files import decode, lines
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import damaged

_FREE, _TIMES = 2**30, 1000  # a Parquet file may unpack to _FREE bytes and _TIMES its size


def csv_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Any]]:
    """Yield 1-based lines and rows; for a bad row, a ValueError.

    The separator is a tab in TSV files, else the one of , ; | and tab that the header has most.
    Excel's first line `sep=;` names it, too.

    Raises:
        InputError: if the header is unusable, or a quote is not closed.
    """
    numbered = ((row, decode(line)) for row, line in lines(path))
    first = next(numbered, (1, ""))[1]
    skipped = 1
    if first.lower().startswith("sep=") and len(first) == 5:
        separator, first, skipped = first[4], next(numbered, (2, ""))[1], 2
    elif ".tsv" in path.suffixes:
        separator = "\t"
    else:
        separator = max(",;|\t", key=first.count)
    reader = csv.reader(
        itertools.chain([first], (line + "\n" for _, line in numbered)), delimiter=separator
    )
    row = 0
    try:
        header = _header(path, next(reader, []), columns)
        row, lists = reader.line_num, _lists(header, columns)
        for values in reader:
            number, row = row + skipped, reader.line_num
            if not values:
                continue
            if len(values) > len(header) or (len(values) < len(header) and not any(values)):
                yield number, ValueError(f"{len(values)} values, expected {len(header)}")
                continue
            found: dict[str, Any] = dict(zip(header, values, strict=False))
            for name, usual in lists:
                if found.get(name):
                    found[name] = split_cell(found[name], columns.separator, usual)
            yield number, found
    except csv.Error as error:
        raise InputError(
            f"{path}:{row + skipped}: {error}: is a quote not closed? Expected CSV"
        ) from None


def parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[int, Any]]:
    """Yield 1-based numbers and rows of a Parquet file.

    Raises:
        InputError: if the file cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(
            f"{path}: Parquet needs pyarrow: run `pip install pyarrow`, or write the table as CSV"
        ) from None
    row = 0
    with damaged(f"{path} is not a Parquet file ({{reason}})"):
        file = parquet.ParquetFile(path)
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size, most = sum(g.total_byte_size for g in groups), _FREE + _TIMES * path.stat().st_size
        if size > most:
            raise InputError(f"{path} would unpack to {size:,} bytes: expected at most {most:,}")
        lists = dict(_lists(_header(path, file.schema_arrow.names, columns), columns))
        batches = file.iter_batches(batch_size=4096)
        for batch in batches:
            for found in batch.to_pylist():
                check_stop("prepare")
                row += 1
                yield (
                    row,
                    {
                        name: split_cell(value, columns.separator, lists[name])
                        if name in lists and isinstance(value, str)
                        else None
                        if isinstance(value, float) and math.isnan(value)
                        else value
                        for name, value in found.items()
                    },
                )


def _header(path: Path, names: list[str], columns: Columns) -> list[str]:
    """Return the names of a table's columns, without blanks.

    Raises:
        InputError: if a name occurs twice, or none is an id.
    """
    names = [name.strip() for name in names]
    shown = ", ".join(name[:40] for name in names[:12])
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are named {twice[:40]!r}: expected different names")
    if columns.needs_id and not set(names) & set(columns.id):
        raise InputError(
            f"{path}: no column is an id: expected {', '.join(columns.id)}, or "
            f"--prepare.columns id=NAME; found the columns {shown or 'none'}"
        )
    return names


def _lists(header: list[str], columns: Columns) -> list[tuple[str, str]]:
    """Return the columns of a table that hold lists, and the separators that are usual in each."""
    usual = dict.fromkeys(columns.images, "|;") | dict.fromkeys(columns.related, "|;,")
    return [(name, usual[name]) for name in header if name in usual]


def split_cell(text: str, separator: str | None, usual: str) -> list[str]:
    """Return the values of a list in one cell.

    Args:
        text: the cell. A list in brackets, as Python and JSON write it, is read as such.
        separator: between the values; None for the first of `usual` that the text has.
        usual: the separators that are tried.
    """
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        quote = "'" if "'" in text and '"' not in text else '"'
        inner = csv.reader([text[1:-1]], quotechar=quote, skipinitialspace=True)
        with contextlib.suppress(csv.Error):  # it is no such list
            return [value.strip() for value in next(inner, [])]
    if separator is None:
        separator = next((mark for mark in usual if mark in text), None)
    return [value.strip() for value in text.split(separator)] if separator else [text]
