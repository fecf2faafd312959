"""The style of figures: colours for the colour-blind, type for print and phones."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from mufin_jax.report.thumbnails import printable

Figure: TypeAlias = Any
"""matplotlib's figure; matplotlib is only loaded to draw."""

# Okabe and Ito, "Color Universal Design", 2008.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
SERIES = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"),
          (SKY, "P"), (BLACK, "X"))  # fmt: skip
"""A colour and a marker each: colour is never the only difference."""

WIDTH = 4.8
"""Width of a figure in inches: its type is 9 points in print and legible on a phone."""

_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib: figures look the same everywhere
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.parse_math": False,  # a dollar sign in a title is a dollar sign
    "svg.hashsalt": "mufin_jax",  # otherwise ids differ between runs
    "svg.fonttype": "path",
    "savefig.dpi": 200,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style; draw and save figures within it."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def blank(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of this size in inches, without a window or global state."""
    import matplotlib.figure

    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def drawable(text: str, most: int) -> str:
    """Return a title with one box for each run of characters that the figures' font lacks."""
    known, kept = _glyphs(), []
    for char in printable(text, most):
        if "\ufe00" <= char <= "\ufe0f":  # selects a variant of the preceding character
            continue
        char = char if ord(char) in known else "□"
        if char != "□" or kept[-1:] != ["□"]:
            kept.append(char)
    return "".join(kept)


@functools.cache
def _glyphs() -> frozenset[int]:
    import matplotlib
    from matplotlib.font_manager import get_font

    font = get_font(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"))
    return frozenset(font.get_charmap())
