"""A minute data set and a minute model, for tests of everything that trains or predicts."""

from pathlib import Path

import numpy as np
from flax import nnx
from jax.sharding import Mesh
from raw_folders import write_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.prepare import PrepareConfig, prepare
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model import ModelConfig, Mufin
from mufin_jax.sharding import put, replicated

SIZE = 8
"""Pixels of a prepared picture's side."""
POINTS, TESTS, LABELS = 26, 11, 13
"""Sizes of the three sides: unlike one another, and multiples of nothing."""
COLOURS = "red blue green white black brown pink grey gold teal plum lime navy".split()
THINGS = "chair table lamp".split()

IMAGE = ViTConfig(width=12, depth=2, heads=2, mlp=10, patch=4, image_size=SIZE, init_std=None)
TEXT = DistilBertConfig(width=12, depth=2, heads=2, mlp=10, max_positions=16, init_std=None)
CONFIG = ModelConfig(dim=6, image=IMAGE, text=TEXT)


def raw_folder(folder: Path) -> Path:
    """A catalogue whose bags have zero to three pictures, with and without a title.

    Label l is relevant to the points 2 l and 2 l + 1, and to every fifth point from l on; pictures
    are shared by neighbours, and by points and labels. Every descriptor has its own colour or words.
    """

    def title(side: str, i: int) -> str:
        untitled = i % 8 == 3
        return "" if untitled else f"{COLOURS[i % 13]} {THINGS[i // 13]} {side}"

    def pictures(i: int, first: int) -> list[int]:
        count = 0 if i % 5 == 2 else 1 + i % 3
        return [first + i + k for k in range(count)]

    sizes = {"train": POINTS, "test": TESTS, "label": LABELS}
    firsts = {"train": 0, "test": 40, "label": 20}
    titles = {s: [(f"{s}{i}", title(s, i)) for i in range(n)] for s, n in sizes.items()}
    images = {s: [pictures(i, firsts[s]) for i in range(n)] for s, n in sizes.items()}
    relevance = {
        s: [sorted({i // 2 % LABELS, i % 5}) for i in range(sizes[s])] for s in ("train", "test")
    }
    return write_repository(folder, titles, relevance, images)


def prepared_folder(folder: Path) -> Path:
    """`raw_folder`, prepared below `folder`."""
    config = PrepareConfig(image_size=SIZE, records=False, vocab_size=128, max_tokens=8)
    prepare(config, raw_folder(folder / "raw"), folder / "prepared")
    return folder / "prepared"


def new_model(dataset: Dataset, mesh: Mesh, config: ModelConfig = CONFIG, seed: int = 0) -> Mufin:
    """A model of `CONFIG`'s size whose attention blocks are far from the identity."""
    model = Mufin(
        config,
        vocab=dataset.tokenizer.vocab_size,
        vector_width=None,
        processing=dataset.processing,
        mesh=mesh,
        rngs=nnx.Rngs(seed),
    )
    rng = np.random.default_rng(seed)
    for block in (model.self_attention, model.cross_attention):
        shake(block, rng)
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, put(state, replicated(mesh)))


def shake(module: nnx.Module, rng: np.random.Generator, scale: float = 0.5) -> None:
    """Adds noise to every weight, biases and norms too, so that none is its neutral value."""
    for _, weight in nnx.to_flat_state(nnx.state(module)):
        noise = scale * rng.normal(size=weight.shape)
        weight[...] = weight[...] + np.asarray(noise, weight.dtype)
