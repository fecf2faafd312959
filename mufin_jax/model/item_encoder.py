"""The item encoder: every descriptor, by the encoder of its kind, reduced to D entries (X0).

A joint encoder (VisualBERT) makes a single descriptor of all that an item has.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

import mufin_jax.data.pytrees  # noqa: F401 (the model traces pools)
from mufin_jax.data.bags import TEXTS_A_ROW, JointTexts, PackedTexts, Pool
from mufin_jax.data.sources import ImageSource, TrunkStates, Vectors
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.model.pooling import pool_maximum
from mufin_jax.model.reduction import Dropout, Reduction
from mufin_jax.runtime.distributed.mesh import replicated

Map = nnx.Linear | Reduction


class ItemEncoder(nnx.Module):
    """E_V and E_T, each with its reduction to D: raw descriptors in, X0 out.

    Args:
        image_encoder: E_V; None when the model sees no images.
        text_encoder: E_T; None when the model sees no texts.
        image_reduce: the map from E_V's vectors to D; None for adaptive max-pooling.
        text_reduce: the map from E_T's vectors to D; None for adaptive max-pooling.
        dim: D.
        processing: how pixels are normalised before E_V.
        mesh: the devices that descriptors are encoded on.
    """

    def __init__(
        self,
        image_encoder: Any,
        text_encoder: Any,
        image_reduce: Map | None,
        text_reduce: Map | None,
        *,
        dim: int,
        processing: ImageProcessing,
        mesh: Mesh,
    ):
        self.dim, self.processing, self.mesh = dim, processing, mesh
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.image_reduce, self.text_reduce = image_reduce, text_reduce

    def describe(self, pool: Pool, dropout: Dropout | None = None) -> Float[Array, "p d"]:
        """Return the descriptor vectors X0 of a pool, texts first, on every device.

        Args:
            pool: the descriptors.
            dropout: of the encoders' vectors, before they are reduced; None outside of training.
        """
        if pool.known is not None:
            return pool.known.rows
        parts, together = [], isinstance(pool.texts, JointTexts)
        if self.text_encoder is not None and pool.texts is not None:
            parts.append(self._reduce(self.read(pool), self.text_reduce, dropout, 0))
        if self.image_encoder is not None and pool.images is not None and not together:
            parts.append(self._reduce(self.see(pool.images), self.image_reduce, dropout, 1))
        # Encoded where the descriptor lies, then gathered: the vectors of a batch are small.
        parts = [jax.lax.with_sharding_constraint(part, replicated(self.mesh)) for part in parts]
        return jnp.concatenate(parts)

    def depths(self) -> dict[str, int]:
        """Return the number of blocks of each encoder, by its name in the model."""
        encoders = {"image_encoder": self.image_encoder, "text_encoder": self.text_encoder}
        return {
            name: 1 if isinstance(encoder, ReadyVectors) else encoder.config.depth
            for name, encoder in encoders.items()
            if encoder is not None
        }

    def read(self, pool: Pool) -> Float[Array, "t w"]:
        """Return what E_T makes of texts, or what a frozen E_T made of them before.

        A joint E_T makes it of the texts and what E_V makes of their pictures.

        Raises:
            ValueError: if the pool has no texts, or joint ones without pictures.
        """
        texts, images, encoder = pool.texts, pool.images, self.text_encoder
        if isinstance(texts, Vectors):
            return encoder(texts.rows) if isinstance(encoder, ReadyVectors) else texts.rows
        if isinstance(texts, JointTexts) and images is not None:
            # Each picture is encoded where it lies, and read by texts on any device.
            vectors = jax.lax.with_sharding_constraint(self.see(images), replicated(self.mesh))
            chosen, shown = vectors[jnp.maximum(texts.pictures, 0)], texts.pictures >= 0
            return encoder(texts.tokens, texts.places >= 0, chosen, shown)
        if isinstance(texts, PackedTexts):
            hidden = encoder.packed(texts.tokens, texts.places, TEXTS_A_ROW)
            return hidden.reshape(-1, hidden.shape[-1])
        raise ValueError("the pool has no texts, or joint ones without their pictures")

    def see(self, images: ImageSource) -> Float[Array, "i w"]:
        """Return what E_V makes of images, or of what its frozen part made of them before."""
        encoder = self.image_encoder
        if isinstance(images, Vectors):
            return encoder(images.rows) if isinstance(encoder, ReadyVectors) else images.rows
        if isinstance(images, TrunkStates):
            return encoder.head(images.rows)
        return encoder(self.processing.normalise(images.rows))

    def trunk(self, images: ImageSource) -> Float[Array, "i ..."]:
        """Return what the blocks of E_V below the last one make of pixels."""
        return self.image_encoder.trunk(self.processing.normalise(images.rows))

    def _reduce(
        self, hidden: Float[Array, "p w"], reduce: Map | None, dropout: Dropout | None, draw: int
    ) -> Array:
        if isinstance(reduce, Reduction):
            hidden = reduce.centred(hidden)
        if dropout is not None:
            hidden = dropout(hidden, draw)
        if reduce is not None:
            return reduce(hidden)
        return hidden if hidden.shape[-1] == self.dim else pool_maximum(hidden, self.dim)
