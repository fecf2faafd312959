"""Prediction: embed, shortlist, classify, mix, top k (paper, section 3).

A datapoint is embedded once. Its shortlist R comes with a_l, the largest cosine of x1 with any
entry of label l; the classifiers give c_l = x2_l·w_l for the labels of the shortlist alone; the
score is 0.7 c + 0.3 a. Label bags, centroids and index are rebuilt with the encoders that Module IV
leaves, so that a query passes one encoder once.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from mufin_jax import classifiers
from mufin_jax.artefacts import load_model
from mufin_jax.attention import Memory
from mufin_jax.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset, Side
from mufin_jax.data.loader import Loader, pad_rows, prefetch
from mufin_jax.errors import InputError
from mufin_jax.files import read_json, replacing, write_json
from mufin_jax.label_side import build_index, embed_dataset, shortlist
from mufin_jax.mining import training_pairs
from mufin_jax.model import Embedding, Mufin
from mufin_jax.queries import read_items
from mufin_jax.retrieval import IndexConfig, LabelIndex
from mufin_jax.sharding import by_row, make_mesh, put, replicated
from mufin_jax.shortlist import Shortlist

BLOCK = 256
"""Datapoints that are embedded together."""
PAIRS = 32
"""Datapoints whose shortlists are scored together: bounds the memory of their label bags."""


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """How scores are made; the defaults are the paper's.

    Attributes:
        shortlist: labels retrieved for a datapoint.
        mix: weight of the classifier's score c; the rest is the similarity a.
    """

    shortlist: int = 100
    mix: float = 0.7

    def __post_init__(self) -> None:
        """Refuse an empty shortlist and weights outside [0, 1]."""
        if self.shortlist < 1 or not 0 <= self.mix <= 1:
            raise InputError(
                f"predict.shortlist={self.shortlist}, predict.mix={self.mix}: wanted a shortlist "
                "of at least 1 and a mix between 0 and 1"
            )


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One label predicted for one item."""

    label: int
    id: str
    title: str
    score: float


@functools.partial(jax.jit, static_argnames="mix")
def _score(
    model: Mufin, points: Embedding, memory: Memory, slots: Any, w: Any, found: tuple, mix: float
) -> tuple[jax.Array, jax.Array]:
    """c, mixed with a, for each label of each shortlist, best first; -inf where there is none."""
    labels, a = found
    real = labels >= 0
    rows = slots[jnp.where(real, labels, 0)]
    pairs = Memory(memory.keys[rows], memory.values[rows], rows >= 0)
    c = jnp.einsum("bcd,bcd->bc", model.adapt(points, pairs), w[jnp.where(real, labels, 0)])
    scores = jnp.where(real, mix * c + (1 - mix) * jnp.where(real, a, 0), -jnp.inf)
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.take_along_axis(labels, order, -1), jnp.take_along_axis(scores, order, -1)


@jax.jit
def _embed(model: Mufin, pool: Pool, bags: Bags) -> Embedding:
    return model.embed(model.describe(pool), bags)


class Predictor:
    """Answers queries: titles and pictures in, ranked labels out.

    Args:
        model: the encoders and attention blocks that Module IV leaves.
        index: label entries under this model.
        bags: Z1 of every label, descriptor after descriptor (e, d).
        offsets: the descriptors of label l are rows offsets[l] to offsets[l + 1] of `bags`.
        w: the classifiers (L, d).
        dataset: the prepared folder the model was trained on: tokenizer, picture size, titles.
        config: shortlist and mix.
    """

    def __init__(
        self,
        model: Mufin,
        index: LabelIndex,
        bags: Float[np.ndarray, "e d"],
        offsets: Int[np.ndarray, "l1"],
        w: Float[np.ndarray, "l d"],
        dataset: Dataset,
        config: PredictConfig,
    ):
        self.model, self.index, self.dataset, self.config = model, index, dataset, config
        self._arrays = {"bags": bags, "offsets": offsets, "w": w}
        self.loader = Loader(dataset, model.config.modalities, model.mesh.size)
        everywhere = replicated(model.mesh)
        start, stop = offsets[:-1, None], offsets[1:, None]
        slots = start + np.arange(max(1, int(np.diff(offsets).max(initial=1))))
        self._slots = put(np.where(slots < stop, slots, -1).astype(np.int32), everywhere)
        self._w = put(w, everywhere)
        memory = jax.jit(lambda block, bags: block.memory(bags, jnp.ones(len(bags), bool)))
        self._memory = memory(model.cross_attention, put(bags, everywhere))

    @classmethod
    def build(
        cls,
        model: Mufin,
        table: classifiers.LabelTable | None,
        dataset: Dataset,
        config: PredictConfig,
        index: IndexConfig,
    ) -> "Predictor":
        """Embed the label side with this model, and index it."""
        embedded = embed_dataset(model, Loader(dataset, model.config.modalities, model.mesh.size))
        labels = embedded.labels
        assert labels.bag is not None
        w = labels.vector
        if table is not None:
            rows = jax.tree.map(lambda leaf: np.asarray(leaf)[: len(w)], table.rows)
            w = np.asarray(jax.jit(classifiers.combine)(rows, w))
        offsets = np.concatenate([[0], np.cumsum(labels.mask.sum(1))])
        relevance, _ = training_pairs(dataset.train)
        built = build_index(labels, relevance, embedded.train.vector, index)
        return cls(model, built, labels.bag[labels.mask], offsets, w, dataset, config)

    def save(self, folder: Path) -> None:
        """Write the label side: `index/`, `labels.npz` (bags, offsets, w) and `predictor.json`."""
        self.index.save(folder / "index")
        with replacing(folder / "labels.npz") as file:
            arrays = self._arrays
            np.savez(file, bags=arrays["bags"], offsets=arrays["offsets"], w=arrays["w"])
        write_json(folder / "predictor.json", dataclasses.asdict(self.config))

    @classmethod
    def load(
        cls, workdir: str | Path, mesh: Mesh | None = None, config: PredictConfig | None = None
    ) -> "Predictor":
        """Return the predictor of a run, once its stage finetune is done.

        Raises:
            InputError: if the folder holds no finished run.
        """
        workdir = Path(workdir)
        folder = workdir / "finetune" / "predictor"
        if not (folder / "predictor.json").exists():
            raise InputError(
                f"{workdir}: no trained model there; run the stages up to finetune with "
                f"--workdir={workdir} first"
            )
        model = load_model(workdir / "finetune" / "model", mesh or make_mesh())
        with np.load(folder / "labels.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("bags", "offsets", "w")}
        config = config or PredictConfig(**read_json(folder / "predictor.json"))
        index = LabelIndex.load(folder / "index")
        return cls(model, index, **arrays, dataset=Dataset.open(workdir / "prepare"), config=config)

    def predict(self, items: Sequence[dict], k: int = 5) -> list[list[Prediction]]:
        """Rank labels for items the model has not seen.

        Args:
            items: dicts with a "title" and "images" (paths, bytes or PIL images), either may be
                missing.
            k: labels wanted per item, at most the length of the shortlist.

        Raises:
            InputError: if an item has nothing that the model sees, or a picture cannot be read.
        """
        results, mesh = [], self.model.mesh
        for start in range(0, len(items), BLOCK):
            block, modalities = items[start : start + BLOCK], self.model.config.modalities
            pool, bags = read_items(block, start, self.dataset, modalities, mesh.size)
            labels, scores = self.rank(pool, bags, len(block))
            results += [self._name(*row, k) for row in zip(labels, scores, strict=True)]
        return results

    def rank_side(
        self, side: Side, extra: int = 0, lists: Shortlist | None = None
    ) -> Iterator[tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]]:
        """Yield labels and scores of a side's items, block after block, best first.

        Args:
            side: the items.
            extra: labels to retrieve beyond the shortlist, for those an overlap filter takes away.
            lists: shortlists to use in place of this predictor's own.
        """
        blocks = [np.arange(i, min(i + BLOCK, len(side))) for i in range(0, len(side), BLOCK)]
        made = prefetch(lambda i: self.loader.batch([(side, blocks[i])]), 0, len(blocks))
        for rows, (pool, (bags,)) in zip(blocks, made, strict=True):
            assert isinstance(pool, Pool)  # this loader holds no ready descriptor vectors
            given = None
            if lists is not None:
                given = Shortlist(lists.labels[rows], lists.similarities[rows])
            yield self.rank(pool, bags, len(rows), extra, given)

    def rank(
        self, pool: Pool, bags: Bags, count: int, extra: int = 0, lists: Shortlist | None = None
    ) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
        """Return the labels of the first `count` bags and their scores, best first."""
        mesh = self.model.mesh
        padded = jax.tree.map(lambda leaf: pad_rows(leaf, mesh.size), bags)
        points = _embed(self.model, put(pool, by_row(mesh)), put(padded, by_row(mesh)))
        if lists is None:
            x = np.asarray(points.vector)[:count]
            lists = shortlist(self.index, x, self.config.shortlist + extra)
        step = -(-PAIRS // mesh.size) * mesh.size
        labels, scores = [], []
        for start in range(0, count, step):
            size = min(step, len(padded.mask) - start)
            part = jax.tree.map(lambda leaf: leaf[start : start + size], points)  # noqa: B023
            found = (lists.labels[start : start + size], lists.similarities[start : start + size])
            found = tuple(
                np.pad(leaf, ((0, size - len(leaf)), (0, 0)), constant_values=fill)
                for leaf, fill in zip(found, (-1, -np.inf), strict=True)
            )
            result = _score(
                self.model, part, self._memory, self._slots, self._w,
                put(found, by_row(mesh)), mix=self.config.mix,
            )  # fmt: skip
            labels.append(np.asarray(result[0]))
            scores.append(np.asarray(result[1]))
        return np.concatenate(labels)[:count], np.concatenate(scores)[:count]

    def _name(self, labels: np.ndarray, scores: np.ndarray, k: int) -> list[Prediction]:
        side = self.dataset.labels
        return [
            Prediction(int(label), side.ids[int(label)], side.titles[int(label)], float(score))
            for label, score in zip(labels[:k], scores[:k], strict=True)
            if label >= 0
        ]
