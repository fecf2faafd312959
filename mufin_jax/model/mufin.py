"""The model of MUFIN: describe, embed, adapt (paper, section 3).

- describe: every descriptor, by the encoder of its kind, reduced to D entries: X0. A joint encoder
  (VisualBERT) makes a single descriptor of all that an item has.
- embed: self-attention A_S over the bag, X1 = A_S(X0, X0), and the vector embedding
  x1 = unit(sum of X1). Labels go the same way with the same weights: Z1, z1.
- adapt: cross-attention, x2_l = unit(sum of A_C(X1, Z1_l)): the datapoint as seen by label l.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, Literal, no_type_check

import jax
import jax.numpy as jnp
import tyro
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from mufin_jax.data.bags import TEXTS_A_ROW, Bags, Pool
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import configs, is_joint, name_of, new_encoder
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.attention import AttentionBlock, Concatenation, Memory, NoAttention
from mufin_jax.model.pooling import fill, masked_sum, pool_maximum, unit
from mufin_jax.runtime.distributed.mesh import BY_ROW, REPLICATED, over_devices, replicated
from mufin_jax.runtime.errors import InputError

Modalities = Literal["both", "text", "images", "joint"]
CrossAttention = Literal["attention", "concat", "none"]

if TYPE_CHECKING:
    ImageConfig = TextConfig = Any
else:  # of any encoder in the table; the options are the fields of the default's kind
    ImageConfig = Annotated[configs("image"), tyro.conf.AvoidSubcommands]
    TextConfig = Annotated[configs("text"), tyro.conf.AvoidSubcommands]


def _check_joint(config: "ModelConfig") -> None:
    """Reject a text encoder that does not go with what the model sees."""
    joint = config.modalities == "joint"
    if config.modalities != "images" and is_joint(config.text) != joint:
        named = config.text_checkpoint or f"{name_of(config.text)}, model.text's kind,"
        kind = "a text alone" if joint else "a text and its pictures as one"
        raise InputError(
            f"model.modalities={config.modalities}, but {named} encodes {kind}; choose "
            f"--model.modalities={'both' if joint else 'joint'}, or another text encoder"
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the model is made of; the defaults are the paper's.

    Attributes:
        dim: D, the width of every embedding.
        heads: attention heads of A_S and of A_C; must divide dim.
        modalities: what the model sees of an item: both, its text, or its images; or both through a
            joint encoder, to which E_V's vectors of the images are tokens: one descriptor an item.
        label_images: whether the labels' pictures are seen; without them, labels are text alone.
        reduce: how 768 entries become D: adaptive max-pooling, or a learned linear map.
        self_attention: A_S, or none: X1 = X0 (table 4).
        cross_attention: A_C; [x1; z1] through two linear maps; or none: x2_l = x1 (table 4). Module
            III makes it, so that runs which differ in it share Modules I and II.
        image: E_V, when it is trained from scratch; the config's type says which encoder.
        text: E_T, when it is trained from scratch; its vocabulary is the tokenizer's.
        image_checkpoint: weights for E_V to start from: a local directory or a name on the hub.
            Its config.json says which encoder, and how large.
        text_checkpoint: weights for E_T to start from, likewise, with their tokenizer.
    """

    dim: int = 192
    heads: int = 1
    modalities: Modalities = "both"
    label_images: bool = True
    reduce: Literal["max_pool", "linear"] = "max_pool"
    self_attention: Literal["attention", "none"] = "attention"
    cross_attention: CrossAttention = "attention"
    image: ImageConfig = dataclasses.field(default_factory=ViTConfig.base_32)
    text: TextConfig = dataclasses.field(default_factory=DistilBertConfig.base)
    image_checkpoint: str | None = None
    text_checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Reject widths that no attention block can have."""
        if self.dim < 1 or self.heads < 1 or self.dim % self.heads:
            raise InputError(
                f"model.dim={self.dim} with model.heads={self.heads}: heads must divide dim; "
                "choose, say, --model.heads=1"
            )
        if self.modalities == "images" and not self.label_images:
            raise InputError(
                "model.modalities=images without model.label_images leaves labels empty; choose "
                "--model.modalities=both"
            )
        if self.text_checkpoint is None:  # else its config.json says what it is
            _check_joint(self)


@no_type_check  # its leaves may also be numpy arrays, shapes or placements
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedding:
    """Items after self-attention.

    Attributes:
        bag: X1 (or Z1), one vector per descriptor.
        mask: True where the descriptor exists.
        vector: x1 (or z1), sphere-normalised.
    """

    bag: Float[Array, "b n d"]
    mask: Bool[Array, "b n"]
    vector: Float[Array, "b d"]


CrossBlock = AttentionBlock | Concatenation | NoAttention


def new_cross_attention(config: ModelConfig, rngs: nnx.Rngs) -> CrossBlock:
    """Return A_C, or what stands in its place, as Module IV begins with it."""
    if config.cross_attention == "concat":
        return Concatenation(config.dim, rngs=rngs)
    if config.cross_attention == "none":
        return NoAttention()
    return AttentionBlock(config.dim, config.heads, rngs=rngs)


class Mufin(nnx.Module):
    """E_V, E_T, A_S and A_C. A Flax NNX module, used as a plain pytree.

    Args:
        config: sizes and kinds.
        vocab: number of tokens of the tokenizer.
        vector_width: width of ready image vectors, or None when images are pixels.
        text_vector_width: width of ready text vectors, or None when texts are tokens.
        processing: how pixels are normalised before E_V.
        mesh: the devices that the attention blocks are mapped over.
        rngs: source of the initial weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        vocab: int,
        vector_width: int | None,
        text_vector_width: int | None = None,
        processing: ImageProcessing,
        mesh: Mesh,
        rngs: nnx.Rngs,
    ):
        self.config, self.dim, self.mesh, self.processing = config, config.dim, mesh, processing
        self.vocab = vocab
        self.vector_width, self.text_vector_width = vector_width, text_vector_width
        image_encoder = text_encoder = image_reduce = text_reduce = None
        joint, width = config.modalities == "joint", 0
        if config.modalities != "text":
            if vector_width is None:
                image_encoder, width = new_encoder(config.image, rngs), config.image.outputs
            else:
                image_encoder, width = ReadyVectors(vector_width, rngs), vector_width
            if config.reduce == "linear" and not joint:
                image_reduce = nnx.Linear(width, config.dim, rngs=rngs)
        if config.modalities != "images":
            sizes = {"vocab": vocab}
            if text_vector_width is None:
                _check_joint(config)
                if joint and config.text_checkpoint and config.text.visual != width:
                    raise InputError(
                        f"{config.text_checkpoint} reads vectors of {config.text.visual} entries, "
                        f"and pictures have vectors of {width}; choose another "
                        "--model.image-checkpoint (microsoft/resnet-101 gives 2048)"
                    )
                sizes |= {"visual": width} if joint else {}
                text_encoder = new_encoder(dataclasses.replace(config.text, **sizes), rngs)
                width = config.text.outputs
            else:
                text_encoder, width = ReadyVectors(text_vector_width, rngs), text_vector_width
            if config.reduce == "linear":
                text_reduce = nnx.Linear(width, config.dim, rngs=rngs)
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.image_reduce, self.text_reduce = image_reduce, text_reduce
        attends = config.self_attention == "attention"
        self.self_attention = (
            AttentionBlock(config.dim, config.heads, rngs=rngs) if attends else NoAttention()
        )
        self.cross_attention = new_cross_attention(config, rngs)

    def describe(self, pool: Pool) -> Float[Array, "p d"]:
        """Return the descriptor vectors X0 of a pool, texts first, on every device."""
        parts = []
        if self.text_encoder is not None and pool.tokens is not None:
            parts.append(self._reduce(self.read(pool), self.text_reduce))
        if self.image_encoder is not None and pool.images is not None and pool.pictures is None:
            parts.append(self._reduce(self.see(pool.images), self.image_reduce))
        # Encoded where the descriptor lies, then gathered: the vectors of a batch are small.
        parts = [jax.lax.with_sharding_constraint(part, replicated(self.mesh)) for part in parts]
        return jnp.concatenate(parts)

    def embed(self, vectors: Float[Array, "p d"], bags: Bags) -> Embedding:
        """Return X1 = A_S(X0, X0) and x1 = unit(sum X1); the bags are split over the devices."""

        def local(block: AttentionBlock | NoAttention, vectors: Array, bags: Bags) -> Embedding:
            x0 = fill(vectors, bags)
            x1 = block(x0, x0, bags.mask)
            return Embedding(x1, bags.mask, unit(masked_sum(x1, bags.mask)))

        mapped = over_devices(local, self.mesh, (REPLICATED, REPLICATED, BY_ROW), BY_ROW)
        return mapped(self.self_attention, vectors, bags)

    def adapt(self, points: Embedding, pairs: Memory) -> Float[Array, "b c d"]:
        """Return x2_l = unit(sum A_C(X1, Z1_l)) of each datapoint for each of its c labels.

        Args:
            points: datapoints, split over the devices.
            pairs: for each datapoint the `memory` of its labels, axes (b, c, m, ...).
        """

        def local(block: CrossBlock, points: Embedding, pairs: Memory) -> Array:
            if isinstance(block, Concatenation):
                return unit(block.join(points.vector[:, None], pairs))
            x2 = block.attend(points.bag[:, None], pairs)
            return unit(masked_sum(x2, points.mask[:, None]))

        mapped = over_devices(local, self.mesh, (REPLICATED, BY_ROW, BY_ROW), BY_ROW)
        return mapped(self.cross_attention, points, pairs)

    def memory(self, labels: Embedding) -> Memory:
        """Return what cross-attention needs of each label, made once per label."""
        return self.cross_attention.memory(labels.bag, labels.mask)

    def depths(self) -> dict[str, int]:
        """Return the number of blocks of each encoder, by its name in the model."""
        encoders = {"image_encoder": self.image_encoder, "text_encoder": self.text_encoder}
        return {
            name: 1 if isinstance(encoder, ReadyVectors) else encoder.config.depth
            for name, encoder in encoders.items()
            if encoder is not None
        }

    def read(self, pool: Pool) -> Float[Array, "t w"]:
        """What E_T makes of texts, or of what a frozen E_T made of them before.

        A joint E_T makes it of the texts and what E_V makes of their pictures.
        """
        assert self.text_encoder is not None and pool.tokens is not None
        if isinstance(self.text_encoder, ReadyVectors):
            return self.text_encoder(pool.tokens)
        if pool.places is None:
            return pool.tokens
        if pool.pictures is not None and pool.images is not None:
            # Each picture is encoded where it lies, and read by texts on any device.
            vectors = jax.lax.with_sharding_constraint(self.see(pool.images), replicated(self.mesh))
            chosen, shown = vectors[jnp.maximum(pool.pictures, 0)], pool.pictures >= 0
            return self.text_encoder(pool.tokens, pool.places >= 0, chosen, shown)
        hidden = self.text_encoder.packed(pool.tokens, pool.places, TEXTS_A_ROW)
        return hidden.reshape(-1, hidden.shape[-1])

    def see(self, images: Array) -> Float[Array, "i w"]:
        """What E_V makes of images, or of what its frozen part made of them before."""
        assert self.image_encoder is not None
        if isinstance(self.image_encoder, ReadyVectors):
            return self.image_encoder(images)
        if images.dtype == jnp.uint8:
            return self.image_encoder(self.processing.normalise(images))
        return self.image_encoder.head(images) if images.ndim > 2 else images

    def _reduce(self, hidden: Float[Array, "p w"], linear: nnx.Linear | None) -> Array:
        if linear is not None:
            return linear(hidden)
        return hidden if hidden.shape[-1] == self.dim else pool_maximum(hidden, self.dim)
