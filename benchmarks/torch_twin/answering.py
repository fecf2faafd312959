"""The released code's work after the encoders: every pair of query and label in full.

Label bags are gathered and padded for every label of a shortlist, the query's bag is repeated for
each, and K, V, Q and O are applied to all of it. The classifiers w are given. Eager, float32.
"""

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """LayerNorm(Q + O softmax(q k^T / sqrt(d)) v), one head."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Map queries (p, n, d), keys (p, m, d) and their mask (p, m) to (p, n, d)."""
        logits = self.query(queries) @ self.key(keys).transpose(1, 2)
        logits = logits / queries.shape[-1] ** 0.5
        weights = logits.masked_fill(~mask[:, None], -1e9).softmax(-1)
        return self.norm(queries + self.out(weights @ self.value(keys)))


class Answering(nn.Module):
    """Scores shortlists.

    Args:
        bags: (e, d): the descriptors of all labels, label after label.
        offsets: (l + 1,): where each label's descriptors start.
        w: (l, d): the classifiers.
        mix: weight of the classifier's score.
    """

    def __init__(self, bags: Tensor, offsets: Tensor, w: Tensor, mix: float):
        super().__init__()
        self.bags, self.offsets, self.w, self.mix = bags, offsets, w, mix
        self.most = int(offsets.diff().max())
        self.attention = CrossAttention(bags.shape[1])

    @torch.inference_mode()
    def forward(
        self, queries: Tensor, mask: Tensor, labels: Tensor, similarities: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rank the labels (b, c) of queries (b, n, d) with a mask (b, n): labels and scores."""
        many, count = labels.shape
        starts, stops = self.offsets[labels], self.offsets[labels + 1]
        place = starts[..., None] + torch.arange(self.most)
        real = place < stops[..., None]
        keys = self.bags[place.clamp_max(len(self.bags) - 1)].flatten(0, 1)
        repeated = queries.repeat_interleave(count, 0)
        adapted = self.attention(repeated, keys, real.flatten(0, 1))
        kept = mask.repeat_interleave(count, 0)[..., None]
        pooled = (adapted * kept).sum(1) / kept.sum(1)
        pooled = nn.functional.normalize(pooled, dim=-1).view(many, count, -1)
        scores = self.mix * (pooled * self.w[labels]).sum(-1) + (1 - self.mix) * similarities
        scores, order = scores.topk(count)
        return labels.gather(1, order), scores
