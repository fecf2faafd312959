"""A very small data set and model, for tests of training and prediction."""

from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from raw_folders import write_repository

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.embed_side import describe_once
from mufin_jax.model.mufin import Mufin
from mufin_jax.prediction.build import build_predictor
from mufin_jax.prediction.config import PredictConfig
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.distributed.mesh import put, replicated

PIXELS = 8
"""Side of a prepared picture."""
SIZES = {"train": 26, "test": 11, "label": 13}
"""Items of each side: different numbers, none a multiple of the eight devices."""
MOST_IMAGES = 3
COLOURS = "red blue green white black brown pink grey gold teal plum lime navy".split()

CONFIG = ModelConfig(
    dim=6,
    image=ViTConfig(width=12, depth=2, heads=2, mlp=10, patch=4, image_size=PIXELS),
    text=DistilBertConfig(width=12, depth=1, heads=2, mlp=10, max_positions=16),
)


def title(side: str, i: int) -> str:
    """Return an item's title, which no other item has; every eighth item has none."""
    return "" if i % 8 == 3 else f"{COLOURS[i % 13]} {('chair', 'lamp')[i // 13]} {side}"


def pictures(side: str, i: int) -> list[int]:
    """Return the numbers of an item's pictures: none to three, some shared with other items."""
    first = {"train": 0, "test": 40, "label": 20}[side] + i
    return [] if i % 5 == 2 else [first + k for k in range(1 + i % MOST_IMAGES)]


def relevant(i: int) -> list[int]:
    """Return the labels relevant to training or test point i."""
    return sorted({i // 2 % SIZES["label"], i % 5})


def prepared_folder(folder: Path) -> Path:
    """Write the catalogue and prepare it; return the prepared folder."""
    sides = {side: range(count) for side, count in SIZES.items()}
    write_repository(
        folder / "raw",
        {side: [(f"{side}{i}", title(side, i)) for i in items] for side, items in sides.items()},
        {side: [relevant(i) for i in sides[side]] for side in ("train", "test")},
        {side: [pictures(side, i) for i in items] for side, items in sides.items()},
    )
    config = PrepareConfig(image_size=PIXELS, records=False, vocab_size=128, max_tokens=8)
    prepare(config, folder / "raw", folder / "prepared")
    return folder / "prepared"


def new_model(
    dataset: Dataset,
    mesh: Mesh,
    config: ModelConfig = CONFIG,
    vector_width: int | None = None,
    text_vector_width: int | None = None,
    seed: int = 0,
) -> Mufin:
    """Build a model with random weights: no bias, norm or attention map has its initial value."""

    def make(rngs: nnx.Rngs) -> Mufin:
        return Mufin(
            config,
            vocab=dataset.tokenizer.vocab_size,
            vector_width=vector_width,
            text_vector_width=text_vector_width,
            processing=dataset.processing,
            mesh=mesh,
            rngs=rngs,
        )

    graphdef, state = nnx.split(abstract_module(make))
    state = random_weights(state, np.random.default_rng(seed))
    return nnx.merge(graphdef, put(state, replicated(mesh)))


def random_weights(state: nnx.State, rng: np.random.Generator) -> nnx.State:
    """Draw normal weights with standard deviation 1/sqrt(inputs); scales of norms are near one."""

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        noise = rng.normal(size=leaf.shape)
        if any(getattr(key, "key", None) == "scale" for key in path):
            return (1 + 0.2 * noise).astype(np.float32)
        return (noise / max(1, leaf.shape[0]) ** 0.5).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, state)


def shaken(module: nnx.Module, seed: int = 0) -> nnx.Module:
    """Return the module with `random_weights`."""
    graphdef, state = nnx.split(module)
    return nnx.merge(graphdef, random_weights(state, np.random.default_rng(seed)))


def weights(model: nnx.Module) -> dict[str, np.ndarray]:
    """Return copies of a model's weights by path, such as self_attention/query/kernel."""
    flat = nnx.to_flat_state(nnx.state(model))
    return {"/".join(map(str, path)): np.array(weight[...]) for path, weight in flat}


def label_predictor(folder: Path, dataset: Dataset, mesh: Mesh) -> Predictor:
    """Return a predictor by label embeddings, without a table, with shortlists of nine labels."""
    model = new_model(dataset, mesh)
    vectors = describe_once(model, Loader(dataset), folder / "vectors.npy")
    config, exact = PredictConfig(shortlist=9), IndexConfig(backend="exact")
    build_predictor(folder / "p", model, None, dataset, vectors, config, exact)
    return Predictor.load_parts(folder / "p", model, dataset)
