"""VisualBERT: one vector for a text and its pictures together (paper, table 2 and App. C.1).

It is a BERT whose tokens are those of the text and, after them, one for each picture: its vector by
E_V (the paper: ResNet-101, 2,048 entries) through a linear map. Every token attends to all of them.

The vector is the pooler's, tanh(W h + b) of [CLS]. VisualBERT learned it from whether a caption
belongs to its picture, its NLVR2 head reads it, and Hugging Face's `VisualBertModel` returns it as
`pooler_output`; the numbers here are the same in evaluation mode. Its VQA head reads the last token
of the text instead of [CLS]: a question is masked there, which has no meaning here.

No VisualBERT of the size that the paper names, BERT-large, was published. We start from a BERT's
checkpoint, as VisualBERT did: pictures take the types and positions of texts, and their map is new.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mufin_jax.encoders.checks import check_size, reject_unless
from mufin_jax.encoders.layers import compute_dtype, layer_norm, linear, normal, run_blocks
from mufin_jax.encoders.naming import LINEAR, NORM, POSITIONS, WORDS, Naming
from mufin_jax.encoders.transformer import BERT_BLOCKS, PostNormBlock, TransformerConfig
from mufin_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class VisualBertConfig(TransformerConfig):
    """The shape of a VisualBERT; the defaults are BERT-base, over vectors of a ResNet-101.

    Raises:
        InputError: A size that no transformer has, or a single type of tokens.
    """

    vocab: int = 30522
    """Number of different tokens."""
    max_positions: int = 512
    """Tokens of the longest text that can be encoded; pictures do not count."""
    types: int = 2
    """Types of tokens; texts have type 0, pictures 1."""
    visual: int = 2048
    """Entries of a picture's vector. When trained from scratch, as many as E_V gives."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        for name in ("vocab", "max_positions", "visual"):
            check_size(self, name)
        check_size(self, "types")
        if self.types < 2:
            raise InputError(
                f"VisualBertConfig: types={self.types}; expected one for pictures, too: 2"
            )

    @classmethod
    def large(cls) -> "VisualBertConfig":
        """Return the paper's size, BERT-large."""
        return cls(width=1024, depth=24, heads=16, mlp=4096)

    @classmethod
    def miniature(cls, vocab: int) -> "VisualBertConfig":
        """Return a VisualBERT that trains from scratch in minutes on a CPU."""
        return cls(
            vocab=vocab, width=64, depth=2, heads=4, mlp=128, max_positions=64, init_std=None
        )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "VisualBertConfig":
        """Read the Hugging Face `config.json` of a VisualBERT or of a BERT.

        Absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(
            config, hidden_act="gelu", bypass_transformer=False, position_embedding_type="absolute"
        )
        visual = cls.visual if config.get("model_type") == "bert" else 512
        return cls(
            vocab=config.get("vocab_size", 30522),
            width=config.get("hidden_size", 768),
            depth=config.get("num_hidden_layers", 12),
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 3072),
            max_positions=config.get("max_position_embeddings", 512),
            layer_norm_eps=float(config.get("layer_norm_eps", 1e-12)),
            types=config.get("type_vocab_size", 2),
            visual=config.get("visual_embedding_dim", visual),
        )


NAMING = Naming(
    prefix="visual_bert.",
    table=(
        ("embeddings.word_embeddings", "words", WORDS),
        ("embeddings.position_embeddings", "positions", POSITIONS),
        ("embeddings.token_type_embeddings", "types", POSITIONS),
        ("embeddings.LayerNorm", "norm_embeddings", NORM),
        ("embeddings.visual_projection", "visual", LINEAR),
        ("embeddings.visual_position_embeddings", "visual_positions", POSITIONS),
        ("embeddings.visual_token_type_embeddings", "visual_types", POSITIONS),
        *BERT_BLOCKS,
        ("pooler.dense", "pooling", LINEAR),
    ),
    # BERT's own files name the network "bert", and its norms as TensorFlow did.
    older=(("bert.", ""), (".gamma", ".weight"), (".beta", ".bias")),
    ignored=("cls.*", "*.position_ids"),
    # For a BERT's checkpoint, which has no weights for pictures.
    new={
        "visual.kernel": lambda bert: _first_map(bert.config),
        "visual.bias": lambda bert: jnp.zeros(bert.config.width),
        "visual_positions": lambda bert: bert.positions[...],
        "visual_types": lambda bert: bert.types[...],
    },
)


def _first_map(config: VisualBertConfig) -> Float[Array, "v width"]:
    """Return the new map from pictures' vectors, the same in every run."""
    shape = (config.visual, config.width)
    return normal(config.init_std, config.visual)(jax.random.key(0), shape)


class VisualBert(nnx.Module):
    """Texts and vectors of pictures to one vector each: the pooler's, of [CLS]."""

    Config = VisualBertConfig
    naming = NAMING

    def __init__(self, config: VisualBertConfig, rngs: nnx.Rngs):
        self.config, self.dtype = config, compute_dtype(config.dtype)
        width, embedding = config.width, normal(config.init_std, config.width)

        def rows(count: int) -> nnx.Param:
            return nnx.Param(embedding(rngs.params(), (count, width)))

        # In float32: gradients of common words add up over thousands of tokens (distilbert.py).
        self.words = nnx.Embed(config.vocab, width, embedding_init=embedding, rngs=rngs)
        self.positions, self.types = rows(config.max_positions), rows(config.types)
        self.visual = linear(config.visual, width, config, rngs)
        self.visual_positions, self.visual_types = rows(config.max_positions), rows(config.types)
        self.norm_embeddings = layer_norm(config, rngs)
        self.blocks = nnx.List([PostNormBlock(config, rngs) for _ in range(config.depth)])
        self.pooling = linear(width, width, config, rngs)

    def __call__(
        self,
        tokens: Int[Array, "t s"],
        real: Bool[Array, "t s"],
        vectors: Float[Array, "t m visual"],
        shown: Bool[Array, "t m"],
    ) -> Float[Array, "t width"]:
        """Encode texts with their pictures.

        Args:
            tokens: Token ids below `config.vocab`; the first one is [CLS].
            real: Which of them belong to a text.
            vectors: Of its pictures, whose order does not matter.
            shown: Which of them exist; all may be missing.

        Returns:
            float32 vectors.
        """
        states = self.embed(tokens, vectors)
        seen = jnp.concatenate([real, shown], 1)[:, None]

        def attending(queries: int) -> Bool[Array, "t q p"]:
            return jnp.broadcast_to(seen, (len(tokens), queries, states.shape[1]))

        below, to_all = list(self.blocks)[:-1], attending(states.shape[1])
        states = run_blocks(below, self.config, states, lambda block, x: block(x, to_all))
        # Only [CLS] of the last block is read.
        first = self.blocks[self.config.depth - 1](states, attending(1), rows=1)[:, 0]
        return jnp.tanh(self.pooling(first).astype(jnp.float32))

    def embed(
        self, tokens: Int[Array, "t s"], vectors: Float[Array, "t m visual"]
    ) -> Float[Array, "t p width"]:
        """Return words at their positions, then pictures, all at the first position; normalised."""
        # Padding may be longer than the longest text.
        position = jnp.minimum(jnp.arange(tokens.shape[1]), self.config.max_positions - 1)
        texts = self.words(tokens) + (self.positions[...][position] + self.types[...][:1])[None]
        place = self.visual_positions[...][:1] + self.visual_types[...][1:2]
        pictures = self.visual(vectors.astype(self.dtype)).astype(jnp.float32) + place[None]
        together = jnp.concatenate([texts, pictures], 1)
        return self.norm_embeddings(together).astype(self.dtype)
