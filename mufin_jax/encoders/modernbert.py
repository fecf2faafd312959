"""ModernBERT as an encoder of texts: gte-modernbert, granite and other sentence encoders.

The numbers are those of Hugging Face's `ModernBertModel` in evaluation mode, pooled. Its blocks are
pre-norm, without biases, with gated MLPs. Positions turn queries and keys (RoPE). Every third block
sees the whole text; in the others, a token sees only its neighbours.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mufin_jax.encoders.checks import check_size, reject_unless
from mufin_jax.encoders.layers import (
    ACTIVATIONS,
    Activation,
    attend,
    layer_norm,
    linear,
    run_blocks,
)
from mufin_jax.encoders.naming import LINEAR, NORM, WORDS, Layer, Naming
from mufin_jax.encoders.pooled_text import PooledText, PooledTextConfig
from mufin_jax.encoders.rows import positions_in_texts, together
from mufin_jax.encoders.transformer import activation_of
from mufin_jax.runtime.errors import InputError

Turns = tuple[Float[Array, "r s half"], Float[Array, "r s half"]]
"""Cosines and sines of the angles by which each token's position turns its queries and keys."""


@dataclasses.dataclass(frozen=True)
class ModernBertConfig(PooledTextConfig):
    """The shape of a ModernBERT; the defaults are answerdotai/ModernBERT-base.

    Raises:
        InputError: A size that no transformer has, an odd width of heads, or an unknown pooling.
    """

    depth: int = 22
    """Number of transformer blocks."""
    mlp: int = 1152
    """Hidden size of a block's MLP, and of the gate on it."""
    layer_norm_eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    vocab: int = 50368
    """Number of different tokens."""
    max_positions: int = 8192
    """Tokens of the longest text that can be encoded."""
    whole: tuple[int, ...] = (0, 3, 6, 9, 12, 15, 18, 21)
    """The blocks that see the whole text; a number for each that exists."""
    neighbours: int = 64
    """How far a token sees in the other blocks, in each direction."""
    whole_theta: float = 160_000.0
    """The base of the angles in blocks that see the whole text."""
    near_theta: float = 10_000.0
    """The base of the angles in the other blocks."""
    activation: Activation = "gelu"
    """Of the MLPs."""

    def __post_init__(self) -> None:
        """Reject sizes that make no network."""
        super().__post_init__()
        check_size(self, "neighbours")
        if self.width // self.heads % 2:
            raise InputError(
                f"ModernBertConfig: width={self.width} with heads={self.heads}; expected heads of "
                "an even width"
            )
        if not all(0 < theta < 1e12 for theta in (self.whole_theta, self.near_theta)):
            raise InputError(
                f"ModernBertConfig: whole_theta={self.whole_theta}, near_theta={self.near_theta}; "
                "expected above 0, below 1e12"
            )

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "ModernBertConfig":
        """Read a Hugging Face `config.json`; absent keys have Hugging Face's defaults.

        Raises:
            InputError: A network that this file doesn't implement.
        """
        reject_unless(config, norm_bias=False, attention_bias=False, mlp_bias=False)
        depth = config.get("num_hidden_layers", 22)
        whole, near = (_theta(config, *names) for names in _THETAS)
        return cls(
            vocab=config.get("vocab_size", 50368),
            width=config.get("hidden_size", 768),
            depth=depth,
            heads=config.get("num_attention_heads", 12),
            mlp=config.get("intermediate_size", 1152),
            max_positions=config.get("max_position_embeddings", 8192),
            layer_norm_eps=float(config.get("norm_eps", 1e-5)),
            whole=_whole(config, depth),
            neighbours=config.get("local_attention", 128) // 2,
            whole_theta=whole,
            near_theta=near,
            activation=activation_of(
                {"hidden_act": config.get("hidden_activation", "gelu")}, "gelu"
            ),
        )


_MOST = 10_000
# (kind of block today, name of its theta in older configs, the default)
_THETAS = (
    ("full_attention", "global_rope_theta", 160_000.0),
    ("sliding_attention", "local_rope_theta", 10_000.0),
)


def _theta(config: Mapping[str, Any], kind: str, older: str, default: float) -> float:
    """Return the base of the angles in blocks of one kind, from a config of transformers 4 or 5."""
    today = (config.get("rope_parameters") or {}).get(kind) or {}
    reject_unless(today, rope_type="default")
    reject_unless(config, rope_scaling=None)
    found = today.get("rope_theta", config.get(older))
    return float(default if found is None else found)


def _whole(config: Mapping[str, Any], depth: int) -> tuple[int, ...]:
    """Return the blocks that see the whole text, from a config of transformers 4 or 5."""
    if not 1 <= depth <= _MOST:
        raise InputError(f"num_hidden_layers is {depth}; expected 1 to {_MOST:,}")
    every = config.get("global_attn_every_n_layers", 3)
    kinds = config.get("layer_types") or [
        "sliding_attention" if n % every else "full_attention" for n in range(depth)
    ]
    if unknown := {*kinds} - {kind for kind, *_ in _THETAS}:
        raise InputError(f"layer_types has {sorted(unknown)[0]!r:.200}; expected {_THETAS[0][0]}")
    return tuple(n for n, kind in enumerate(kinds) if kind == "full_attention")


def _part(number: int, parts: int) -> Layer:
    """Return how one of several matrices is read that a checkpoint keeps as one."""
    return ((".weight", ".kernel", lambda x: np.split(x, parts)[number].T),)


NAMING = Naming(
    prefix="model.",
    table=(
        ("embeddings.tok_embeddings", "words", WORDS),
        ("embeddings.norm", "norm_embeddings", NORM),
        ("layers.{}.attn_norm", "blocks.{}.norm_attention", NORM),
        ("layers.{}.attn.Wqkv", "blocks.{}.query", _part(0, 3)),
        ("layers.{}.attn.Wqkv", "blocks.{}.key", _part(1, 3)),
        ("layers.{}.attn.Wqkv", "blocks.{}.value", _part(2, 3)),
        ("layers.{}.attn.Wo", "blocks.{}.out", LINEAR),
        ("layers.{}.mlp_norm", "blocks.{}.norm_mlp", NORM),
        ("layers.{}.mlp.Wi", "blocks.{}.up", _part(0, 2)),
        ("layers.{}.mlp.Wi", "blocks.{}.gate", _part(1, 2)),
        ("layers.{}.mlp.Wo", "blocks.{}.down", LINEAR),
        ("final_norm", "norm", NORM),
    ),
    ignored=("head.*", "decoder.*", "classifier.*"),
)


class ModernBert(PooledText):
    """Texts to vectors: the last hidden state after the final LayerNorm, pooled."""

    Config = ModernBertConfig
    naming = NAMING
    learned_positions = False
    config: ModernBertConfig

    def __init__(self, config: ModernBertConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.norm_embeddings = layer_norm(config, rngs, bias=False)
        # The first block reads embeddings, which are normalised.
        self.blocks = nnx.List(Block(config, rngs, n > 0) for n in range(config.depth))
        self.norm = layer_norm(config, rngs, bias=False)

    def trunk(
        self, tokens: Int[Array, "r s"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Return all tokens before the last block, in the compute dtype."""
        states = self.norm_embeddings(self.words(tokens)).astype(self.dtype)
        blocks, kinds = list(self.blocks)[:-1], self._kinds()[:-1]
        see = _views(self.config, places)
        for part in (slice(0, 1), slice(1, None)):  # the first block has one norm less
            states = run_blocks(
                blocks[part], self.config, states,
                lambda block, states, whole: block(states, *see(whole)), kinds[part],
            )  # fmt: skip
        return states

    def last(
        self, states: Float[Array, "r s width"], places: Int[Array, "r s"]
    ) -> Float[Array, "r s width"]:
        """Apply the last block and the final LayerNorm; float32."""
        see, whole = _views(self.config, places), self._kinds()[-1]
        block = self.blocks[self.config.depth - 1]
        return self.norm(block(states.astype(self.dtype), *see(whole)))

    def _kinds(self) -> Bool[np.ndarray, " depth"]:
        """Return which blocks see the whole text."""
        return np.isin(np.arange(self.config.depth), self.config.whole)


class Block(nnx.Module):
    """Attention, then a gated MLP, each on normalised tokens and added to its input.

    Args:
        config: Its sizes.
        rngs: Source of the initial weights.
        norm_first: Whether its attention reads normalised tokens.
    """

    def __init__(self, config: ModernBertConfig, rngs: nnx.Rngs, norm_first: bool):
        width, mlp = config.width, config.mlp
        self.heads, self.activation = config.heads, config.activation
        self.norm_attention = layer_norm(config, rngs, bias=False) if norm_first else None
        self.query = linear(width, width, config, rngs, bias=False)
        self.key = linear(width, width, config, rngs, bias=False)
        self.value = linear(width, width, config, rngs, bias=False)
        self.out = linear(width, width, config, rngs, bias=False)
        self.norm_mlp = layer_norm(config, rngs, bias=False)
        self.up = linear(width, mlp, config, rngs, bias=False)
        self.gate = linear(width, mlp, config, rngs, bias=False)
        self.down = linear(mlp, width, config, rngs, bias=False)

    def __call__(
        self, tokens: Float[Array, "r s width"], seen: Bool[Array, "r s s"], turns: Turns
    ) -> Float[Array, "r s width"]:
        """Return the block's output.

        Args:
            tokens: The block's input.
            seen: To which tokens each token attends.
            turns: By which angles positions turn queries and keys.
        """
        normed = tokens if self.norm_attention is None else self.norm_attention(tokens)
        query, key = (_turn(part(normed), self.heads, turns) for part in (self.query, self.key))
        attended = attend(query, key, self.value(normed), self.heads, seen)
        tokens = tokens + self.out(attended)
        normed = self.norm_mlp(tokens)
        hidden = ACTIVATIONS[self.activation](self.up(normed)) * self.gate(normed)
        return tokens + self.down(hidden)


def _views(config: ModernBertConfig, places: Int[Array, "r s"]) -> Any:
    """Return a function that tells whom tokens see, and their turns, in a block of either kind."""
    texts, place = together(places), np.arange(places.shape[1])
    near = texts & (np.abs(place[:, None] - place[None]) <= config.neighbours)[None]
    position = positions_in_texts(places, config.max_positions).astype(jnp.float32)[..., None]
    half = config.width // config.heads // 2
    turns = {}
    for whole, theta in ((True, config.whole_theta), (False, config.near_theta)):
        frequency = 1 / theta ** (np.arange(half, dtype=np.float32) / half)
        angles = position * frequency.astype(np.float32)[None, None]
        turns[whole] = (jnp.cos(angles), jnp.sin(angles))

    def see(whole: Any) -> tuple[Bool[Array, "r s s"], Turns]:
        cosines, sines = (jnp.where(whole, *both) for both in zip(*turns.values(), strict=True))
        return jnp.where(whole, texts, near), (cosines, sines)

    return see


def _turn(x: Float[Array, "r s width"], heads: int, turns: Turns) -> Float[Array, "r s width"]:
    """Turn the two halves of each head's queries or keys by their positions' angles, in float32."""
    cosines, sines = (part[:, :, None] for part in turns)
    parts = x.astype(jnp.float32).reshape(*x.shape[:2], heads, 2, -1)
    first, second = parts[..., 0, :], parts[..., 1, :]
    turned = [first * cosines - second * sines, second * cosines + first * sines]
    return jnp.stack(turned, axis=3).reshape(x.shape).astype(x.dtype)
