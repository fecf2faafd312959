"""t-SNE: vectors of many dimensions as points on a page (figures 5 and 6)."""

import numpy as np
from jaxtyping import Float

from mufin_jax.report.panel import Missing
from mufin_jax.runtime.signals import until_stopped

MOST = 2000
"""The most vectors: the time grows faster than their number."""
LEAST = 8
"""Fewer vectors have no neighbourhoods."""
ROUNDS = 4
"""Rounds of 250 iterations, the first with exaggeration; a signal stops between them."""


def spread(vectors: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n 2"]:
    """Return places in the plane that keep neighbours together; equal vectors give equal places.

    Raises:
        Missing: if there are too few vectors.
        ValueError: if there are more than MOST.
        Stopped: after a signal.
    """
    if len(vectors) < LEAST:
        raise Missing(f"{len(vectors)} vectors are too few for a map")
    if len(vectors) > MOST:
        raise ValueError(f"{len(vectors)} vectors: expected at most {MOST}")
    # Both take a second to load, and only this function needs them.
    import threadpoolctl
    from sklearn.manifold import TSNE

    places: str | np.ndarray = "pca"
    with threadpoolctl.threadpool_limits(1):  # several threads would add in any order
        for number in until_stopped(range(ROUNDS), "report"):
            method = TSNE(
                perplexity=min(30, (len(vectors) - 1) / 3),
                early_exaggeration=1 if number else 12,
                learning_rate=max(len(vectors) / 48, 50),  # pyright: ignore[reportArgumentType]
                max_iter=250,
                init=places,  # pyright: ignore[reportArgumentType]
                random_state=seed,
            )
            places = method.fit_transform(np.asarray(vectors, np.float64))
    return np.asarray(places)
