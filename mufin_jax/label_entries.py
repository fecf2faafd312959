"""The vectors that stand for each label (its bag and its centroid), and exact similarity.

The similarity of a datapoint and a label is the maximum cosine of the datapoint's embedding with
any entry of the label. Labels have any number of entries, so entries lie label after label.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, Int64

_CELLS = 1 << 24  # cosines held at once by exact search
_LOW, _LABEL = (1 << 32) - 1, (1 << 31) - 1  # the bits of a cosine and of a label in a sort key
_NONE = (1 << 63) - 1  # sorts last


def blocks(size: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` (at least one) that cover `size`."""
    rows = max(rows, 1)
    return (slice(start, min(start + rows, size)) for start in range(0, size, rows))


@dataclasses.dataclass(frozen=True)
class LabelEntries:
    """Entries sorted by label: those of label l are vectors[offsets[l]:offsets[l + 1]]."""

    vectors: Float32[np.ndarray, "e d"]  # unit-normalised
    offsets: Int[np.ndarray, " num_labels_plus_1"]

    @classmethod
    def group(
        cls, vectors: Float[np.ndarray, "e d"], labels: Int[np.ndarray, " e"], num_labels: int
    ) -> "LabelEntries":
        """Sorts entries by the label (0..num_labels - 1) that each of them carries."""
        order = np.argsort(labels, kind="stable")
        offsets = np.zeros(num_labels + 1, np.int64)
        np.cumsum(np.bincount(labels, minlength=num_labels), out=offsets[1:])
        return cls(np.ascontiguousarray(vectors[order], np.float32), offsets)

    @functools.cached_property
    def labels(self) -> Int32[np.ndarray, " e"]:
        """The label that each entry carries."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    @functools.cached_property
    def filled(self) -> Int[np.ndarray, " num_filled"]:
        """The labels that have an entry: only these can be retrieved."""
        return np.flatnonzero(np.diff(self.offsets))

    def exact_similarity(
        self, queries: Float32[np.ndarray, "b d"], labels: Int32[np.ndarray, "b k"]
    ) -> Float32[np.ndarray, "b k"]:
        """Largest cosine of a query with any entry of a label; -inf for label -1.

        Labels without an entry raise IndexError or give a neighbour's value: don't ask for them.
        """
        vectors = np.asarray(self.vectors)  # a view: indexing a memmap object costs more
        similarities = np.full(labels.shape, -np.inf, np.float32)
        # Query by query: the time goes into reading entries, so larger blocks only miss caches.
        for query, row, out in zip(queries, labels, similarities, strict=True):
            real = np.flatnonzero(row >= 0)
            if not len(real):
                continue
            starts, stops = self.offsets[row[real]], self.offsets[row[real] + 1]
            ends = np.cumsum(stops - starts)
            firsts = ends - (stops - starts)
            entries = np.repeat(starts - firsts, stops - starts) + np.arange(ends[-1])
            out[real] = np.maximum.reduceat(vectors[entries] @ query, firsts)
        return similarities

    def exact_search(
        self, queries: Float32[np.ndarray, "b d"], k: int
    ) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
        """The k most similar labels, best first, ties by label; padded with -1 and -inf."""
        labels, similarities = _nothing(len(queries), k)
        if not len(self.vectors):
            return labels, similarities
        starts, k = self.offsets[self.filled], min(k, len(self.filled))
        for rows in blocks(len(queries), _CELLS // len(self.vectors)):
            scores = np.maximum.reduceat(queries[rows] @ self.vectors.T, starts, axis=1)
            # All that tie with the k-th best stay in, so that a label's number decides, not luck.
            enough = scores >= np.partition(scores, -k, axis=1)[:, -k, None]
            for i in range(len(scores)):
                best = np.flatnonzero(enough[i])
                best = best[np.argsort(-scores[i, best], kind="stable")[:k]]
                labels[rows.start + i, :k] = self.filled[best]
                similarities[rows.start + i, :k] = scores[i, best]
        return labels, similarities

    def first_distinct(
        self, entries: Int[np.ndarray, "b m"], cosines: Float32[np.ndarray, "b m"], k: int
    ) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
        """Of retrieved entries (-1: none), the k best distinct labels with their best cosines."""
        # Two sorts of integers, label over cosine and cosine over label, are many times faster
        # than sorts by two keys: by the first a label's best cosine leads its entries.
        labels = self.labels[entries].astype(np.int64)
        by_label = np.where(entries < 0, _NONE, labels << 32 | _falling(cosines))
        by_label.sort(axis=1)
        labels, cosines_left = by_label >> 32, by_label & _LOW
        leads = (np.diff(labels, axis=1, prepend=-1) > 0) & (by_label != _NONE)
        by_cosine = np.where(leads, cosines_left << 31 | labels, _NONE)
        by_cosine.sort(axis=1)
        best = by_cosine[:, :k]
        found, similarities = _nothing(len(entries), k)
        rows, columns = np.nonzero(best != _NONE)
        best = best[rows, columns]
        found[rows, columns] = best & _LABEL
        similarities[rows, columns] = _cosine(best >> 31)
        return found, similarities


def _nothing(rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32)


def _falling(cosines: Float32[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Numbers in 0 .. 2^32 - 1 that fall as cosines rise: their bits, with those below 0 turned."""
    bits = (cosines + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0: they are equal
    return (2**31 - 1) - (bits ^ ((bits >> 31) & _LABEL)).astype(np.int64)


def _cosine(falling: Int64[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """The inverse of `_falling`."""
    bits = ((2**31 - 1) - falling).astype(np.int32)
    return (bits ^ ((bits >> 31) & _LABEL)).view(np.float32)
