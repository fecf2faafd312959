"""What ViT, DINOv2, CLIP's image encoder and SigLIP share: patches become tokens, through blocks.

Each of them adds only how it pools the last block's tokens into one vector, its `head`.
"""

import abc
import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders.checks import check_size
from mufin_jax.encoders.layers import (
    Activation,
    compute_dtype,
    layer_norm,
    linear,
    normal,
    run_blocks,
)
from mufin_jax.encoders.patches import cut, resample_positions
from mufin_jax.encoders.processing import MAX_SIDE
from mufin_jax.encoders.transformer import PreNormBlock, TransformerConfig
from mufin_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class ImageTransformerConfig(TransformerConfig):
    """The shape of a transformer over the patches of an image.

    Raises:
        InputError: A size that no transformer has, or a patch that doesn't divide the image.
    """

    patch: int = 32
    """Side of a square patch, in pixels."""
    image_size: int = 224
    """Side of the square images that the position embeddings are made for, in pixels."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        for name in ("patch", "image_size"):
            check_size(self, name, MAX_SIDE)
        if self.image_size % self.patch:
            raise InputError(
                f"{type(self).__name__}: image_size={self.image_size} isn't a multiple of "
                f"patch={self.patch}"
            )


class ImageTransformer(nnx.Module):
    """Images to tokens, and all blocks but the last; a subclass adds `norm` and `head`.

    Args:
        config: The sizes.
        rngs: Source of the initial weights.
        patch_bias: Whether the projection of patches has a bias.
        qkv_bias: Whether queries, keys and values have one.
        norm_before: Whether a LayerNorm comes before the first block.
        activation: Of the MLPs.
    """

    in_front: ClassVar[int] = 1
    """How many tokens stand in front of the patches: 1 for CLS, or 0."""
    block: ClassVar[type[PreNormBlock]] = PreNormBlock
    """The class of the blocks."""

    def __init__(
        self,
        config: ImageTransformerConfig,
        rngs: nnx.Rngs,
        *,
        patch_bias: bool = True,
        qkv_bias: bool = True,
        norm_before: bool = False,
        activation: Activation = "gelu",
    ):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        tokens = (config.image_size // config.patch) ** 2 + self.in_front
        embedding = normal(config.init_std, config.width)
        # The order of these lines is the order of the draws: a seed gives the same weights.
        self.patches = linear(3 * config.patch**2, config.width, config, rngs, patch_bias)
        self.cls = nnx.Param(embedding(rngs.params(), (config.width,))) if self.in_front else None
        self.positions = nnx.Param(embedding(rngs.params(), (tokens, config.width)))
        self.norm_before = layer_norm(config, rngs) if norm_before else None
        self.blocks = nnx.List(
            self.block(config, rngs, qkv_bias, activation) for _ in range(config.depth)
        )

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i outputs"]:
        """Encode normalised images, of any size."""
        return self.head(self.trunk(images))

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i p width"]:
        """Return all tokens (CLS first) before the last block, in the compute dtype."""
        tokens, below = self.embed(images), list(self.blocks)[:-1]
        return run_blocks(below, self.config, tokens, lambda block, tokens: block(tokens))

    @abc.abstractmethod  # Flax's metaclass is an ABCMeta
    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i outputs"]:
        """Apply the last block and what pools its tokens; float32."""

    def embed(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i p width"]:
        """Project the patches, put CLS in front, and add the positions.

        Pixels beyond the last whole patch are left out. Positions are resampled to images of
        another size than the config's, as by Hugging Face's `interpolate_pos_encoding`.
        """
        found, rows, columns = cut(images, self.config.patch)
        tokens = self.patches(found)
        if self.cls is not None:
            front = self.cls[...].astype(tokens.dtype)
            front = jnp.broadcast_to(front, (images.shape[0], 1, tokens.shape[-1]))
            tokens = jnp.concatenate([front, tokens], axis=1)
        positions = resample_positions(self.positions[...], rows, columns, self.in_front)
        tokens = tokens + positions.astype(tokens.dtype)[None]
        if self.norm_before is None:
            return tokens
        return self.norm_before(tokens).astype(self.dtype)

    def resize(self, image_size: int) -> None:
        """Resample the positions, once, for images of this side."""
        side = image_size // self.config.patch
        self.config = dataclasses.replace(self.config, image_size=image_size)
        positions = resample_positions(self.positions[...], side, side, self.in_front)
        self.positions = nnx.Param(positions)
