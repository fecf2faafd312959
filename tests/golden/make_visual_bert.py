"""Make the golden checkpoints of VisualBERT: tiny, random, by Hugging Face's own code.

Needs torch and transformers 5, which the project itself doesn't. Run it from the root of the
repository:
    python tests/golden/make_visual_bert.py
The folders are like those of make_encoders.py. `visual_bert` is like
uclanlp/visualbert-vqa-coco-pre on the hub, with the heads of its pre-training. `bert` is like
google-bert/bert-large-uncased, with TensorFlow's names of norms; its outputs are of texts without
pictures.
"""

import numpy as np
import torch
from make_encoders import HERE, perturb
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    VisualBertConfig,
    VisualBertForPreTraining,
)

SIZES = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 11,
}
# A text of only [CLS] and [SEP] is an item without text; 0 is an item without pictures.
LENGTHS, PICTURES = np.array([9, 2, 5, 3, 2]), np.array([3, 4, 0, 1, 1])


def real(counts: np.ndarray, most: int) -> torch.Tensor:
    """Return a mask with a number of entries in each row."""
    return torch.tensor(np.arange(most) < counts[:, None]).long()


def make_visual_bert(rng: np.random.Generator) -> None:
    """Write a VisualBERT, and its vectors of ragged texts with ragged pictures."""
    model = VisualBertForPreTraining(VisualBertConfig(visual_embedding_dim=14, **SIZES)).eval()
    perturb(model)
    tokens = rng.integers(0, SIZES["vocab_size"], (5, 9)).astype(np.int32)
    vectors = rng.normal(size=(5, 4, 14)).astype(np.float32)
    with torch.no_grad():
        made = model.visual_bert(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=real(LENGTHS, 9),
            visual_embeds=torch.tensor(vectors),
            visual_attention_mask=real(PICTURES, 4),
        )
        alone = model.visual_bert(torch.tensor(tokens[2:3, : LENGTHS[2]]).long())
    torch.testing.assert_close(made.pooler_output[2:3], alone.pooler_output)
    model.save_pretrained(HERE / "visual_bert")
    np.savez_compressed(
        HERE / "visual_bert" / "expected.npz",
        tokens=tokens, lengths=LENGTHS, vectors=vectors, pictures=PICTURES,
        pooled=made.pooler_output.numpy(),
    )  # fmt: skip


def make_bert(rng: np.random.Generator) -> None:
    """Write a BERT, and its vectors of ragged texts."""
    config = BertConfig(**SIZES)
    model = BertForPreTraining(config).eval()
    perturb(model)
    tokens = rng.integers(0, SIZES["vocab_size"], (5, 9)).astype(np.int32)
    with torch.no_grad():
        made = model.bert(torch.tensor(tokens).long(), attention_mask=real(LENGTHS, 9))
    config.save_pretrained(HERE / "bert")
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): values.clone()
        for name, values in model.state_dict().items()
    }  # fmt: skip
    save_file(older, HERE / "bert" / "model.safetensors")
    np.savez_compressed(
        HERE / "bert" / "expected.npz",
        tokens=tokens, lengths=LENGTHS, pooled=made.pooler_output.numpy(),
    )  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    make_visual_bert(np.random.default_rng(6))
    make_bert(np.random.default_rng(7))
