"""Several texts in a row of tokens: which token is of which, and where in it.

`places` says which text of its row, 0 to k - 1, a token belongs to; -1 for none. The tokens of a
text are neighbours.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def alone(tokens: Int[Array, "t s"], lengths: Int[Array, " t"]) -> Int[Array, "t s"]:
    """The places of one text a row, of so many real tokens."""
    return jnp.where(jnp.arange(tokens.shape[1])[None] < lengths[:, None], 0, -1)


def together(places: Int[Array, "r s"]) -> Bool[Array, "r s s"]:
    """Which tokens of a row belong to the same text."""
    return (places[:, :, None] == places[:, None, :]) & (places >= 0)[:, None, :]


def of_texts(places: Int[Array, "r s"], texts: int) -> Bool[Array, "r k s"]:
    """Which tokens belong to each of the k texts that a row may hold."""
    return places[:, None] == jnp.arange(texts)[None, :, None]


def ends(places: Int[Array, "r s"], texts: int) -> Bool[Array, "r k s"]:
    """Which token is the last one of each of the k texts that a row may hold."""
    own = of_texts(places, texts)
    return own & ~jnp.pad(own[..., 1:], ((0, 0), (0, 0), (0, 1)))


def positions_in_texts(places: Int[Array, "r s"], most: int) -> Int[Array, "r s"]:
    """Where in its text each token stands, from 0; at most the last of so many positions."""
    index = jnp.broadcast_to(jnp.arange(places.shape[1])[None], places.shape)
    begins = jnp.diff(places, axis=1, prepend=-1) != 0
    position = index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
    return jnp.minimum(position, most - 1)  # of padding behind a text


def check_width(tokens: Int[Array, "t s"], most: int) -> None:
    """Reject texts of more tokens than there are positions.

    Raises:
        ValueError: there are more columns.
    """
    if tokens.shape[1] > most:
        raise ValueError(f"texts of {tokens.shape[1]} tokens, but max_positions={most}; cut them")
