"""The files of the parts of a score: written after Module IV, loaded by the predictor.

    z/, mu/, w/      an index each: the labels' vectors, their centroids, their classifiers
    points/          an index of the training points that have a training pair
    words/           the words of the labels' titles
    titles/          the words of the training points' titles

The walks need no file: they read the training pairs of the prepared folder.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int64
from scipy.sparse import csr_matrix

from mufin_jax.data.dataset import Dataset, training_pairs
from mufin_jax.data.own_labels import own_labels
from mufin_jax.model.heads import Heads
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.mix import Mix, load_mixes, save_mixes
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.parts import (
    PARTS,
    Classifiers,
    KnownWalk,
    Nearest,
    Part,
    PartName,
    SoftWalk,
    Titles,
    TitleVote,
    Vote,
)
from mufin_jax.retrieval.build import build_vector_index, centroids
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.retrieval.walk import Walk
from mufin_jax.retrieval.words import TitleWords
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.files import MAKE_ANEW, load_sealed, save_sealed
from mufin_jax.runtime.storage.npy import forget

_ROWS = 1 << 15
"""Rows of a file that are read together."""

FILES: dict[PartName, tuple[str, ...]] = {
    "z": ("z",), "mu": ("mu",), "c": ("w",), "v": ("points",), "sg": ("z",), "t": ("words",),
    "tv": ("words", "titles"),
}  # fmt: skip
"""The folders that a part reads; g reads none."""


@dataclasses.dataclass(frozen=True)
class PartConfig:
    """How the parts look for labels.

    Attributes:
        neighbours: training points that vote.
        vote_temperature: of the softmax over their cosines.
        stand_ins: labels that stand for a datapoint in the soft walk.
        stand_in_temperature: of the softmax over their cosines.
        title_neighbours: training points that vote by their titles.
    """

    neighbours: int = 100
    vote_temperature: float = 0.1
    stand_ins: int = 10
    stand_in_temperature: float = 0.05
    title_neighbours: int = 20

    def __post_init__(self) -> None:
        """Reject counts below 1 and temperatures that are not positive."""
        for name in ("neighbours", "stand_ins", "title_neighbours"):
            if getattr(self, name) < 1:
                raise InputError(f"select.part.{name}={getattr(self, name)}: expected at least 1")
        for name in ("vote_temperature", "stand_in_temperature"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(
                    f"select.part.{name}={getattr(self, name)}: expected a positive number, "
                    "such as 0.1"
                )


@dataclasses.dataclass(frozen=True)
class TrainingPairs:
    """What the parts read of the training data.

    Attributes:
        pairs: training points x labels, 1 where relevant, without the overlap filter's pairs.
        own: the label that each training point is itself, -1 if there is none.
        trained: whether each label has a training pair.
    """

    pairs: csr_matrix
    own: Int64[np.ndarray, " n"]
    trained: Bool[np.ndarray, " l"]

    @classmethod
    def read(cls, dataset: Dataset) -> "TrainingPairs":
        """Return the training pairs of a prepared folder."""
        pairs, _ = training_pairs(dataset.train)
        trained = np.zeros(dataset.num_labels, bool)
        trained[pairs.indices] = True
        own = own_labels(dataset.train.ids, dataset.labels.ids)
        return cls(csr_matrix(pairs, dtype=np.float32), own, trained)

    @functools.cached_property
    def walk(self) -> Walk:
        """The walk over the pairs."""
        return Walk.build(self.pairs, self.own)


def build_parts(
    folder: Path,
    names: Sequence[PartName],
    dataset: Dataset,
    pairs: TrainingPairs,
    heads: Heads,
    x: Float[np.ndarray, "n d"],
    z: Float[np.ndarray, "l d"],
    w: Float[np.ndarray, "l d"],
    config: IndexConfig,
) -> None:
    """Write the files of parts, but for those that are there; every process must call this.

    Args:
        folder: gets a folder for each kind of file.
        names: the parts.
        dataset: the prepared folder, for the titles.
        pairs: the training pairs that the parts know.
        heads: for D and the mesh.
        x: x1 of the training points.
        z: the labels' vectors.
        w: the labels' classifiers.
        config: how an index searches.
    """
    points_of = pairs.pairs.T.tocsr()

    def central(rows: slice) -> np.ndarray:
        labels, means = centroids(points_of[rows], x)
        mu = np.zeros((rows.stop - rows.start, heads.dim), np.float32)
        mu[labels] = means
        return mu

    def voters(rows: slice) -> np.ndarray:
        votes = np.diff(pairs.pairs.indptr[rows.start : rows.stop + 1]) > 0
        return np.where(votes[:, None], x[rows], 0)

    vectors: dict[str, tuple[int, Callable[[slice], np.ndarray]]] = {
        "z": (len(z), lambda rows: np.asarray(z[rows])),
        "mu": (len(z), central),
        "w": (len(w), lambda rows: np.asarray(w[rows])),
        "points": (len(x), voters),
    }
    for name in dict.fromkeys(name for part in names for name in FILES.get(part, ())):
        here = folder / name
        if name == "words":
            if not processes.decide((here / "manifest.json").exists):
                processes.once("words", functools.partial(_save_words, dataset, here))
        elif name == "titles":
            if not processes.decide((here / "manifest.json").exists):
                processes.once("titles", functools.partial(_save_titles, dataset, folder))
        elif not processes.decide((here / "index.json").exists):
            count, rows_of = vectors[name]
            blocks = (rows_of(rows) for rows in _blocks(count, x))
            build_vector_index(here, blocks, heads.dim, config, heads.mesh)


def _save_words(dataset: Dataset, folder: Path) -> None:
    TitleWords.build(dataset.train.titles, dataset.labels.titles).save(folder)


def _save_titles(dataset: Dataset, folder: Path) -> None:
    words = TitleWords.load(folder / "words", dataset.num_labels)
    words.save_rows(folder / "titles", dataset.train.titles)


def load_parts(
    folder: Path,
    names: Sequence[PartName],
    pairs: TrainingPairs,
    heads: Heads,
    cache: LabelCache,
    config: PartConfig,
) -> dict[str, Part]:
    """Load parts.

    Args:
        folder: where `build_parts` wrote their files.
        names: the parts.
        pairs: the training pairs that the parts know.
        heads: where A_C comes from.
        cache: bags and classifiers of all labels.
        config: how the parts look for labels.

    Raises:
        InputError: if a file is missing or damaged.
    """
    index = functools.cache(lambda name: LabelIndex.load(folder / name, heads.mesh))
    words = functools.cache(lambda: TitleWords.load(folder / "words", len(pairs.trained)))

    def voters() -> csr_matrix:
        rows = words().load_rows(folder / "titles", len(pairs.own))
        votes = np.diff(pairs.pairs.indptr) > 0
        return csr_matrix(scipy.sparse.diags(votes.astype(np.float32)) @ rows)

    makers: dict[PartName, Callable[[], Part]] = {
        "z": lambda: Nearest(index("z")),
        "mu": lambda: Nearest(index("mu")),
        "c": lambda: Classifiers(heads, cache, index("w")),
        "v": lambda: Vote(index("points"), pairs.pairs, config.neighbours, config.vote_temperature),
        "g": lambda: KnownWalk(pairs.walk),
        "sg": lambda: SoftWalk(
            pairs.walk, index("z"), config.stand_ins, config.stand_in_temperature
        ),
        "t": lambda: Titles(words()),
        "tv": lambda: TitleVote(words(), voters(), pairs.pairs, config.title_neighbours),
    }
    return {name: makers[name]() for name in names}


def _blocks(count: int, file: np.ndarray) -> Iterator[slice]:
    """Yield runs of rows, and drop a mapped file's pages after each."""
    for rows in cut(count, _ROWS):
        yield rows
        forget(file)


def save_ranking(
    folder: Path, names: Sequence[PartName], config: PartConfig, mixes: dict[str, Mix]
) -> None:
    """Write which parts there are, how they look for labels, and their weights.

    Args:
        folder: where `build_parts` wrote the files of the parts.
        names: all parts.
        config: how they look for labels.
        mixes: the weights; "all" is served.
    """
    save_mixes(folder / "mixes.json", mixes)
    save_sealed(folder / "parts.json", {"names": list(names)} | dataclasses.asdict(config))


def load_ranking(
    folder: Path, dataset: Dataset, heads: Heads, cache: LabelCache, every: bool = False
) -> PartRanking:
    """Load what `build_parts` and `save_ranking` wrote.

    Args:
        folder: where they wrote it.
        dataset: the prepared folder, with the training pairs that the parts know.
        heads: where A_C comes from.
        cache: bags and classifiers of all labels.
        every: load the parts without a weight, too.

    Raises:
        InputError: if a file is missing or damaged.
    """
    facts, mixes = load_sealed(folder / "parts.json"), load_mixes(folder / "mixes.json")
    try:
        names: list[PartName] = facts.pop("names")
        config, mix = PartConfig(**facts), mixes["all"]
        for name in (*names, *mix.names):
            if name not in PARTS or name not in names:
                raise ValueError(f"part {name!r}")
        if not mix.names:
            raise ValueError("no part has a weight")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: parts.json and mixes.json hold no parts with weights ({error!r:.200}); "
            f"{MAKE_ANEW}"
        ) from error
    chosen: list[PartName] = names if every else [name for name in names if name in mix.names]
    pairs = TrainingPairs.read(dataset)
    parts = load_parts(folder, chosen, pairs, heads, cache, config)
    vectors = None
    if (folder / "z" / "index.json").exists():
        vectors = functools.cache(lambda: _vectors(folder, parts, heads))
    return PartRanking(parts, mix, pairs.trained, dataset.labels.ids, vectors)


def _vectors(folder: Path, parts: Mapping[str, Part], heads: Heads) -> LabelIndex:
    """Return the index of z: that of a part that has it, else loaded."""
    for part in (parts.get("z"), parts.get("sg")):
        if isinstance(part, Nearest | SoftWalk):
            return part.index
    return LabelIndex.load(folder / "z", heads.mesh)
