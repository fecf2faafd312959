"""The model in torch: the encoders of `transformers`, the attention block, describe, embed, adapt.

Names and shapes are those of mufin_jax/model/mufin.py. The computation differs: bags are padded
tensors; `transformers` computes all rows of the last block of the ViT, although only CLS is read;
and cross-attention is the textbook's, as in the released code: q, K, V and O of every (datapoint,
label) pair.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DistilBertModel, ViTModel

from torch_twin.tensors import Tensors


class ImageEncoder(nn.Module):
    """Normalised images (i, 3, h, w) to CLS vectors (i, width), after the final LayerNorm.

    Only the last block and the final LayerNorm train (paper, section 3). Nothing below them is
    recorded for the backward pass.
    """

    def __init__(self, checkpoint: Path):
        super().__init__()
        self.vit = ViTModel.from_pretrained(checkpoint, add_pooling_layer=False)
        self.vit.requires_grad_(False)
        for part in (self.vit.layers[-1], self.vit.layernorm):
            part.requires_grad_(True)

    def forward(self, images: Tensor) -> Tensor:
        """Encode images."""
        with torch.no_grad():
            tokens = self.vit.embeddings(images)
            for layer in self.vit.layers[:-1]:
                tokens = layer(tokens)
        return self.vit.layernorm(self.vit.layers[-1](tokens))[:, 0]


class TextEncoder(nn.Module):
    """Token ids (t, s) to the mean of the last hidden state over the real tokens (t, width)."""

    def __init__(self, checkpoint: Path):
        super().__init__()
        self.distilbert = DistilBertModel.from_pretrained(checkpoint)

    def forward(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Encode texts; `real` (t, s) is True at their tokens."""
        hidden = self.distilbert(tokens, attention_mask=real).last_hidden_state
        total = torch.where(real[..., None], hidden, 0).sum(1)
        return total / real.sum(1, keepdim=True).clamp(min=1)


class AttentionBlock(nn.Module):
    """A(Q, K) = LayerNorm(Q + O softmax(q k^T / sqrt(d)) v); starts as the identity, one head."""

    def __init__(self, dim: int):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))
        for linear in (self.query, self.key, self.value, self.out):
            nn.init.eye_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend from queries (b, n, d) to keys (b, m, d), of which mask (b, m) are real."""
        attended = functional.scaled_dot_product_attention(
            self.query(queries), self.key(keys), self.value(keys), attn_mask=mask[:, None]
        )
        return self.norm(queries + self.out(attended))


class Mufin(nn.Module):
    """E_V, E_T, A_S and A_C."""

    def __init__(self, checkpoints: Path, dim: int):
        super().__init__()
        self.image_encoder = ImageEncoder(checkpoints / "vit")
        self.text_encoder = TextEncoder(checkpoints / "distilbert")
        self.reduce = nn.AdaptiveMaxPool1d(dim)
        self.self_attention = AttentionBlock(dim)
        self.cross_attention = AttentionBlock(dim)
        self.eval()  # no dropout; gradients flow as ever

    def describe(self, batch: Tensors) -> Tensor:
        """Return the vectors (p, d) of the batch's distinct descriptors, texts first."""
        kind = self.self_attention.norm.weight.dtype
        images = (batch.images.permute(0, 3, 1, 2).to(kind) / 255 - 0.5) / 0.5
        texts = self.text_encoder(batch.tokens, batch.real)
        images = self.image_encoder(images)
        return torch.cat([self.reduce(texts), self.reduce(images)])

    def embed(self, vectors: Tensor, bags: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return X1 (b, n, d) and x1 (b, d) of bags: rows of the vectors, and which are real."""
        slots, mask = bags
        x0 = vectors[slots] * mask[..., None]
        x1 = self.self_attention(x0, x0, mask)
        return x1, unit(masked_sum(x1, mask))

    def adapt(self, x1: Tensor, mask: Tensor, z1: Tensor, z_mask: Tensor) -> Tensor:
        """Return x2_l (b, k, d) of each datapoint for each of its k labels.

        Args:
            x1: bags of the datapoints (b, n, d).
            mask: which of their descriptors are real.
            z1: bags of the labels of each datapoint (b, k, m, d).
            z_mask: which of their descriptors are real.
        """
        points, labels = z1.shape[:2]
        queries = x1[:, None].expand(-1, labels, -1, -1).flatten(0, 1)
        x2 = self.cross_attention(queries, z1.flatten(0, 1), z_mask.flatten(0, 1))
        x2 = x2.unflatten(0, (points, labels))
        return unit(masked_sum(x2, mask[:, None]))


def unit(vectors: Tensor) -> Tensor:
    """Sphere-normalise."""
    return functional.normalize(vectors, dim=-1)


def masked_sum(vectors: Tensor, mask: Tensor) -> Tensor:
    """Sum bags (..., n, d) over their real descriptors (..., n)."""
    return torch.where(mask[..., None], vectors, 0).sum(-2)
