"""The drawings: each function makes one figure of numbers that other files have counted."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from mufin_jax.report.style import (
    BLUE,
    GREEN,
    GREY,
    SERIES,
    VERMILLION,
    WIDTH,
    Figure,
    blank,
    drawable,
)
from mufin_jax.report.thumbnails import Answer, Item

HATCHES = ("", "////", "....", "xxxx")

MOST_BARS = 60
"""The most rows of a bar chart: its height grows with them. Its table has all rows."""


def curves(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draw the loss and the mean cosine of negatives over the steps of each training."""
    figure = blank(2.1 * len(stages))
    axes = figure.subplots(len(stages), 2, squeeze=False)
    for line, (stage, rows) in zip(axes, stages.items(), strict=True):
        steps = [row["step"] for row in rows]
        shown = (("loss", "loss", BLUE), ("negative_cosine", "cosine of negatives", VERMILLION))
        for axis, (name, title, colour) in zip(line, shown, strict=True):
            values = [np.nan if row.get(name) is None else row[name] for row in rows]
            axis.plot(steps, values, color=colour, linewidth=1.2)
            axis.set_title(f"{stage}: {title}", loc="left")
            axis.set_xlabel("step")
            axis.locator_params(axis="x", nbins=4)
    return figure


def bars(
    rows: Sequence[Mapping[str, Any]], label: str, series: Mapping[str, str], axis_label: str
) -> Figure:
    """Draw horizontal bars, a group a row, for any number of rows and lengths of names.

    Args:
        rows: a table, the first row on top.
        label: the column with the name of a row.
        series: name in the legend -> column.
        axis_label: the meaning of the bars' length.
    """
    rows = rows[:MOST_BARS]
    figure = blank(max(1.6, 0.28 * len(rows) * max(1, 0.62 * len(series)) + 0.8))
    axis = figure.subplots()
    places, height = np.arange(len(rows)), 0.8 / len(series)
    for number, (name, column) in enumerate(series.items()):
        axis.barh(
            places + height * (number - (len(series) - 1) / 2),
            [row[column] or 0 for row in rows], height * 0.92, label=name,
            color=SERIES[number % len(SERIES)][0], hatch=HATCHES[number % len(HATCHES)],
            edgecolor="white", linewidth=0,
        )  # fmt: skip
    axis.set_yticks(places, [drawable(str(row[label]), 34) for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(axis_label)
    if len(series) > 1:
        figure.legend(loc="outside upper left", ncols=2)
    return figure


def shares(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw every column but the number of points over the share of points without pictures."""
    figure = blank(2.4)
    axis = figure.subplots()
    order = sorted(rows, key=lambda row: row["share"])
    names = [name for name in rows[0] if name not in ("share", "points")]
    for number, name in enumerate(names):
        colour, marker = SERIES[number % len(SERIES)]
        axis.plot(
            [100 * row["share"] for row in order], [row[name] for row in order], color=colour,
            marker=marker, linewidth=1.2, markersize=4, label=name,
        )  # fmt: skip
    axis.set_ylim(bottom=0)
    axis.set_xlabel("test points without pictures, %")
    axis.set_ylabel("%")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def volume_bins(rows: Sequence[Mapping[str, Any]], series: Mapping[str, str]) -> Figure:
    """Draw what each popularity bin adds to R@10, and its number of labels."""
    figure = blank(2.7)
    axis = figure.subplots()
    places, width = np.arange(len(rows)), 0.8 / len(series)
    for number, (name, column) in enumerate(series.items()):
        drawn = axis.bar(
            places + width * (number - (len(series) - 1) / 2), [row[column] for row in rows],
            width * 0.92, label=name, color=SERIES[number % len(SERIES)][0],
            hatch=HATCHES[number % len(HATCHES)], edgecolor="white", linewidth=0,
        )  # fmt: skip
        axis.bar_label(drawn, fmt="%.1f", fontsize=7.5, padding=1)
    axis.set_xticks(places, [f"bin {row['bin']}\n{row['labels']:,}" for row in rows])
    axis.set_xlabel("labels in the bin, the most frequent left")
    axis.set_ylabel("part of R@10, points")
    axis.grid(axis="x", visible=False)
    figure.legend(loc="outside upper left", ncols=2)
    return figure


def scatter(
    places: Float[np.ndarray, "n 2"],
    kinds: Int[np.ndarray, " n"],
    names: Sequence[str],
    links: Int[np.ndarray, "k 2"] | None = None,
) -> Figure:
    """Draw points in the plane, each kind with its own colour and marker; -1 is grey.

    Args:
        places: the points' coordinates.
        kinds: the points' kinds.
        names: of the kinds.
        links: pairs of points that a line joins.
    """
    from matplotlib.collections import LineCollection

    figure = blank(WIDTH + 0.5)
    axis = figure.subplots()
    if links is not None:
        axis.add_collection(LineCollection(list(places[links]), colors=GREY, linewidths=0.5))
    size = 14 if links is None else 26
    groups = [(-1, "others", (GREY, "."))] if (kinds < 0).any() else []
    groups += [(i, name, SERIES[i % len(SERIES)]) for i, name in enumerate(names)]
    for kind, name, (colour, marker) in groups:
        own = places[kinds == kind]
        axis.scatter(
            own[:, 0], own[:, 1], s=size, c=colour, marker=marker, alpha=0.85, linewidths=0,
            label=f"{drawable(name, 30)} ({len(own):,})",
        )  # fmt: skip
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    figure.legend(loc="outside lower left", ncols=2, markerscale=1.6, handletextpad=0.2)
    return figure


def attention(
    rows: Sequence[Item],
    columns: Sequence[Item],
    weights: Float[np.ndarray, "n m"],
    shares: Float[np.ndarray, "n m"],
) -> Figure:
    """Draw a heat map of attention with the pictures or titles of both sides along its edges.

    Args:
        rows: the datapoint's descriptors: each a picture or a title.
        columns: the label's descriptors.
        weights: the numbers of the cells.
        shares: the colours of the cells; the largest is bold.
    """
    n, m = weights.shape
    figure = blank(0.95 * (n + 1) + 0.3, max(WIDTH * 0.75, 0.95 * (m + 1.3)))
    grid = figure.add_gridspec(n + 1, m + 1, hspace=0.04, wspace=0.04)
    for i, item in enumerate(rows):
        _thing(figure.add_subplot(grid[i + 1, 0]), item)
    for j, item in enumerate(columns):
        _thing(figure.add_subplot(grid[0, j + 1]), item)
    corner = figure.add_subplot(grid[0, 0])
    corner.set_axis_off()
    corner.text(0.95, 0.72, "label →", ha="right", va="center", fontsize=9)
    corner.text(0.5, 0.2, "point ↓", ha="center", va="center", fontsize=9)
    axis = figure.add_subplot(grid[1:, 1:])
    axis.imshow(shares, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    best = np.unravel_index(shares.argmax(), shares.shape)
    for (i, j), value in np.ndenumerate(weights):
        light, strong = shares[i, j] < 0.55, (i, j) == best
        axis.text(
            j, i, f"{value:.2f}", ha="center", va="center", color="white" if light else "black",
            fontweight="bold" if strong else "normal", fontsize=11 if strong else 9,
        )  # fmt: skip
    return figure


def answers(rows: Sequence[Answer]) -> Figure:
    """Draw queries and their results, one query a line; mark and frame show right and wrong."""
    places = max(len(answer.results) for answer in rows)
    figure = blank(1.72 * len(rows) + 0.1, 1.16 * (places + 1))
    figure.get_layout_engine().set(hspace=0.08)
    grid = figure.subplots(len(rows), places + 1, squeeze=False)
    for line, answer in zip(grid, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        _thing(line[0], answer.query, (answer.by or "query") + "\n")
        for axis, result in zip(line[1:], answer.results, strict=False):
            mark, colour = ("✓ right", GREEN) if result.right else ("✗ wrong", VERMILLION)
            _thing(axis, result.item, mark + "\n", colour, "-" if result.right else (0, (3, 2)))
    return figure


def _thing(axis: Any, item: Item, head: str = "", frame: str = "#BBBBBB", line: Any = "-") -> None:
    """Draw a picture with its title below, or only the title if there is no picture."""
    axis.set_axis_on()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=frame, linestyle=line, linewidth=0.8 if not head else 2)
    if item.pictures:
        axis.imshow(_side_by_side(item.pictures), interpolation="lanczos")
        title = _lines(drawable(item.title, 45), 15, 3)
    else:
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        words = _lines(drawable(item.title, 80) or "no title", 12, 6)
        axis.text(0.5, 0.5, "\n".join(words), ha="center", va="center", fontsize=7)
        title = []
    if head:
        axis.set_title(head.rstrip(), fontsize=8, color="#444444" if frame[1] == "B" else frame)
        axis.set_xlabel("\n".join(title), fontsize=7.5)


def _lines(text: str, width: int, most: int) -> list[str]:
    """Wrap a text to a maximum of lines; an ellipsis marks the cut."""
    return textwrap.wrap(text, width, max_lines=most, placeholder="…")


def _side_by_side(pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> UInt8[np.ndarray, "H W 3"]:
    """Arrange pictures of one size in as many columns as rows, or one more."""
    across = math.ceil(math.sqrt(len(pictures)))
    free = [np.full_like(pictures[0], 255)] * (-len(pictures) % across)
    whole = [*pictures, *free]
    lines = [np.concatenate(whole[i : i + across], 1) for i in range(0, len(whole), across)]
    return np.concatenate(lines)
