"""How training is logged and saved: the settings that Modules I and IV share."""

import dataclasses

from mufin_jax.runtime.errors import InputError


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How training is logged and saved; none of this changes what is learned.

    Attributes:
        log_every: steps between two lines of metrics.
        checkpoint_every: steps between two checkpoints, at most.
        checkpoint_seconds: seconds between two checkpoints, at most. The first one after a start or
            a resumption comes much sooner, so a run that is often interrupted makes progress.
        threads: threads that make batches ahead of use; 0 makes each when it is used.
        cache_gb: gigabytes that the outputs of an encoder's frozen part may take on the disk
            (frozen_features.py); half of the host's memory by default. With 0 they are computed in
            every step; the numbers then differ by rounding only.
    """

    log_every: int = 20
    checkpoint_every: int = 500
    checkpoint_seconds: float = 60.0
    threads: int = 2
    cache_gb: float | None = None

    def __post_init__(self) -> None:
        """Reject invalid intervals."""
        for name, least in (("log_every", 1), ("checkpoint_every", 1), ("threads", 0)):
            if (found := getattr(self, name)) < least:
                raise InputError(f"fit.{name}={found}: expected a whole number >= {least}")
        if not self.checkpoint_seconds > 0:
            found = self.checkpoint_seconds
            raise InputError(f"fit.checkpoint_seconds={found}: expected more than 0")
        if self.cache_gb is not None and not self.cache_gb >= 0:
            raise InputError(f"fit.cache_gb={self.cache_gb}: expected a number >= 0")
