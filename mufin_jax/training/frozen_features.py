"""What frozen parts of the encoders make of the descriptors: computed once, and kept on the disk.

The paper's Modules I and IV train the last block of E_V and freeze those below it (App. D). What
the frozen blocks make of a picture never changes: it is computed once for the whole run, and each
step runs only the last block, for 1/27 of the operations (ViT-B/32, 224 pixels). Of an encoder that
does not train at all, the vectors are kept.

    <folder>/image-trunk-<fingerprint>.npy   (i, ...), what stands before the last block of E_V
    <folder>/image-<fingerprint>.npy         (i, width), float32, what E_V makes of each image
    <folder>/text-<fingerprint>.npy          (t, width), float32, what E_T makes of each text; or,
                                             of each item, what a joint one makes of it

Tokens are kept in the compute dtype, so nothing is lost; bfloat16 as its bit patterns, uint16. The
fingerprint covers the descriptors, the weights below and how they are used: stages share a file
that fits, and never read one that does not. The folder may be deleted once a run is done.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mufin_jax.data.bags import Pool
from mufin_jax.data.loader import Loader, prefetch
from mufin_jax.data.manifest import RECORDS_CHECKSUMS
from mufin_jax.data.sources import ImageSource, TrunkStates, Vectors
from mufin_jax.encoders.freezing import trainable
from mufin_jax.encoders.vectors import ReadyVectors
from mufin_jax.model.embed_side import pictures_a_call
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import by_row, fetch, put, replicated
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.machine import host_memory
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import load_json, save_json
from mufin_jax.runtime.storage.npy import forget, mapped, whole_npy
from mufin_jax.training.optimizer import OptimizerConfig

log = logging.getLogger(__name__)

Kind = Literal["image-trunk", "image", "text"]
BLOCK = 256
"""Descriptors a call."""


def precompute(
    model: Mufin,
    loader: Loader,
    optimizer: OptimizerConfig,
    folder: Path,
    decisions: Path,
    gigabytes: float | None = None,
) -> Loader:
    """Return a loader that reads what the frozen parts of the encoders make, computed if need be.

    Args:
        model: the encoders, before the stage trains.
        loader: of the dataset; it reads pixels and tokens.
        optimizer: which parts train.
        folder: where the arrays are kept; made if need be.
        decisions: a JSON file that records what was kept and what was not. A resumed run, whatever
            room it finds, continues as it began, and so to the bit.
        gigabytes: the most that one array may take; half of the host's memory by default, which
            the system can hold; 0 keeps nothing. If an array would take more, or the disk has no
            room, the frozen parts run in every step.

    Raises:
        DiskError: if a file cannot be written.
        Stopped: after a signal.
    """
    most = host_memory() // 2 if gigabytes is None else int(1e9 * gigabytes)
    parts = [_Part(model, loader, kind, folder) for kind in _wanted(model, optimizer)]
    parts = [part for part in parts if part.count]
    if not processes.decide(decisions.exists):
        kept = {part.kind: processes.decide(part.path.exists) or part.fits(most) for part in parts}
        processes.once("what is kept is decided", lambda: save_json(decisions, kept))
    kept = processes.decide(lambda: load_json(decisions))
    for part in parts:
        if kept.get(part.kind):
            # A joint encoder reads the pictures' vectors that the part before has just kept.
            part.write(loader)
            loader = part.serve(loader)
    return loader


def use_precomputed(model: Mufin, loader: Loader, folder: Path) -> Loader:
    """Return a loader that reads what the folder holds of this model's frozen parts.

    Nothing is computed: what the folder does not hold is read from the loader's own sources.
    """
    kinds: tuple[tuple[Kind, ...], ...] = (("image", "image-trunk"), ("text",))
    for alternatives in kinds:
        for kind in alternatives:
            part = _Part(model, loader, kind, folder)
            if part.count and processes.decide(part.path.exists):
                loader = part.serve(loader)
                break
    return loader


def _wanted(model: Mufin, optimizer: OptimizerConfig) -> Iterator[Kind]:
    """Yield what can be kept of a model in a stage that trains these parts."""
    if model.image_encoder is not None and not isinstance(model.image_encoder, ReadyVectors):
        if optimizer.image_encoder == "last" and model.image_encoder.config.depth > 1:
            yield "image-trunk"
        if optimizer.image_encoder == "frozen":
            yield "image"
    if model.text_encoder is not None and not isinstance(model.text_encoder, ReadyVectors):
        # A joint E_T's vectors change with those of pictures.
        below = "frozen" if model.config.modalities != "joint" else optimizer.image_encoder
        if optimizer.text_encoder == below == "frozen":
            yield "text"


def _encoder_of(kind: Kind) -> str:
    return "text_encoder" if kind == "text" else "image_encoder"


@dataclasses.dataclass(frozen=True)
class _Part:
    """One array: what a part of a model makes of all texts, or of all images."""

    model: Mufin
    loader: Loader
    kind: Kind
    folder: Path

    @property
    def count(self) -> int:
        """How many descriptors of the kind there are; none if the model or the loader sees none."""
        encoder = getattr(self.model, _encoder_of(self.kind))
        if encoder is None or isinstance(encoder, ReadyVectors):
            return 0
        return (
            self.loader.num_texts if self.kind == "text" else len(self.loader.sources.images.rows)
        )

    @functools.cached_property
    def path(self) -> Path:
        """The file, named after what its numbers depend on."""
        encoder = getattr(self.model, _encoder_of(self.kind))
        how = dataclasses.asdict(encoder.config) | {"dtype": encoder.dtype}
        facts = hashlib.sha256(repr((sorted(how.items()), self.model.processing)).encode())
        facts.update(self._data())
        whole = [encoder]
        if self._reads_pictures:
            whole.append(self.model.image_encoder)
            facts.update(repr(getattr(self.model.image_encoder, "config", None)).encode())
        for path, value in itertools.chain(*(nnx.to_flat_state(nnx.state(e)) for e in whole)):
            below = not trainable(path, "last", encoder.config.depth)
            if below or self.kind != "image-trunk":
                facts.update(repr(path).encode())
                facts.update(np.ascontiguousarray(fetch(value[...])).data)
        return self.folder / f"{self.kind}-{facts.hexdigest()[:16]}.npy"

    def fits(self, most: int) -> bool:
        """Return whether there is room; log it if there is none."""
        shape = jax.eval_shape(self._make, self.model, self._read(self.loader, np.arange(1))[0])
        size = self.count * int(np.prod(shape.shape[1:])) * shape.dtype.itemsize

        def free() -> int:
            """Return the room that this process finds: hosts may have unlike memory."""
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                # Checkpoints need room, too.
                return min(most, int(0.9 * shutil.disk_usage(self.folder).free))

        room = processes.decide(free)
        if size > room:
            log.info(
                "what the frozen part of the %s makes of all %d would take %.1f GB, and %.1f GB "
                "are free for it (--pretrain.fit.cache-gb): each step computes it again",
                _encoder_of(self.kind).replace("_", " "), self.count, size / 1e9, room / 1e9,
            )  # fmt: skip
        return size <= room

    def write(self, loader: Loader) -> None:
        """Compute the array unless it is there.

        Args:
            loader: reads the descriptors; it may read what other frozen parts made of them.
        """
        if processes.decide(self.path.exists):
            return
        size = BLOCK if self.kind == "text" else pictures_a_call(self.model, loader, BLOCK)
        mesh, blocks = self.model.mesh, list(cut(self.count, size))
        make = jax.jit(self._make, out_shardings=replicated(mesh))
        shape = jax.eval_shape(make, self.model, self._read(loader, np.arange(1))[0])
        kept = np.uint16 if shape.dtype == jnp.bfloat16 else np.float32

        def read(number: int) -> tuple[Pool | ImageSource, np.ndarray]:
            return self._read(loader, np.arange(blocks[number].start, blocks[number].stop))

        bar = progress(total=self.count, desc=f"precompute {self.kind}", unit="item", leave=False)
        with whole_npy(self.path, shape.shape[1:], kept, self.count) as writer, bar:
            for raw, homes in prefetch(read, 0, len(blocks)):
                check_stop("precompute")
                found = fetch(make(self.model, put(raw, by_row(mesh))))[homes]
                writer.append(found.view(kept))
                bar.update(len(homes))
                images = loader.sources.images.rows
                if processes.is_main() and isinstance(images, np.ndarray):
                    forget(images)

    def serve(self, loader: Loader) -> Loader:
        """Return a loader that reads the array where this one reads tokens or pixels.

        Raises:
            InputError: if the file is not what `write` wrote.
        """
        array = np.asarray(mapped(self.path))  # a plain view: indexing a memmap object costs more
        if len(array) != self.count or array.dtype not in (np.uint16, np.float32):
            found = f"{array.dtype} {array.shape}, expected {self.count:,} rows"
            raise InputError(f"{self.path} holds {found}: delete it and run the command again")
        if array.dtype == np.uint16:
            array = array.view(jnp.bfloat16)
        if self.kind == "text":
            return loader.with_sources(texts=Vectors(array))
        source = TrunkStates if self.kind == "image-trunk" else Vectors
        return loader.with_sources(images=source(array))

    @property
    def _reads_pictures(self) -> bool:
        """Whether the encoder reads texts with their pictures."""
        return self.kind == "text" and self.loader.descriptors.together

    def _data(self) -> bytes:
        """Return what tells the texts, or the images, of this prepared folder from others."""
        dataset = self.loader.dataset
        names = "text" if self.kind == "text" else "image"
        both = self._reads_pictures
        files = dataset.manifest["files"]
        files = {name: at for name, at in files.items() if both or names in name}
        records = dataset.path / RECORDS_CHECKSUMS
        known = json.dumps(files, sort_keys=True).encode()
        if (self.kind != "text" or both) and processes.decide(records.exists):
            known += records.read_bytes()
        return known

    def _read(self, loader: Loader, rows: np.ndarray) -> tuple[Pool | ImageSource, np.ndarray]:
        """Return a pool of texts, or images, and which rows of what is made of them are theirs."""
        return loader.texts(rows) if self.kind == "text" else loader.pictures(rows)

    def _make(self, model: Mufin, found: Pool | ImageSource) -> jax.Array:
        """Return what the part makes of what `_read` returned."""
        if isinstance(found, Pool):
            return model.read(found)
        return model.see(found) if self.kind == "image" else model.trunk(found)
