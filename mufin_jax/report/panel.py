"""A panel of the report: a table or figure of the paper, and the content of its files."""

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mufin_jax.report.style import Figure
from mufin_jax.report.thumbnails import Answer, printable

Rows = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A table or figure.

    Attributes:
        name: of its files: NAME.png, NAME.svg, NAME.csv.
        title: its heading.
        caption: what it shows, how this was chosen and counted.
        tables: the rows of its CSV files, by file name without the ending.
        draw: makes the figure, if there is one.
        shown: the name of the table on the page, if there is one.
        answers: queries with their results, which the page lays out itself.
        missing: why the panel is empty; the other fields are then empty.
    """

    name: str
    title: str
    caption: str = ""
    tables: Mapping[str, Rows] = dataclasses.field(default_factory=dict)
    draw: Callable[[], Figure] | None = None
    shown: str | None = None
    answers: Sequence[Answer] = ()
    missing: str = ""


class Missing(Exception):
    """The data of a panel do not exist; the message says which, and why."""


def panel_or_reason(name: str, title: str, make: Callable[[], Panel]) -> Panel:
    """Return the panel, or an empty one with the reason why it is left out."""
    try:
        return make()
    except Missing as reason:
        return Panel(name, title, missing=str(reason))


def to_csv(rows: Rows) -> bytes:
    """Return the rows as CSV in UTF-8; the columns are those of the first row.

    Numbers have six digits. Titles, ids and categories are untrusted: control and direction
    characters are dropped, and a quote precedes a text that a spreadsheet would read as a formula.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
        writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        text = printable(value, len(value))
        return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text
    return f"{value:.6g}" if isinstance(value, float) else str(value)
