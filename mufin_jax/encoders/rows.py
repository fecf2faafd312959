"""Several texts in one row of tokens: which text a token belongs to, and its position there.

`places` gives, for each token, the number of its text in the row, 0 to k - 1, or -1 for none. The
tokens of a text are neighbours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def alone(tokens: Int[Array, "t s"], lengths: Int[Array, " t"]) -> Int[Array, "t s"]:
    """Return the places of rows that hold one text each, from its number of real tokens."""
    return jnp.where(jnp.arange(tokens.shape[1])[None] < lengths[:, None], 0, -1)


def together(places: Int[Array, "r s"]) -> Bool[Array, "r s s"]:
    """Return which pairs of tokens of a row belong to the same text."""
    return (places[:, :, None] == places[:, None, :]) & (places >= 0)[:, None, :]


def of_texts(places: Int[Array, "r s"], texts: int) -> Bool[Array, "r k s"]:
    """Return which tokens belong to each of the k texts that a row may hold."""
    return places[:, None] == jnp.arange(texts)[None, :, None]


def starts(places: Int[Array, "r s"], texts: int) -> Bool[Array, "r k s"]:
    """Return which token is the first one of each of the k texts that a row may hold."""
    own = of_texts(places, texts)
    return own & ~jnp.pad(own[..., :-1], ((0, 0), (0, 0), (1, 0)))


def ends(places: Int[Array, "r s"], texts: int) -> Bool[Array, "r k s"]:
    """Return which token is the last one of each of the k texts that a row may hold."""
    own = of_texts(places, texts)
    return own & ~jnp.pad(own[..., 1:], ((0, 0), (0, 0), (0, 1)))


def positions_in_texts(places: Int[Array, "r s"], most: int) -> Int[Array, "r s"]:
    """Return the position of each token in its text, from 0, at most `most` - 1."""
    index = jnp.broadcast_to(jnp.arange(places.shape[1])[None], places.shape)
    begins = jnp.diff(places, axis=1, prepend=-1) != 0
    position = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    return jnp.minimum(position, most - 1)  # of padding after a text


def check_width(tokens: Int[Array, "t s"], most: int) -> None:
    """Reject texts of more tokens than there are positions.

    Raises:
        ValueError: There are more columns.
    """
    if tokens.shape[1] > most:
        raise ValueError(f"texts of {tokens.shape[1]} tokens, but max_positions={most}; cut them")
