"""The model in a folder, as stages pass it on: `model.json`, its sizes, and `weights/`."""

import dataclasses
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.encoders.abstract import abstract_module
from mufin_jax.encoders.checks import how_computed
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import described, from_description
from mufin_jax.encoders.vectors import ReadyVectors, unit_scale
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import make_mesh, put, replicated
from mufin_jax.runtime.draws import Draw, key
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.files import load_sealed, save_sealed
from mufin_jax.runtime.storage.paths import Given, user_path

_ENCODERS = {"image": "vit", "text": "distilbert"}
"""The model's encoders, and what they were in version 0.1, which had one kind of each."""


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """Everything that the shapes of a model's weights follow from.

    Attributes:
        config: sizes and kinds.
        vocab: number of tokens of the tokenizer; 0 for a model that reads no tokens.
        vector_width: width of ready image vectors, or None when images are pixels.
        text_vector_width: width of ready text vectors, or None when texts are tokens.
        processing: how pixels are normalised before E_V.
    """

    config: ModelConfig
    vocab: int
    vector_width: int | None
    text_vector_width: int | None
    processing: ImageProcessing

    @classmethod
    def of(cls, config: ModelConfig, dataset: Dataset) -> "ModelSizes":
        """Return the sizes of a model for these data.

        Args:
            config: with the sizes of the checkpoints that it names.
            dataset: the prepared folder.
        """
        images, texts, vocab = dataset.image_vectors, dataset.text_vectors, 0
        if config.modalities != "images" and texts is None:
            vocab = config.text.vocab if config.text_checkpoint else dataset.tokenizer.vocab_size
        return cls(
            config,
            vocab,
            None if images is None else images.shape[1],
            None if texts is None else texts.shape[1],
            dataset.processing,
        )

    def build(self, mesh: Mesh, rngs: nnx.Rngs) -> Mufin:
        """Return a model of these sizes with random weights."""
        return Mufin(
            self.config,
            vocab=self.vocab,
            vector_width=self.vector_width,
            text_vector_width=self.text_vector_width,
            processing=self.processing,
            mesh=mesh,
            rngs=rngs,
        )


def new_model(
    config: ModelConfig, dataset: Dataset, mesh: Mesh | None = None, seed: int = 0
) -> Mufin:
    """Return the model before any training: from checkpoints where they are named, else random.

    Args:
        config: sizes, kinds and checkpoints.
        dataset: the prepared folder that the model is for.
        mesh: the devices; all of them by default.
        seed: of the random weights.

    Raises:
        InputError: if a checkpoint cannot be read, or belongs to another kind of data.
    """
    mesh = mesh or make_mesh()
    vectors, text_vectors = dataset.image_vectors, dataset.text_vectors
    for kind, ready, raw, named in (
        ("image", vectors, "pixels", config.image_checkpoint),
        ("text", text_vectors, "titles", config.text_checkpoint),
    ):
        if named and ready is not None:
            raise InputError(
                f"--model.{kind}-checkpoint={named}: the data hold ready {kind} vectors; expected "
                f"{raw}; use --model.{kind}-checkpoint=None and another --workdir"
            )
    config, encoders = _read_checkpoints(config, dataset)
    if config.modalities != "images" and text_vectors is None:
        _check_texts(dataset, config)
    model = ModelSizes.of(config, dataset).build(mesh, nnx.Rngs(key(seed, Draw.ENCODERS)))
    for name, encoder in encoders.items():
        setattr(model, name, encoder)
    for encoder, ready in ((model.image_encoder, vectors), (model.text_encoder, text_vectors)):
        # A joint text encoder gets them unscaled: its own map of them may be a checkpoint's.
        if isinstance(encoder, ReadyVectors) and ready is not None and config.modalities != "joint":
            encoder.scale = unit_scale(ready)
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, put(state, replicated(mesh)))


def new_loader(
    config: ModelConfig, dataset: Dataset, mesh: Mesh | None = None, *, padded: bool = True
) -> Loader:
    """Return a loader of what a model of this config sees of a dataset.

    Args:
        config: of the model.
        dataset: the prepared folder.
        mesh: the devices that pools are split over; every process reads all rows without one.
        padded: whether the axes of a pool are padded to their buckets.
    """
    return Loader(dataset, config.modalities, mesh, label_images=config.label_images, padded=padded)


def _read_checkpoints(
    config: ModelConfig, dataset: Dataset
) -> tuple[ModelConfig, dict[str, nnx.Module]]:
    """Return the config with the checkpoints' sizes, and their encoders by name in the model."""
    encoders = {}
    if config.image_checkpoint and config.modalities != "text":
        from mufin_jax.encoders.pretrained import load_image_encoder

        encoders["image_encoder"] = encoder = load_image_encoder(
            config.image_checkpoint, dataset.processing.size, **how_computed(config.image)
        )
        config = dataclasses.replace(config, image=encoder.config)
    if config.text_checkpoint and config.modalities != "images":
        from mufin_jax.encoders.pretrained import load_text_encoder

        encoders["text_encoder"] = encoder = load_text_encoder(
            config.text_checkpoint, config.modalities == "joint", **how_computed(config.text)
        )
        config = dataclasses.replace(config, text=encoder.config)
    return config, encoders


def _check_texts(dataset: Dataset, config: ModelConfig) -> None:
    """Reject token ids and lengths that the text encoder has no embeddings for (JAX gives NaN)."""
    if (tokens := dataset.texts.shape[1]) > config.text.max_positions:
        raise InputError(
            f"{dataset.path}: texts have up to {tokens} tokens, but the text encoder takes "
            f"{config.text.max_positions}; set --prepare.max-tokens={config.text.max_positions}"
        )
    if config.text_checkpoint and (found := dataset.tokenizer.vocab_size) > config.text.vocab:
        raise InputError(
            f"{dataset.path}: its tokenizer knows {found} tokens, but {config.text_checkpoint} "
            f"embeds {config.text.vocab}; set --prepare.tokenizer={config.text_checkpoint}"
        )


def save_model(model: Mufin, folder: Path) -> None:
    """Write the model's sizes and weights; the folder holds nothing else."""
    encoders = {name: described(getattr(model.config, name)) for name in _ENCODERS}
    scales = {
        name: encoder.scale
        for name in _ENCODERS
        if isinstance(encoder := getattr(model, f"{name}_encoder"), ReadyVectors)
    }
    sizes = {
        "config": dataclasses.asdict(model.config) | encoders,
        "vector_scales": scales,
        "vocab": model.vocab,
        "vector_width": model.vector_width,
        "text_vector_width": model.text_vector_width,
        "processing": dataclasses.asdict(model.processing),
    }
    Checkpoints(folder / "weights").save(0, _weights(model), {})
    processes.once("the model's sizes", lambda: save_sealed(folder / "model.json", sizes))


def load_sizes(folder: Path) -> tuple[ModelSizes, dict[str, float]]:
    """Return the sizes of the model that `save_model` wrote, and the scales of ready vectors.

    Raises:
        InputError: if there is no model, or the file is damaged.
    """
    if not (folder / "model.json").exists():
        raise InputError(f"{folder}: found no model; run the stage that writes it first")
    stored = load_sealed(folder / "model.json")
    config, processing = stored["config"], stored["processing"]
    config |= {name: from_description(config[name], first) for name, first in _ENCODERS.items()}
    processing |= {key: tuple(processing[key]) for key in ("mean", "std")}
    sizes = ModelSizes(
        ModelConfig(**config),
        stored["vocab"],
        stored["vector_width"],
        stored.get("text_vector_width"),  # absent from older files
        ImageProcessing(**processing),
    )
    return sizes, stored.get("vector_scales", {})  # absent from older files


def load_model(folder: Given, mesh: Mesh | None = None) -> Mufin:
    """Load the model that `save_model` wrote, of this version or an older one.

    Args:
        folder: of the model.
        mesh: the devices; all of them by default.

    Raises:
        InputError: if there is no model, or it is incomplete.
    """
    folder, mesh = user_path(folder, "folder"), mesh or make_mesh()
    sizes, scales = load_sizes(folder)

    def build(rngs: nnx.Rngs) -> Mufin:
        model = sizes.build(mesh, rngs)
        for name, scale in scales.items():
            getattr(model, f"{name}_encoder").scale = scale
        return model

    abstract = abstract_module(build)
    weights = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        _weights(abstract),
    )
    found = Checkpoints(folder / "weights").restore(weights)
    if found is None:
        raise InputError(
            f"{folder}/weights: found no readable weights; run the stage that writes them"
        )
    return nnx.merge(nnx.graphdef(abstract), found[1])


def _weights(model: Mufin) -> dict:
    return nnx.to_pure_dict(nnx.state(model))
