"""The image encoder E_V: a Vision Transformer, pooled at its CLS token (paper, section 3).

The numbers are those of Hugging Face's `ViTModel` without its pooler. The forward pass is split
in two where the paper's Module I splits it: `trunk` is everything below the last block, `head` is
what trains. Only the CLS token of the last block is ever read, so `head` computes no other row.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mufin_jax.encoders import check_size, check_transformer, refuse_unless
from mufin_jax.encoders.layers import (
    attend,
    compute_dtype,
    gelu,
    layer_norm,
    linear,
    normal,
    run_blocks,
)
from mufin_jax.encoders.processing import MAX_SIDE
from mufin_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The shape of a Vision Transformer; the defaults are ViT-B/32.

    Raises:
        InputError: a size below 1, heads that don't divide the width, a patch larger than the
            image or not dividing it, an epsilon or std that isn't positive, an unknown dtype.
    """

    width: int = 768
    """Size of a token's vector."""
    depth: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads in a block."""
    mlp: int = 3072
    """Hidden size of a block's MLP."""
    patch: int = 32
    """Side of a square patch, in pixels."""
    image_size: int = 224
    """Side of the square images that the position embeddings are made for, in pixels."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in every LayerNorm."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    init_std: float | None = 0.02
    """Standard deviation of new weights. None: 1/sqrt(inputs) for a matrix and 1/sqrt(width) for
    an embedding; 0.02 is tuned to a width of 768 and makes a narrow network start nearly blind."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What matrices multiply in. Weights, LayerNorm, softmax and the result stay float32. auto:
    bfloat16 on accelerators, float32 on a CPU, where bfloat16 gains nothing."""
    layers: Literal["unrolled", "scan"] = "unrolled"
    """How blocks are compiled: one by one, or as one that is run again and again, which compiles
    several times faster (docs/performance.md has both)."""
    remat: bool = False
    """Whether the backward pass computes each block anew: less memory, a third more work."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        check_transformer(self)
        for name in ("patch", "image_size"):
            check_size(self, name, MAX_SIDE)
        if self.image_size % self.patch:
            raise InputError(
                f"ViTConfig: image_size={self.image_size} isn't a multiple of patch={self.patch}"
            )

    @classmethod
    def base_32(cls) -> "ViTConfig":
        """ViT-B/32 at 224 pixels: the paper's main text."""
        return cls()

    @classmethod
    def base_16(cls) -> "ViTConfig":
        """ViT-B/16 at 224 pixels: the paper's supplement."""
        return cls(patch=16)

    @classmethod
    def miniature(cls) -> "ViTConfig":
        """A ViT that trains from scratch in minutes on a CPU."""
        return cls(width=64, depth=2, heads=4, mlp=128, patch=8, image_size=32, init_std=None)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ViTConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: a network that this file doesn't implement.
        """
        refuse_unless(config, model_type="vit", hidden_act="gelu", num_channels=3)
        return cls(
            width=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 3072),
            patch=_side(config.get("patch_size", 16)),
            image_size=_side(config.get("image_size", 224)),
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            qkv_bias=config.get("qkv_bias", True),
        )


class ViT(nnx.Module):
    """Images to vectors: the CLS token of the last hidden state, after the final LayerNorm."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        grid = config.image_size // config.patch
        embedding = normal(config.init_std, config.width)
        self.patches = linear(3 * config.patch**2, config.width, config, rngs)
        self.cls = nnx.Param(embedding(rngs.params(), (config.width,)))
        self.positions = nnx.Param(embedding(rngs.params(), (grid**2 + 1, config.width)))
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.depth)])
        self.norm = layer_norm(config, rngs)

    def __call__(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i width"]:
        """Encode normalised images; those of another size than the config's are welcome."""
        return self.head(self.trunk(images))

    def trunk(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i p width"]:
        """All tokens (CLS first) before the last block, in the compute dtype."""
        below = list(self.blocks)[:-1]
        return run_blocks(below, self.config, self.embed(images), lambda block, x: block(x))

    def head(self, tokens: Float[Array, "i p width"]) -> Float[Array, "i width"]:
        """The last block and the final LayerNorm, for the CLS token alone; float32."""
        tokens = tokens.astype(self.dtype)
        return self.norm(self.blocks[self.config.depth - 1](tokens, rows=1)[:, 0])

    def embed(self, images: Float[Array, "i h w 3"]) -> Float[Array, "i p width"]:
        """Patches through their projection, CLS in front, positions added.

        Pixels beyond the last whole patch are left out, and position embeddings are resampled to
        the number of patches, both as Hugging Face's `interpolate_pos_encoding` does.
        """
        count, height, width, _ = images.shape
        side = self.config.patch
        rows, columns = height // side, width // side
        if not rows * columns:
            raise ValueError(f"images of {height} x {width} pixels hold no patch of {side}")
        cut = images[:, : rows * side, : columns * side]
        cut = cut.reshape(count, rows, side, columns, side, 3).swapaxes(2, 3)
        patches = self.patches(cut.reshape(count, rows * columns, side * side * 3))
        cls = jnp.broadcast_to(self.cls[...].astype(patches.dtype), (count, 1, self.config.width))
        positions = resample_positions(self.positions[...], rows, columns)
        return jnp.concatenate([cls, patches], axis=1) + positions.astype(patches.dtype)[None]


class Block(nnx.Module):
    """A pre-norm transformer block: attention, then an MLP, each added to its input."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        width, bias = config.width, config.qkv_bias
        self.heads = config.heads
        self.norm_attention = layer_norm(config, rngs)
        self.query = linear(width, width, config, rngs, bias)
        self.key = linear(width, width, config, rngs, bias)
        self.value = linear(width, width, config, rngs, bias)
        self.out = linear(width, width, config, rngs)
        self.norm_mlp = layer_norm(config, rngs)
        self.up = linear(width, config.mlp, config, rngs)
        self.down = linear(config.mlp, width, config, rngs)

    def __call__(
        self, tokens: Float[Array, "i p width"], rows: int | None = None
    ) -> Float[Array, "i q width"]:
        """The block's output for the first `rows` tokens, which attend to all; None: for all."""
        normed = self.norm_attention(tokens)
        query, key, value = self.query(normed[:, :rows]), self.key(normed), self.value(normed)
        tokens = tokens[:, :rows] + self.out(attend(query, key, value, self.heads))
        hidden = gelu(self.up(self.norm_mlp(tokens)))
        return tokens + self.down(hidden)


def resample_positions(
    positions: Float[Array, "p width"], rows: int, columns: int
) -> Float[Array, "q width"]:
    """Position embeddings (CLS first, then a square grid) for a grid of rows x columns patches."""
    side = round((positions.shape[0] - 1) ** 0.5)
    if (rows, columns) == (side, side):
        return positions
    grid = positions[1:].reshape(side, side, -1)
    vertical, horizontal = _bicubic(side, rows), _bicubic(side, columns)
    grid = jnp.einsum("ri,cj,ijd->rcd", vertical, horizontal, grid)
    return jnp.concatenate([positions[:1], grid.reshape(rows * columns, -1)])


def _bicubic(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix of torch's bicubic resizing.

    `jax.image.resize` renormalises the kernel at the borders where torch repeats the border, and
    so differs from Hugging Face in the outer patches.
    """
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centres).astype(int)[:, None] + np.arange(-1, 3)
    x, a = np.abs(centres[:, None] - taps), -0.75
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    matrix = np.zeros((new, old), np.float32)
    where = (np.arange(new)[:, None], taps.clip(0, old - 1))
    np.add.at(matrix, where, np.where(x <= 1, near, far))
    return matrix


def _side(value: Any) -> int:
    """Hugging Face writes a square as one number or as [height, width]."""
    sides = {*value} if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise InputError(f"patch_size or image_size is {repr(value)[:200]}; want a square")
    return sides.pop()
