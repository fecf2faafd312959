"""What DistilBERT, BERT, RoBERTa and MPNet share: normalised embeddings, then post-norm blocks."""

from flax import nnx
from jaxtyping import Array, Float, Int

from mufin_jax.encoders.layers import layer_norm, run_blocks
from mufin_jax.encoders.pooled_text import PooledText, PooledTextConfig
from mufin_jax.encoders.rows import together
from mufin_jax.encoders.transformer import PostNormBlock


class PostNormText(PooledText):
    """Texts to vectors, through post-norm blocks.

    Args:
        config: The sizes.
        rngs: Source of the initial weights.
    """

    def __init__(self, config: PooledTextConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.norm_embeddings = layer_norm(config, rngs)
        self.blocks = nnx.List([PostNormBlock(config, rngs) for _ in range(config.depth)])

    def trunk(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return all tokens before the last block, in the compute dtype."""
        seen, bias = together(places), self.bias(tokens.shape[1])
        return run_blocks(
            list(self.blocks)[:-1], self.config, self.embed(tokens, places),
            lambda block, states: block(states, seen, bias=bias),
        )  # fmt: skip

    def embed(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return the words plus their positions in their texts, normalised."""
        return self.norm_embeddings(self.placed_words(tokens, places)).astype(self.dtype)

    def bias(self, tokens: int) -> Float[Array, "heads s s"] | None:
        """Return what is added in every block where a token attends to another; None for nothing.

        Args:
            tokens: s, those of a row.
        """
        return None

    def last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Apply the last block; float32."""
        block, bias = self.blocks[self.config.depth - 1], self.bias(states.shape[1])
        states = block(states.astype(self.dtype), together(places), bias=bias)
        return states.astype("float32")
