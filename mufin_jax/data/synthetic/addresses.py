"""Random numbers of generated data by addresses: a draw that is added changes no other.

Data have a seed of their own, apart from the draws of a run (runtime/draws.py).
"""

import numpy as np


def generator_of(seed: int, *address: str | int) -> np.random.Generator:
    """Return the generator of an address, such as "pictures" and the number of a product."""
    words = (int.from_bytes(one.encode()) if isinstance(one, str) else one for one in address)
    return np.random.default_rng([seed, *words])
