"""Refreshes of Module I: embeddings by which hard positives are mined until the next one.

    <folder>/refresh-<step>/z.npy   float32 (L, D), of the labels
    <folder>/refresh-<step>/x.npy   float32 (N, D), of the training points

A refresh is complete or absent. It is made once: a resumed run mines by the same embeddings.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mufin_jax.data.loader import Loader
from mufin_jax.model.embed_side import describe_once, embed_once
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime import machine
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import DiskError
from mufin_jax.runtime.storage.files import discard, sync
from mufin_jax.runtime.storage.npy import mapped


@dataclasses.dataclass(frozen=True)
class Refreshes:
    """The refreshes of one run; all of its processes must make the same calls."""

    folder: Path

    def at(
        self, step: int, model: Callable[[], Mufin], loader: Loader, keep: int
    ) -> tuple[Float32[np.ndarray, "l d"], Float32[np.ndarray, "p d"]]:
        """Return z and x of the refresh before `step`, mapped; make it if it does not exist.

        Args:
            step: number of the step that follows the refresh.
            model: returns the model at that step.
            loader: of the dataset; its descriptor vectors are used if it holds them.
            keep: the first step whose refresh a resumed run may need; earlier ones are deleted.

        Raises:
            DiskError: if it cannot be written.
            Stopped: after a signal.
        """
        folder = self.folder / f"refresh-{step}"
        if not processes.decide(folder.exists):
            self._write(folder, model(), loader)
            processes.once("old refreshes are gone", lambda: self._remove(keep))
        # Plain views: to index a memmap object costs more than to read what is in it.
        z, x = (np.asarray(mapped(folder / f"{name}.npy")) for name in "zx")
        return z, x

    def _write(self, folder: Path, model: Mufin, loader: Loader) -> None:
        draft = folder.with_name(f".{folder.name}.tmp")
        processes.once("a new refresh", lambda: discard(draft))

        def complete() -> None:
            (draft / "vectors.npy").unlink(missing_ok=True)
            os.replace(draft, folder)
            sync(folder.parent)

        try:
            if loader.sources.known is not None:
                vectors = loader.sources.known.rows
            else:
                vectors = describe_once(model, loader, draft / "vectors.npy")
            embed_once(model, loader, vectors, loader.dataset.labels, draft / "z.npy")
            embed_once(model, loader, vectors, loader.dataset.train, draft / "x.npy")
            processes.once("a refresh is complete", complete)
            machine.give_back_memory()
        except DiskError:
            if processes.is_main():
                discard(draft)
            raise

    def _remove(self, before: int) -> None:
        for old in self.folder.glob("refresh-*"):
            if int(old.name.split("-")[1]) < before:
                shutil.rmtree(old)
