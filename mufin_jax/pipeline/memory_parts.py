"""What the parts of a score hold in memory: a section of the memory plan (`memory_plan.py`).

Each part of docs/recipe.md holds an index, the training pairs, or the words of titles. The factors
were measured on 1,000,000 labels and points with 5,000,000 pairs.
"""

import dataclasses
from collections.abc import Sequence

from mufin_jax.prediction.part_files import FILES
from mufin_jax.prediction.parts import WALKS, PartName
from mufin_jax.prediction.ranker import BLOCK
from mufin_jax.retrieval import scann
from mufin_jax.retrieval.walk import POINTS
from mufin_jax.retrieval.words import COMMON_WORD

SCANN_SEARCH = 0.66
"""Bytes of codes per entry and dimension while ScaNN searches; the vectors stay in their file."""
LOOKUPS = 21
"""Bytes of an index per label: where its entries start, and which labels have one."""
PAIR, WALK_PAIR, COPY, WALK_COPY = 8, 24, 16, 28
"""Bytes of a training pair: in its matrix, in both steps of a walk, and while each is made."""
ID = 160
"""Bytes of an id in a dict, while it is found which label each training point is."""
WORD = 600
"""Bytes of a distinct word in the vocabulary. Heaps' law says how many there are."""
VOTER_WORD = 32
"""Bytes of a word of a training point's title: by point while it is read, and by word."""
CANDIDATE = 32
"""Bytes of a candidate while weights are searched, besides two copies of its values."""


@dataclasses.dataclass(frozen=True)
class ScoreSizes:
    """The sizes of a score that has parts.

    Attributes:
        names: the parts.
        labels: L.
        trained: labels that have a training pair.
        points: training points.
        pairs: training pairs.
        words: words in the titles of labels and of training points.
        label_words: those of labels alone.
        fitted: validation points that the weights are fitted on.
        candidates: labels that each part lists.
        stand_ins: labels that stand for a query in the soft walk.
        search: how an index of labels is searched.
        points_search: how an index of the training points is searched.
    """

    names: tuple[PartName, ...] = ()
    labels: int = 0
    trained: int = 0
    points: int = 0
    pairs: int = 0
    words: int = 0
    label_words: int = 0
    fitted: int = 0
    candidates: int = 0
    stand_ins: int = 0
    search: str = "exact"
    points_search: str = "exact"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the memory of a run.

    Attributes:
        name: what it is.
        device: bytes on every device.
        host: bytes on every host.
        phases: when it is held.
    """

    name: str
    device: int
    host: int
    phases: tuple[str, ...]


def of_index(entries: int, search: str, dim: int, devices: int) -> tuple[int, int, int]:
    """Return the bytes of an index: on a device, on the host while it is built, and searched."""
    size = 4 * entries * dim
    on_device = size // devices if search.startswith("sharded") else 0
    if search != "scann":
        return on_device, 0, 0
    return 0, scann.BUILD * size, round(SCANN_SEARCH * entries * dim)


def of_parts(s: ScoreSizes, dim: int, devices: int) -> Sequence[Part]:
    """Return what the parts hold; nothing for a score without parts."""
    if not s.names:
        return ()
    files = {file for name in s.names for file in FILES.get(name, ())}
    entries = {"z": s.labels, "mu": s.trained, "w": s.labels}
    labels = [of_index(count, s.search, dim, devices) for f, count in entries.items() if f in files]
    points = [of_index(s.points, s.points_search, dim, devices)] * ("points" in files)
    served = ("select", "predict", "floors")

    def indices(name: str, found: list[tuple[int, int, int]], count: int) -> Part:
        host = sum(codes + LOOKUPS * count for _, _, codes in found)
        return Part(f"parts: {name}", sum(one[0] for one in found), host, served)

    pairs, read = PAIR * s.pairs + 16 * s.points + 9 * s.labels, COPY * s.pairs
    if set(WALKS) & set(s.names):
        pairs += WALK_PAIR * s.pairs + 20 * s.points + 16 * s.labels
        # While pairs are read, or later while a block of queries takes the soft walk.
        reached = min(s.stand_ins * POINTS * s.pairs // max(s.points, 1), s.labels)
        read = max(WALK_COPY * s.pairs, 12 * BLOCK * reached)
    built = max((one[1] for one in labels + points), default=0)
    return (
        indices("indices of labels", labels, s.labels),
        indices("index of points", points, s.points),
        Part("parts: pairs, walks", 0, pairs, served),
        Part("parts: pairs, in use", 0, max(read, ID * min(s.points, s.labels)), served),
        Part("parts: words of titles", 0, _words(s) if "words" in files else 0, served),
        Part("parts: titles that vote", 0, _voters(s) if "titles" in files else 0, served),
        Part("parts: index, being built", 0, built, ("select",)),
        Part("validation candidates", 0, _fitted(s), ("select",)),
    )


def _words(s: ScoreSizes) -> int:
    """Return the bytes of the words of titles, and of a block of queries by their titles."""
    distinct = min(round(50 * s.words**0.6), s.words)
    reached = min(COMMON_WORD * s.label_words // max(s.labels, 1), s.labels)
    return 16 * s.label_words + WORD * distinct + 12 * BLOCK * reached


def _voters(s: ScoreSizes) -> int:
    """Return the bytes of the training points' titles, and of a block of queries by them."""
    words = s.words - s.label_words
    reached = min(COMMON_WORD * words // max(s.points, 1), s.points)
    return VOTER_WORD * words + 12 * BLOCK * reached


def _fitted(s: ScoreSizes) -> int:
    """Return the bytes of the candidates of validation points."""
    listed = min(len(s.names) * s.candidates, s.labels)
    return s.fitted * listed * (2 * 4 * (len(s.names) + 2) + CANDIDATE)
