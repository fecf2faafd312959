"""The label table in torch: two sparse embeddings, eta and alpha, with SparseAdam."""

import numpy as np
import torch
from torch import Tensor, nn

from torch_twin.model import unit


class LabelTable(nn.Module):
    """w_l = unit(alpha_l z1_l + (1 - alpha_l) unit(eta_l)).

    Args:
        eta: initial values (L, d).
        alpha: initial values (L,).
    """

    def __init__(self, eta: np.ndarray, alpha: np.ndarray):
        super().__init__()
        self.eta = nn.Embedding(*eta.shape, sparse=True, _weight=torch.tensor(eta))
        self.alpha = nn.Embedding(len(alpha), 1, sparse=True, _weight=torch.tensor(alpha)[:, None])

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return eta (c, d) and alpha (c, 1) of labels."""
        return self.eta(ids), self.alpha(ids)

    @torch.no_grad()
    def project(self, ids: Tensor) -> None:
        """Move alpha of labels that were updated back into [0, 1]."""
        self.alpha.weight[ids] = self.alpha.weight[ids].clamp(0, 1)


def combine(eta: Tensor, alpha: Tensor, z: Tensor) -> Tensor:
    """Return the classifiers w (c, d)."""
    return unit(alpha * z + (1 - alpha) * unit(eta))
