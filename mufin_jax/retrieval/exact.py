"""The vectors that stand for each label (its bag and its centroid), and exact similarity.

The similarity of a datapoint and a label is the maximum cosine of the datapoint's embedding with
any entry of the label. Labels have any number of entries, so entries lie label after label.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64

from mufin_jax.runtime.blocks import cut

_CELLS = 1 << 24  # cosines held at once by exact search
_LOW, _LABEL = (1 << 32) - 1, (1 << 31) - 1  # the bits of a cosine and of a label in a sort key
_NONE = (1 << 63) - 1  # sorts last


@dataclasses.dataclass(frozen=True)
class LabelEntries:
    """Entries sorted by label: those of label l are vectors[offsets[l]:offsets[l + 1]].

    Attributes:
        vectors: the entries, unit-normalised.
        offsets: where the entries of each label start, and where the last ones end.
    """

    vectors: Float32[np.ndarray, "e d"]
    offsets: Int[np.ndarray, " num_labels_plus_1"]

    def __repr__(self) -> str:
        entries, dim = self.vectors.shape
        return f"LabelEntries({len(self.offsets) - 1:,} labels, {entries:,} entries, D = {dim})"

    @classmethod
    def group(
        cls, vectors: Float[np.ndarray, "e d"], labels: Int[np.ndarray, " e"], num_labels: int
    ) -> "LabelEntries":
        """Sort entries by the label (0..num_labels - 1) that each of them carries."""
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

    @functools.cached_property
    def has_entry(self) -> Bool[np.ndarray, " num_labels"]:
        """Whether each label has an entry."""
        return np.diff(self.offsets) > 0

    def exact_similarity(
        self, queries: Float32[np.ndarray, "b d"], labels: Int32[np.ndarray, "b k"]
    ) -> Float32[np.ndarray, "b k"]:
        """Return the largest cosine of a query with any entry of a label; -inf for label -1.

        Do not pass labels without an entry: they raise IndexError or get a neighbour's value.
        """
        vectors = np.asarray(self.vectors)  # a view: indexing a memmap object costs more
        similarities = np.full(labels.shape, -np.inf, np.float32)
        real = labels >= 0
        starts, counts = self._spans(labels[real])
        if not len(starts):
            return similarities
        firsts = np.cumsum(counts) - counts
        entries = np.repeat(starts - firsts, counts) + np.arange(counts.sum())
        cosines = np.empty(len(entries), np.float32)
        ends = np.append(firsts, len(entries))[np.concatenate([[0], np.cumsum(real.sum(1))])]
        # Query by query, into memory that stays warm: the time goes into reading entries.
        room = np.empty((np.diff(ends).max(), vectors.shape[1]), np.float32)
        for query, start, stop in zip(queries, ends[:-1], ends[1:], strict=True):
            own = np.take(
                vectors, entries[start:stop], axis=0, out=room[: stop - start], mode="clip"
            )  # by "raise", numpy would fill a copy first
            np.dot(own, query, out=cosines[start:stop])
        similarities[real] = np.maximum.reduceat(cosines, firsts)
        return similarities

    def _spans(
        self, labels: Int32[np.ndarray, " c"]
    ) -> tuple[Int64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
        """Return where the entries of labels start, and how many there are."""
        starts = self.offsets[labels]
        return starts, self.offsets[labels + 1] - starts

    def exact_search(
        self, queries: Float32[np.ndarray, "b d"], k: int
    ) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
        """Return the k most similar labels, best first, ties by label; padded with -1 and -inf."""
        labels, similarities = _nothing(len(queries), k)
        if not len(self.vectors):
            return labels, similarities
        starts, k = self.offsets[self.filled], min(k, len(self.filled))
        for rows in cut(len(queries), _CELLS // len(self.vectors)):
            scores = np.maximum.reduceat(queries[rows] @ self.vectors.T, starts, axis=1)
            # All that tie with the k-th best stay in: then the label's number decides, not luck.
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
        """Return the k best distinct labels of retrieved entries (-1: none), with their cosines."""
        # Two sorts of integers, label over cosine and cosine over label, are many times faster
        # than sorts by two keys: by the first a label's best cosine leads its entries.
        labels = self.labels[entries].astype(np.int64)
        by_label = np.where(entries < 0, _NONE, labels << 32 | _falling(cosines))
        by_label.sort(axis=1)
        labels, cosines_left = by_label >> 32, by_label & _LOW
        leads = (np.diff(labels, axis=1, prepend=-1) > 0) & (by_label != _NONE)
        return _by_cosine(np.where(leads, cosines_left << 31 | labels, _NONE), k)


def best_first(
    labels: Int32[np.ndarray, "b c"], similarities: Float32[np.ndarray, "b c"], k: int
) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
    """Return the k most similar of some distinct labels (-1: none), ties by label."""
    keys = np.where(labels < 0, _NONE, _falling(similarities) << 31 | labels.astype(np.int64))
    return _by_cosine(keys, k)


def _by_cosine(
    keys: Int64[np.ndarray, "b c"], k: int
) -> tuple[Int32[np.ndarray, "b k"], Float32[np.ndarray, "b k"]]:
    """Sort cosine-over-label keys in place; return the labels and cosines of the k first."""
    keys.sort(axis=1)
    best = keys[:, :k]
    found, similarities = _nothing(len(best), k)
    real = best != _NONE
    found[:, : best.shape[1]] = np.where(real, best & _LABEL, -1)
    similarities[:, : best.shape[1]] = np.where(real, _cosine(best >> 31), -np.inf)
    return found, similarities


def _nothing(rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, k), -1, np.int32), np.full((rows, k), -np.inf, np.float32)


def _falling(cosines: Float32[np.ndarray, "*n"]) -> Int64[np.ndarray, "*n"]:
    """Return numbers in 0 .. 2^32 - 1 that fall as cosines rise: bits, turned below 0."""
    bits = (cosines + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0: they are equal
    return (2**31 - 1) - (bits ^ ((bits >> 31) & _LABEL)).astype(np.int64)


def _cosine(falling: Int64[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """Return the cosines of such numbers: the inverse of `_falling`."""
    bits = ((2**31 - 1) - falling).astype(np.int32)
    return (bits ^ ((bits >> 31) & _LABEL)).view(np.float32)
