"""The losses in torch, one value per example; see mufin_jax/training/losses.py."""

import torch
from torch import Tensor


def hinge_loss(
    similarities: Tensor,
    positives: Tensor,
    negatives: Tensor,
    hardest: int = 3,
    margin: float = 0.2,
) -> Tensor:
    """Sum [z_l·x_j - z_l·x_i + margin]_+ over P_l and N_l (Module I); all arguments (c, b)."""
    candidates = similarities.masked_fill(~negatives, -torch.inf)
    hard = candidates.topk(min(hardest, candidates.shape[1]), dim=1).values
    gaps = hard[:, None, :] - similarities[:, :, None] + margin
    real = positives[:, :, None] & hard.isfinite()[:, None, :]
    return torch.where(real, gaps.relu(), 0).sum((1, 2))


def cosine_margin_loss(
    similarities: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.5
) -> Tensor:
    """Sum 1 - x2_l·w_l over positives, [x2_k·w_k - margin]_+ over negatives (Module IV)."""
    attract = torch.where(positives, 1 - similarities, 0)
    repel = torch.where(negatives, (similarities - margin).relu(), 0)
    return (attract + repel).sum(1)
