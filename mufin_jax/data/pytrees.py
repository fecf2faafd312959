"""Makes pools and bags known to JAX; whatever places or traces them imports this file first."""

import jax

from mufin_jax.data.bags import Bags, JointTexts, PackedTexts, Pool
from mufin_jax.data.sources import Pixels, TrunkStates, Vectors

for _container in (Pixels, TrunkStates, Vectors, PackedTexts, JointTexts, Pool, Bags):
    jax.tree_util.register_dataclass(_container)
