"""What the batches of Modules I and IV have in common: each epoch is a shuffle of the items.

Batch i is a pure function of the seed, the module and i, so a resumed run draws what it would have
drawn. The two modules have a `Batch` class each: the order of its fields is the order of the
arguments of the compiled step, and differs.
"""

import abc
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mufin_jax.data.bags import Bags, Pool
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader, SideRows
from mufin_jax.runtime.distributed.padding import divide_up, spare_rows
from mufin_jax.runtime.draws import Draw, generator
from mufin_jax.runtime.errors import InputError
from mufin_jax.training.modality_dropout import drop_modalities


def check_counts(stage: str, config: object, *names: str) -> None:
    """Reject settings of a stage that must be at least 1.

    Raises:
        InputError: one of them is less.
    """
    for name in names:
        if (found := getattr(config, name)) < 1:
            raise InputError(f"{stage}.{name}={found}: expected a number >= 1")


def check_more(stage: str, more: Sequence[int]) -> None:
    """Reject passes that add nothing to a training.

    Raises:
        InputError: one of them is less than 1.
    """
    if any(some < 1 for some in more):
        raise InputError(f"{stage}.more_epochs={' '.join(map(str, more))}: expected numbers >= 1")


class EpochBatches(abc.ABC):
    """Batches over the labels (Module I) or the datapoints (Module IV) that have a training pair.

    Attributes:
        usable: numbers of these items.
        size: items of a batch that mean something.
        spare: masked rows that follow them, for the batch to divide over the devices.
        per_epoch: batches that show each usable item once.
    """

    order_draw: Draw
    """What the order of an epoch is drawn by."""
    batch_draw: Draw
    """What a step draws by."""
    modalities_draw: Draw
    """What modality dropout draws by."""
    fewest: int
    """Items that a batch needs."""
    items: str
    """What they are called in an error."""

    def __init__(
        self,
        dataset: Dataset,
        loader: Loader,
        seed: int,
        usable: Int[np.ndarray, "k"],
        batch_size: int,
        modality_dropout: float = 0.0,
    ):
        self.dataset, self.loader, self.seed, self.usable = dataset, loader, seed, usable
        self.modality_dropout = modality_dropout
        self.size = min(batch_size, len(usable))
        if self.size < self.fewest:
            raise InputError(
                f"{dataset.path}: {self.size} of its {self.items} have a training pair, expected "
                f"at least {self.fewest} for a batch; bring more data"
            )
        self.spare = spare_rows(self.size, loader.mesh_size)
        self.per_epoch = divide_up(len(usable), self.size)
        self._order = functools.lru_cache(2)(self._make_order)

    def steps(self, epochs: int, least: int) -> int:
        """Return the steps of so many passes over the usable items, and so many at least."""
        return max(epochs * self.per_epoch, least)

    def read_from(self, loader: Loader) -> None:
        """Read the same batches, of the same shapes, from another loader from now on."""
        self.loader = loader.padded_to(self.loader.sizes)

    @abc.abstractmethod
    def ids(self, step: int) -> dict[str, list[str]]:
        """Return the ids of what the batch of a step is drawn from: {"points": ids, ...}."""

    def _read(self, step: int, groups: list[SideRows]) -> tuple[Pool, list[Bags]]:
        """Return what the loader makes of a batch, in which items may lack a modality."""
        pool, bags = self.loader.batch(groups)
        if self.modality_dropout:
            address = (self.seed, self.modalities_draw, step)
            bags = drop_modalities(bags, groups, self.loader, self.modality_dropout, address)
        return pool, bags

    def _items(self, step: int) -> Int[np.ndarray, "b"]:
        """Return the items of a batch; the last one of an epoch is filled up with its first."""
        epoch, index = divmod(step, self.per_epoch)
        return np.take(self._order(epoch), index * self.size + np.arange(self.size), mode="wrap")

    def _make_order(self, epoch: int) -> Int[np.ndarray, "k"]:
        return self._epoch_draws(epoch).permutation(self.usable)

    def _epoch_draws(self, epoch: int) -> np.random.Generator:
        return generator(self.seed, self.order_draw, epoch)

    def _step_draws(self, step: int) -> np.random.Generator:
        return generator(self.seed, self.batch_draw, step)
