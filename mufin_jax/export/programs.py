"""The model as StableHLO programs, which any runtime of XLA executes without this package.

    <folder>/text.bin, image.bin      a text's tokens, or a picture's pixels, to X0
    <folder>/embed.bin                X0 of the bags of items to X1 and x1
    <folder>/score.bin                X1 of items, bags and classifiers of labels to scores
    <folder>/weights.safetensors      the weights, by name
    <folder>/programs.json            inputs and weights of each, how long they serve

All numbers of items, descriptors and labels are symbolic. Each program takes two dicts of arrays,
weights and inputs, and returns a dict.
"""

import dataclasses
import datetime
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export
from jaxtyping import Array
from safetensors.numpy import save

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, PackedTexts, Pool
from mufin_jax.data.sources import Pixels, Vectors
from mufin_jax.encoders.rows import alone
from mufin_jax.model.heads import Embedding, Heads
from mufin_jax.model.item_encoder import ItemEncoder
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError, reason
from mufin_jax.runtime.storage import files

Arrays = dict[str, Array]
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SERVES = datetime.timedelta(days=180)
"""JAX reads programs of versions up to half a year older."""
MANIFEST, WEIGHTS = "programs.json", "weights.safetensors"
FLATBUFFERS = "programs need the package flatbuffers: pip install flatbuffers"


@dataclasses.dataclass(frozen=True)
class Program:
    """A part of the model as a function of arrays.

    Attributes:
        module: has the weights.
        call: from the module and the inputs to the outputs.
        inputs: the shape and the type of each, by name; letters are symbolic sizes.
    """

    module: nnx.Module
    call: Callable[[Any, Arrays], Arrays]
    inputs: dict[str, tuple[str, str]]

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The weights, by their paths in the model."""
        state = nnx.to_flat_state(nnx.state(self.module))
        return {".".join(map(str, path)): np.asarray(value[...]) for path, value in state}

    def serialized(self) -> bytes:
        """Return the program with symbolic sizes, for all `PLATFORMS`."""
        graphdef, state = nnx.split(self.module)
        paths = [path for path, _ in nnx.to_flat_state(state)]

        def program(weights: Arrays, inputs: Arrays) -> Arrays:
            flat = {path: weights[".".join(map(str, path))] for path in paths}
            module = nnx.merge(graphdef, nnx.traversals.unflatten_mapping(flat))
            return self.call(module, inputs)

        scope = export.SymbolicScope()
        inputs = {
            name: jax.ShapeDtypeStruct(export.symbolic_shape(shape, scope=scope), np.dtype(kind))
            for name, (shape, kind) in self.inputs.items()
        }
        weights = {
            name: jax.ShapeDtypeStruct(one.shape, one.dtype) for name, one in self.weights.items()
        }
        made = export.export(jax.jit(program), platforms=PLATFORMS)(weights, inputs)
        return bytes(made.serialize())


def problem(predictor: Predictor) -> str | None:
    """Return why the programs cannot be written, or None."""
    if predictor.loader.descriptors.together:
        return "--programs: not for a model that reads a title with its pictures; leave it out"
    if jax.default_backend() != "cpu":  # elsewhere attention is a kernel of that accelerator
        return "--programs: they are written on a CPU, for all platforms: set JAX_PLATFORMS=cpu"
    return None if has_flatbuffers() else f"--programs: {FLATBUFFERS}"


def has_flatbuffers() -> bool:
    """Return whether programs can be written and read."""
    return importlib.util.find_spec("flatbuffers") is not None


def save_programs(predictor: Predictor, folder: Path, today: datetime.date | None = None) -> None:
    """Write the programs of a model; see the text at the top of this file.

    Args:
        predictor: whose model it is.
        folder: is made.
        today: the day that is recorded.

    Raises:
        InputError: if an encoder cannot be written with symbolic sizes.
    """
    folder.mkdir()
    day, weights, about = today or datetime.date.today(), {}, {}
    for name, program in programs(predictor):
        try:
            content = program.serialized()
        except Exception as error:  # of many types: what a program may do is up to JAX
            raise InputError(
                f"--programs: {name} cannot be written with symbolic sizes ({reason(error)}); "
                "leave --programs out"
            ) from error
        with files.replacing(folder / f"{name}.bin", len(content)) as file:
            file.write(content)
        weights |= program.weights
        about[name] = {"inputs": program.inputs, "weights": sorted(program.weights)}
    with files.replacing(folder / WEIGHTS) as file:
        file.write(save(weights))
    facts = {
        "jax": jax.__version__, "platforms": PLATFORMS, "made": str(day),
        "export_again_by": str(day + SERVES), "shortlist": predictor.config.shortlist,
        "mix": predictor.config.mix, "programs": about,
    }  # fmt: skip
    files.save_sealed(folder / MANIFEST, facts)


def programs(predictor: Predictor) -> Iterator[tuple[str, Program]]:
    """Yield the names and the programs of a model that is not joint."""
    model, dataset, dim = predictor.model, predictor.dataset, predictor.model.dim
    mesh = make_mesh(jax.local_devices()[:1])
    whole = model.encoder()
    for kind in ("text", "image"):
        encoder, reduce = getattr(whole, f"{kind}_encoder"), getattr(whole, f"{kind}_reduce")
        if encoder is None:
            continue
        own = [None, None, None, None]
        own[kind == "text"], own[2 + (kind == "text")] = encoder, reduce
        half = ItemEncoder(*own, dim=dim, processing=whole.processing, mesh=mesh)
        ready = dataset.text_vectors if kind == "text" else dataset.image_vectors
        if ready is not None:
            inputs = {"vectors": (f"b, {ready.shape[1]}", "float32")}
        elif kind == "text":
            inputs = {
                "tokens": (f"b, {dataset.texts.shape[1]}", "int32"),
                "lengths": ("b", "int32"),
            }
        else:
            size = dataset.processing.size
            inputs = {"pixels": (f"b, {size}, {size}, 3", "uint8")}
        yield kind, Program(half, _describe, inputs)
    heads = Heads(model.self_attention, model.cross_attention, dim=dim, mesh=mesh)
    bag, mask = (f"b, n, {dim}", "float32"), ("b, n", "bool")
    yield "embed", Program(heads, _embed, {"x0": bag, "mask": mask})
    inputs = {
        "x1": bag, "mask": mask, "vector": (f"b, {dim}", "float32"),
        "z1": (f"b, c, m, {dim}", "float32"), "label_mask": ("b, c, m", "bool"),
        "w": (f"b, c, {dim}", "float32"), "a": ("b, c", "float32"),
    }  # fmt: skip
    score = functools.partial(_score, mix=predictor.config.mix)
    yield "score", Program(heads, score, inputs)


def _describe(encoder: ItemEncoder, inputs: Arrays) -> Arrays:
    if "pixels" in inputs:
        return {"x0": encoder.describe(Pool(None, Pixels(inputs["pixels"])))}
    if "vectors" in inputs and encoder.text_encoder is None:
        return {"x0": encoder.describe(Pool(None, Vectors(inputs["vectors"])))}
    if "vectors" in inputs:
        return {"x0": encoder.describe(Pool(Vectors(inputs["vectors"]), None))}
    tokens = inputs["tokens"]
    packed = PackedTexts(tokens, alone(tokens, inputs["lengths"]).astype(jnp.int32))
    return {"x0": encoder.describe(Pool(packed, None))[::TEXTS_A_ROW]}


def _embed(heads: Heads, inputs: Arrays) -> Arrays:
    x0, mask = inputs["x0"], inputs["mask"]
    slots = jnp.arange(mask.size).reshape(mask.shape)
    found = heads.embed(x0.reshape(-1, heads.dim), Bags(slots, mask))
    return {"x1": found.bag, "vector": found.vector}


def _score(heads: Heads, inputs: Arrays, mix: float) -> Arrays:
    points = Embedding(inputs["x1"], inputs["mask"], inputs["vector"])
    memory = heads.cross_attention.memory(inputs["z1"], inputs["label_mask"])
    c = jnp.einsum("bcd,bcd->bc", heads.adapt(points, memory), inputs["w"])
    return {"c": c, "scores": mix * c + (1 - mix) * inputs["a"]}
