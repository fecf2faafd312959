"""The model of MUFIN: describe, embed, adapt (paper, section 3).

- describe (`item_encoder.py`): every descriptor, by the encoder of its kind, reduced to D: X0.
- embed (`heads.py`): self-attention A_S over the bag of an item: X1 and x1; of a label Z1 and z1.
- adapt (`heads.py`): cross-attention A_C: x2_l, the datapoint as seen by label l.
"""

import dataclasses
from typing import Any, cast

import jax
from flax import nnx
from jax.sharding import Mesh

from mufin_jax.encoders.interface import JointConfig
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.registry import new_encoder
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.model.config import ModelConfig, check_joint
from mufin_jax.model.heads import Heads, new_cross_attention, new_self_attention
from mufin_jax.model.item_encoder import ItemEncoder, Map
from mufin_jax.model.reduction import Reduction
from mufin_jax.runtime.errors import InputError


class Mufin(ItemEncoder, Heads):
    """E_V, E_T, A_S and A_C: the item encoder and the heads in one Flax NNX module.

    The parts are attributes of the model itself, so a weight's path starts with `image_encoder`,
    `text_encoder`, `image_reduce`, `text_reduce`, `self_attention` or `cross_attention`. Optimizers
    and saved weights rely on these paths. `encoder` and `heads` return the two halves.

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
        self.config, self.vocab = config, vocab
        self.vector_width, self.text_vector_width = vector_width, text_vector_width
        # The order in which parts are made is the order of their random draws.
        image_encoder, image_reduce, image_width = _new_image_encoder(config, vector_width, rngs)
        text_encoder, text_reduce = _new_text_encoder(
            config, vocab, text_vector_width, image_width, rngs
        )
        ItemEncoder.__init__(
            self, image_encoder, text_encoder, image_reduce, text_reduce,
            dim=config.dim, processing=processing, mesh=mesh,
        )  # fmt: skip
        self_attention = new_self_attention(config, rngs)
        cross_attention = new_cross_attention(config, rngs)
        Heads.__init__(self, self_attention, cross_attention, dim=config.dim, mesh=mesh)

    def __repr__(self) -> str:
        """Return the kinds of its parts, and how many weights it has."""
        parts = {"images": self.image_encoder, "texts": self.text_encoder}
        kinds = (
            f"{name}: {type(part).__name__}" for name, part in parts.items() if part is not None
        )
        weights = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))
        return f"Mufin({', '.join(kinds)}, D = {self.dim}, {weights:,} weights)"

    __str__ = __repr__  # Flax prints every array

    def encoder(self) -> ItemEncoder:
        """Return the half that describes, without the heads; it shares this model's weights."""
        return ItemEncoder(
            self.image_encoder, self.text_encoder, self.image_reduce, self.text_reduce,
            dim=self.dim, processing=self.processing, mesh=self.mesh,
        )  # fmt: skip

    def heads(self) -> Heads:
        """Return the half that embeds and adapts; it shares this model's weights."""
        return Heads(self.self_attention, self.cross_attention, dim=self.dim, mesh=self.mesh)


def _new_image_encoder(
    config: ModelConfig, vector_width: int | None, rngs: nnx.Rngs
) -> tuple[Any, Map | None, int]:
    """Return E_V, its map to D, and the width of E_V's vectors; None, None and 0 for none.

    A joint model reduces no vectors of images: its text encoder reads them.
    """
    if config.modalities == "text":
        return None, None, 0
    if vector_width is None:
        encoder, width = new_encoder(config.image, rngs), config.image.outputs
    else:
        encoder, width = ReadyVectors(vector_width, rngs), vector_width
    reduced = config.modalities != "joint"
    return encoder, _new_map(config, width, rngs, 0) if reduced else None, width


def _new_text_encoder(
    config: ModelConfig, vocab: int, vector_width: int | None, image_width: int, rngs: nnx.Rngs
) -> tuple[Any, Map | None]:
    """Return E_T and its map to D; None for what the model does not have."""
    if config.modalities == "images":
        return None, None
    if vector_width is None:
        check_joint(config)
        sizes = {"vocab": vocab}
        if config.modalities == "joint":
            visual = cast(JointConfig, config.text).visual  # `check_joint` has checked it
            if config.text_checkpoint and visual != image_width:
                raise InputError(
                    f"{config.text_checkpoint} reads vectors of {visual} entries, "
                    f"and pictures have vectors of {image_width}; choose another "
                    "--model.image-checkpoint (microsoft/resnet-101 gives 2048)"
                )
            sizes["visual"] = image_width
        encoder = new_encoder(dataclasses.replace(config.text, **sizes), rngs)
        width = config.text.outputs
    else:
        encoder, width = ReadyVectors(vector_width, rngs), vector_width
    return encoder, _new_map(config, width, rngs, 1)


def _new_map(config: ModelConfig, width: int, rngs: nnx.Rngs, draw: int) -> Map | None:
    """Return the learned map from an encoder's vectors to D; None for adaptive max-pooling.

    A `Reduction` has its own draws: it is the same in front of an encoder and of ready vectors.
    """
    if config.reduce == "linear":
        return nnx.Linear(width, config.dim, rngs=rngs)
    if config.reduce == "hidden":
        stream = rngs["params" if "params" in rngs else "default"]
        own = nnx.Rngs(jax.random.fold_in(stream.key[...], draw))
        return Reduction(width, config.dim, config.reduce_hidden, rngs=own)
    return None
