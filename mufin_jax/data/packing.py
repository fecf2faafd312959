"""Texts of a batch, packed several to a row: little of what is encoded is padding.

Titles have 5 to 30 tokens. Padded to the longest of a batch, 40% of it would be padding; packed
into rows twice as long as the longest, 3% is. Each text attends to itself alone, so its vector does
not depend on its neighbours.
"""

import bisect

import numpy as np
from jaxtyping import Int, Int32

from mufin_jax.data.bags import TEXTS_A_ROW

_LONG = 128
"""Tokens of a row beyond which attention over it would cost more than packing saves."""


def pack_texts(
    tokens: Int[np.ndarray, "t s"], lengths: Int[np.ndarray, "t"], least_width: int = 0
) -> tuple[Int32[np.ndarray, "r w"], Int32[np.ndarray, "r w"], Int32[np.ndarray, "t"]]:
    """Pack texts into rows of tokens.

    Args:
        tokens: token ids of each text.
        lengths: their numbers of real tokens.
        least_width: tokens that a row has room for, at least.

    Returns:
        `PackedTexts.tokens` and `places`; and each text's row in the vectors that the model makes
        of them.
    """
    lengths = np.asarray(lengths, np.int64)
    width = max(row_width(lengths), least_width)
    rows, places, starts = _first_fit(lengths, width)
    size = int(rows.max(initial=-1)) + 1
    packed = np.zeros((size, width), np.int32)
    owners = np.full((size, width), -1, np.int32)
    text = np.repeat(np.arange(len(lengths)), lengths)
    column = np.arange(len(text)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    target = rows[text], starts[text] + column
    packed[target] = tokens[text, column]
    owners[target] = places[text]
    return packed, owners, (TEXTS_A_ROW * rows + places).astype(np.int32)


def count_rows(lengths: Int[np.ndarray, "t"], width: int) -> int:
    """Return how many rows of so many tokens texts of these lengths fill."""
    return int(_first_fit(lengths, width)[0].max(initial=-1)) + 1


def row_widths(most_tokens: int) -> list[int]:
    """Return the widths that rows may have if no text is longer: few, for each is compiled."""
    widest = _round_up(max(most_tokens, min(2 * most_tokens, _LONG)))
    return [1 << power for power in range(3, widest.bit_length())]


def widths_of(rows: int, most_tokens: int) -> list[int]:
    """Return the widths that so many rows may have: a single row need not be the widest."""
    widths = row_widths(most_tokens)
    return widths[1 if rows == 1 else -1 :] or widths


def row_width(lengths: Int[np.ndarray, "t"]) -> int:
    """Return the tokens of a row: twice the longest text, or all tokens, if they are fewer."""
    longest = int(lengths.max(initial=1))
    return _round_up(max(longest, min(int(lengths.sum()), 2 * longest, _LONG)))


def unpacked(
    tokens: Int[np.ndarray, "t s"], lengths: Int[np.ndarray, "t"], least_width: int = 0
) -> tuple[Int32[np.ndarray, "t w"], Int32[np.ndarray, "t w"]]:
    """Return `JointTexts.tokens` and `places`: one text a row, to be read with its pictures."""
    width = max(text_width(lengths), least_width)
    wide = max(width - tokens.shape[1], 0)
    places = np.where(np.arange(width) < lengths[:, None], 0, -1)
    return np.pad(tokens, ((0, 0), (0, wide)))[:, :width].astype(np.int32), places.astype(np.int32)


def text_width(lengths: Int[np.ndarray, "t"]) -> int:
    """Return the tokens of a row of one text."""
    return _round_up(int(lengths.max(initial=1)))


def _round_up(tokens: int) -> int:
    """Round up to a power of two, 8 at least."""
    return max(8, 1 << (tokens - 1).bit_length())


def _first_fit(
    lengths: Int[np.ndarray, "t"], width: int
) -> tuple[Int[np.ndarray, "t"], Int[np.ndarray, "t"], Int[np.ndarray, "t"]]:
    """Return row, place and first token of each text; a row takes the longest that still fits."""
    rows, places, starts = (np.zeros(len(lengths), np.int64) for _ in range(3))
    waiting: dict[int, list[int]] = {}
    for text in range(len(lengths) - 1, -1, -1):
        waiting.setdefault(int(lengths[text]), []).append(text)
    sizes, row = sorted(waiting), 0
    while sizes:
        start = place = 0
        while place < TEXTS_A_ROW and (fits := bisect.bisect_right(sizes, width - start)):
            length = sizes[fits - 1]
            text = waiting[length].pop()
            rows[text], places[text], starts[text] = row, place, start
            start, place = start + length, place + 1
            if not waiting[length]:
                sizes.remove(length)
        row += 1
    return rows, places, starts
