"""Our side of the comparisons with torch: the stages' own steps, on a checkpoint of encoders.

This file computes nothing itself: the steps are `make_step` of the stages, the optimizer is
`by_part`, and batches are placed as in the stages. `Ours` adds what the stages do around their
loop.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from batches import Drawn, for_ours
from flax import nnx

from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.model import label_table
from mufin_jax.model.config import ModelConfig
from mufin_jax.model.mufin import Mufin
from mufin_jax.runtime.distributed.mesh import by_row, make_mesh, one_ahead, put, replicated
from mufin_jax.training import finetune_batches, finetune_step, pretrain_batches, pretrain_step
from mufin_jax.training.optimizer import OptimizerConfig, by_part
from mufin_jax.training.setup import TrainState, split

Dtype = Literal["float32", "bfloat16"]


def new_model(checkpoints: Path, dim: int, mesh: Any, dtype: Dtype = "float32") -> Mufin:
    """Return the model that starts from the encoders in `checkpoints`: vit/ and distilbert/."""
    vit = load_image_encoder(checkpoints / "vit", dtype=dtype)
    distilbert = load_text_encoder(checkpoints / "distilbert", dtype=dtype)
    model = Mufin(
        ModelConfig(dim=dim, image=vit.config, text=distilbert.config),
        vocab=distilbert.config.vocab,
        vector_width=None,
        processing=ImageProcessing(vit.config.image_size),
        mesh=mesh,
        rngs=nnx.Rngs(0),
    )
    model.image_encoder, model.text_encoder = vit, distilbert
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, put(state, replicated(mesh)))


class Ours:
    """A training state and the step of its module.

    Args:
        checkpoints: a folder with vit/ and distilbert/.
        dim: D.
        optimizer: rates; the last block of the ViT and all of the text encoder train by default.
        steps: in all, for the schedule.
        num_labels: L, for Module IV; 0 trains Module I.
        table: initial eta and alpha of all labels; those of Module III by default.
        dtype: what the encoders' matrices multiply in.
        mesh: the devices; the first one by default.
    """

    def __init__(
        self,
        checkpoints: Path,
        dim: int,
        optimizer: OptimizerConfig,
        steps: int,
        num_labels: int = 0,
        table: tuple[np.ndarray, np.ndarray] | None = None,
        dtype: Dtype = "float32",
        mesh: Any = None,
    ):
        self.mesh = make_mesh(jax.devices()[:1]) if mesh is None else mesh
        self.num_labels = num_labels
        model = new_model(checkpoints, dim, self.mesh, dtype)
        self.graphdef, train, self.frozen = split(model, optimizer, cross=bool(num_labels))
        rule = by_part(optimizer, steps)
        # Placed as the step returns it, or the second step would be compiled again.
        state = TrainState(opt=rule.init(train), train=train)
        self.state: TrainState = put(state, replicated(self.mesh))
        if num_labels:
            config = finetune_batches.FinetuneConfig(optimizer=optimizer)
            self._step = finetune_step.make_step(config, self.graphdef, rule, steps, self.mesh)
            start = label_table.initialize(jax.random.key(0), num_labels, dim, self.mesh)
            if table is not None:
                more = -len(table[0]) % label_table.ROWS
                eta, alpha = np.pad(table[0], ((0, more), (0, 0))), np.pad(table[1], (0, more))
                rows = put(label_table.Rows(eta, alpha), by_row(self.mesh))
                start = dataclasses.replace(start, rows=rows)
            self.state = dataclasses.replace(self.state, table=start)
        else:
            config = pretrain_batches.PretrainConfig(optimizer=optimizer)
            self._step = pretrain_step.make_step(config, self.graphdef, rule)

    def ready(self, drawn: Drawn, cached: bool = False) -> Any:
        """Return a batch as our loader would, with pixels or with cached trunk tokens."""
        return for_ours(drawn, self.num_labels, self._trunk if cached else None)

    def step(self, *batches: Any) -> float:
        """Make steps on batches that lie on the host; return the last loss when all is done.

        As `fit` does, it places each batch before the step on the one before it.
        """
        for batch in one_ahead(batches, self.place):
            self.state, metrics = self._step(self.state, self.frozen, batch)
        jax.block_until_ready(self.state)
        return float(metrics["loss"])

    def model(self) -> Mufin:
        """Return the present model; the next step donates its buffers."""
        return nnx.merge(self.graphdef, self.state.train, self.frozen)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of eta and alpha of all labels, without the padding of the table."""
        table = self.state.table
        return tuple(
            np.array(part[: self.num_labels]) for part in (table.rows.eta, table.rows.alpha)
        )

    def place(self, batch: Any) -> Any:
        """Move a batch to the devices."""
        if self.num_labels:
            return finetune_step.place(batch, self.mesh)
        return put(batch, by_row(self.mesh))

    def _trunk(self, images: np.ndarray, block: int = 256) -> np.ndarray:
        """Return the trunk's tokens of images on the host: nothing below them trains."""

        @jax.jit
        def trunk(model: Mufin, images: jax.Array) -> jax.Array:
            return model.image_encoder.trunk(model.processing.normalise(images))

        parts = np.split(images, range(block, len(images), block))
        return np.concatenate([np.asarray(trunk(self.model(), part)) for part in parts])
