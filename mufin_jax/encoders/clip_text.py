"""CLIP's text encoder: each token sees those before it; pooled at the last one, and projected.

The numbers are those of Hugging Face's `CLIPModel.get_text_features`, for texts that end as CLIP's
tokenizer ends them: with the token whose vector is pooled. The same checkpoint holds CLIP's image
encoder, which `clip_image.py` takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.checks import check_size
from mufin_jax.encoders.layers import Activation, layer_norm, linear, run_blocks
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.rows import ends, together
from mufin_jax.encoders.text_transformer import TextTransformer, TextTransformerConfig
from mufin_jax.encoders.transformer import PRE_NORM_BLOCKS, PreNormBlock, activation_of


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(TextTransformerConfig):
    """The shape of CLIP's text encoder; the defaults are those of openai/clip-vit-base-patch32.

    Raises:
        InputError: A size that no transformer has.
    """

    width: int = 512
    """Size of a token's vector."""
    heads: int = 8
    """Attention heads in a block."""
    mlp: int = 2048
    """Hidden size of a block's MLP."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    vocab: int = 49408
    """Number of different tokens."""
    max_positions: int = 77
    """Tokens of the longest text that can be encoded."""
    projection: int = 512
    """The width of the vectors, which is that of the images' vectors."""
    activation: Activation = "quick_gelu"
    """Of the MLPs."""

    @property
    def outputs(self) -> int:
        """Return the width of the vectors."""
        return self.projection

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_size(self, "projection")

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ClipTextConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        text = config.get("text_config", config)
        return cls(
            width=text.get("hidden_size", 512),
            depth=text.get("num_hidden_layers", 12),
            heads=text.get("num_attention_heads", 8),
            mlp=text.get("intermediate_size", 2048),
            layer_norm_eps=float(text.get("layer_norm_eps", 1e-5)),
            vocab=text.get("vocab_size", 49408),
            max_positions=text.get("max_position_embeddings", 77),
            projection=config.get("projection_dim", 512),
            activation=activation_of(text, "quick_gelu"),
        )


NAMING = Naming(
    prefix="text_model.",
    table=(
        ("embeddings.token_embedding", "words", WORDS),
        ("embeddings.position_embedding", "positions", POSITIONS),
        *PRE_NORM_BLOCKS,
        ("final_layer_norm", "norm", NORM),
        ("text_projection", "projection", LINEAR),
    ),
    ignored=("vision_model.*", "visual_projection.*", "logit_scale", "embeddings.position_ids"),
)


class ClipText(TextTransformer):
    """Texts to vectors: the last token after the final LayerNorm, projected."""

    Config = ClipTextConfig
    naming = NAMING

    def __init__(self, config: ClipTextConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.blocks = nnx.List(
            PreNormBlock(config, rngs, activation=config.activation) for _ in range(config.depth)
        )
        self.norm = layer_norm(config, rngs)
        self.projection = linear(config.width, config.projection, config, rngs, bias=False)

    def packed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"], texts: int
    ) -> Float[Array, "r k outputs"]:
        """Encode several texts a row; see TextTransformer."""
        earlier = jnp.tril(jnp.ones((tokens.shape[1],) * 2, bool))
        seen = together(places) & earlier[None]
        states = self.placed_words(tokens, places).astype(self.dtype)
        states = run_blocks(
            list(self.blocks), self.config, states, lambda block, x: block(x, seen=seen)
        )
        last = ends(places, texts)
        pooled = jnp.einsum("rsd,rks->rkd", states.astype(jnp.float32), last.astype(jnp.float32))
        vectors = self.projection(self.norm(pooled).astype(self.dtype)).astype(jnp.float32)
        return jnp.where(last.any(-1)[..., None], vectors, 0)
