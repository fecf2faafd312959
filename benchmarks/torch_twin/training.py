"""A training step of Module I and of Module IV in torch.

AdamW with weight decay on matrices only, SparseAdam for the label table, the cosine schedule after
a linear warm-up; bfloat16 is autocast. With `compiled`, torch.compile compiles forward, loss and
backward. Gathering rows of the table stays outside, because sparse gradients cannot be compiled.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from torch_twin import losses
from torch_twin.classifiers import LabelTable, combine
from torch_twin.model import Mufin
from torch_twin.tensors import Tensors


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of a training; the defaults are those of mufin_jax.

    Attributes:
        rate: peak learning rate of the model.
        table_rate: of the label table.
        warmup: steps of linear warm-up from zero.
        steps: in all; the rate ends at zero.
        weight_decay: of matrices.
    """

    rate: float = 2e-4
    table_rate: float = 2e-4
    warmup: int = 1000
    steps: int = 10_000
    weight_decay: float = 0.01

    def factor(self, step: int) -> float:
        """Return the learning rate of a step over its peak."""
        if step < self.warmup:
            return step / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return 0.5 * (1 + math.cos(math.pi * done))


class Trainer:
    """A model and its optimizers.

    Args:
        checkpoints: a folder with vit/ and distilbert/.
        dim: D.
        training: rates.
        table: initial eta and alpha of all labels, for Module IV; None trains Module I.
        device: "cpu" or "cuda".
        dtype: what matrices multiply in.
        compiled: use torch.compile.
    """

    def __init__(
        self,
        checkpoints: Path,
        dim: int,
        training: Training,
        table: tuple[np.ndarray, np.ndarray] | None = None,
        device: str = "cpu",
        dtype: Literal["float32", "bfloat16"] = "float32",
        compiled: bool = False,
    ):
        self.device, self.dtype = device, dtype
        self.model = Mufin(checkpoints, dim).to(device)
        self.model.cross_attention.requires_grad_(table is not None)
        self.table = None if table is None else LabelTable(*table).to(device)
        matrices, others = [], []
        for parameter in self.model.parameters():
            if parameter.requires_grad:  # a CLS token is a vector, whatever its shape
                (matrices if parameter.squeeze().ndim > 1 else others).append(parameter)
        groups = [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=training.rate, fused=True)
        ]
        if self.table is not None:
            rows = list(self.table.parameters())
            self.optimizers.append(torch.optim.SparseAdam(rows, lr=training.table_rate))
        self.schedules = [
            torch.optim.lr_scheduler.LambdaLR(optimizer, training.factor)
            for optimizer in self.optimizers
        ]
        compiler: Callable = torch.compile if compiled else lambda function: function
        self.loss_1, self.loss_4 = compiler(self._loss_1), compiler(self._loss_4)

    def step(self, *batches: Tensors) -> float:
        """Make steps on batches that lie on the host; return the last loss when all is done."""
        for batch in self._placed(batches):
            with self._precision():
                if self.table is None:
                    loss = self.loss_1(batch)
                else:
                    loss = self.loss_4(batch, *self.table(batch.ids))
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if self.table is not None:
                self.table.project(batch.ids)
            for schedule in self.schedules:
                schedule.step()
        value = loss.item()
        if self.device == "cuda":
            torch.cuda.synchronize()
        return value

    def _placed(self, batches: Sequence[Tensors]) -> Iterator[Tensors]:
        """Yield batches on the device; a GPU copies the next on another stream meanwhile."""
        if self.device != "cuda":
            yield from (batch.to(self.device) for batch in batches)
            return
        copies, coming = torch.cuda.Stream(), None
        for batch in [*batches, None]:
            last, coming = coming, None
            if batch is not None:
                with torch.cuda.stream(copies):
                    coming = batch.to(self.device), copies.record_event()
            if last is not None:
                stream = torch.cuda.current_stream()
                stream.wait_event(last[1])
                yield last[0].used_on(stream)

    def double(self) -> None:
        """Compute in float64 from now on, as the reference for float32."""
        self.model.double()
        if self.table is not None:
            self.table.double()

    def _loss_1(self, batch: Tensors) -> Tensor:
        vectors = self.model.describe(batch)
        _, z = self.model.embed(vectors, batch.labels)
        _, x = self.model.embed(vectors, batch.points)
        return losses.hinge_loss(z @ x.T, batch.positives, batch.negatives).mean()

    def _loss_4(self, batch: Tensors, eta: Tensor, alpha: Tensor) -> Tensor:
        vectors = self.model.describe(batch)
        x1, _ = self.model.embed(vectors, batch.points)
        z1, z = self.model.embed(vectors, batch.labels)
        chosen, mask = batch.chosen, batch.labels[1]
        x2 = self.model.adapt(x1, batch.points[1], z1[chosen], mask[chosen])
        w = combine(eta, alpha, z)
        similarities = (x2 * w[chosen]).sum(-1)
        return losses.cosine_margin_loss(similarities, batch.positives, batch.negatives).mean()

    def _precision(self) -> contextlib.AbstractContextManager:
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device, torch.bfloat16)


def save(trainer: Trainer, folder: Path) -> None:
    """Write the encoders as checkpoints, and the attention blocks and the table as `rest.npz`."""
    trainer.model.image_encoder.vit.save_pretrained(folder / "vit")
    trainer.model.text_encoder.distilbert.save_pretrained(folder / "distilbert")
    np.savez_compressed(folder / "rest.npz", **rest(trainer))


def rest(trainer: Trainer) -> dict[str, np.ndarray]:
    """Return weights outside the encoders by name, as self_attention.query.weight or eta."""
    blocks: Iterable[tuple[str, nn.Module]] = trainer.model.named_children()
    found = {
        f"{part}.{name}": value.detach().cpu().numpy()
        for part, block in blocks
        if part in ("self_attention", "cross_attention")
        for name, value in block.named_parameters()
    }
    if trainer.table is not None:
        found["eta"] = trainer.table.eta.weight.detach().cpu().numpy()
        found["alpha"] = trainer.table.alpha.weight.detach().cpu().numpy()[:, 0]
    return found
