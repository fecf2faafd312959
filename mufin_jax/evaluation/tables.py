"""Result tables, and the paper's published scores."""

from collections.abc import Mapping, Sequence

from mufin_jax.evaluation.metrics import spare_places as spare_places
from mufin_jax.evaluation.rankings import METRICS

MM_AMAZON_LABELS = 303_296
"""L of MM-AmazonTitles-300K: with this number of labels, the paper's rows are printed too."""

PAPER_MUFIN = {"P@1": 52.30, "P@5": 34.76, "nDCG@5": 50.46, "R@10": 50.63, "AUC": 0.60}
"""MUFIN on MM-AmazonTitles-300K under the given filter, as published: Mittal et al., Multi-modal
Extreme Classification, CVPR 2022, with its supplement. Measures not reported are absent."""

PAPER_TABLE_2 = {"MUFIN": PAPER_MUFIN} | {
    name: dict(zip(("P@1", "P@5", "nDCG@5", "R@10"), values, strict=True))
    for name, values in (
        ("SiameseXML", (48.64, 32.99, 47.46, 47.72)),
        ("CLIP + MUFIN, fine-tuned", (40.49, 27.38, 38.45, 37.19)),
        ("VisualBERT + MUFIN, fine-tuned", (49.11, 32.35, 46.95, 46.43)),
    )
}
"""The rows of its table 2 that have a preset here, as published."""


def table(
    rows: Mapping[str, Mapping[str, float | int | str]],
    columns: Sequence[str] = METRICS,
    head: str = "",
) -> str:
    """Return an aligned text table: a line per row name, a column per metric, a dash if missing.

    Numbers have two decimals; AUC, which is a share, and milliseconds have three.
    """
    lines = [[head, *columns]]
    for name, values in rows.items():
        lines.append([name, *(_cell(column, values.get(column)) for column in columns)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for name, *cells in lines:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        text.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    text.insert(1, "-" * (sum(widths) + 2 * len(columns)))
    return "\n".join(text)


def _cell(column: str, value: float | int | str | None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if column == "AUC" or column.startswith("ms") else f"{value:.2f}"
