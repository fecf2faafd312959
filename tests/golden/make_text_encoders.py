"""Make the golden checkpoints of sentence encoders: tiny, random, by Hugging Face's own code.

Needs torch, transformers 5 and sentence-transformers 6, which the project itself doesn't. Run it
from the root of the repository:
    python tests/golden/make_text_encoders.py
Each folder is a checkpoint as `SentenceTransformer.save_pretrained` writes it, with `expected.npz`
beside it: the tokens of TITLES, the last hidden state, and the vectors. ModernBERT is a masked
language model without files of sentence-transformers.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from make_encoders import HERE, perturb
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MPNetConfig,
    MPNetModel,
    MPNetTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)

# The last one is long: MPNet has one number for all distances from 128 on.
TITLES = ["A red chair", "lamp 42", "the Lamp's chair  and table", "red", "chair lamp " * 80]
MOST = 180
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": MOST + 2,
}
PIECES = [
    "a",
    "red",
    "chair",
    "lamp",
    "table",
    "the",
    "and",
    "##s",
    "'",
    "s",
    "4",
    "##2",
    ":",
    "query",
]


def bpe(special: list[str]) -> Tokenizer:
    """Return a byte-level BPE learned on the titles; its special tokens come first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(TITLES, trainer)
    return tokenizer


def roberta_tokenizer() -> RobertaTokenizer:
    """Return RoBERTa's pipeline with a small vocabulary."""
    learned = bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    with tempfile.TemporaryDirectory() as folder:
        _, merges = learned.model.save(folder)
        lines = Path(merges).read_text().splitlines()[1:]
    return RobertaTokenizer(
        vocab=learned.get_vocab(), merges=[tuple(line.split()) for line in lines]
    )


def modern_tokenizer() -> PreTrainedTokenizerFast:
    """Return ModernBERT's kind of pipeline: byte-level BPE between [CLS] and [SEP]."""
    tokenizer = bpe(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def wordpiece(special: list[str]) -> dict[str, int]:
    """Return a small vocabulary of WordPiece."""
    return {word: number for number, word in enumerate([*special, *PIECES])}


def unigram() -> list[tuple[str, float]]:
    """Return a small vocabulary of Unigram, in XLM-RoBERTa's order."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = ["▁A", "▁red", "▁chair", "▁lamp", "▁the", "▁L", "amp", "'", "s", "▁", "▁and", "▁table",
             "▁query", ":", "4", "2", "a", "e"]  # fmt: skip
    pieces = [(word, -1.0 - number / 10) for number, word in enumerate(words)]
    return [*((name, 0.0) for name in special), *pieces, ("<mask>", 0.0)]


def hidden_of(model: PreTrainedModel, asked: dict) -> np.ndarray:
    """Return the last hidden state of the network itself, without a head."""
    with torch.no_grad():
        return model.base_model(**asked).last_hidden_state.numpy()


def write(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str,
    normalise: bool = False, **how,
) -> None:  # fmt: skip
    """Write a checkpoint, its tokens of TITLES and its vectors by sentence-transformers."""
    perturb(model.eval())
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.model_max_length = MOST
    tokenizer.save_pretrained(folder)
    transformer = modules.Transformer(str(folder), max_seq_length=MOST)
    steps = [transformer, modules.Pooling(SIZES["hidden_size"], pooling_mode=pooling)]
    sentences = SentenceTransformer(modules=[*steps, *([modules.Normalize()] * normalise)], **how)
    shutil.rmtree(folder)
    sentences.save_pretrained(str(folder), create_model_card=False)
    record(folder, model, tokenizer, sentences.encode(TITLES), prompt_of(sentences))


def prompt_of(sentences: SentenceTransformer) -> str:
    """Return what sentence-transformers writes in front of each text."""
    return sentences.prompts.get(sentences.default_prompt_name or "", "") or ""


def record(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    vectors: np.ndarray, prompt: str = "",
) -> None:  # fmt: skip
    """Write what is expected, and remove what a checkpoint does not need."""
    titles = [prompt + title for title in TITLES]
    asked = tokenizer(titles, padding=True, truncation=True, max_length=MOST, return_tensors="pt")
    real = asked["attention_mask"].numpy()
    np.savez_compressed(
        folder / "expected.npz",
        tokens=asked["input_ids"].numpy().astype(np.int32) * real,
        lengths=real.sum(1).astype(np.int32),
        hidden=hidden_of(model, asked) * real[..., None].astype(np.float32),
        vectors=vectors.astype(np.float32),
    )
    (folder / "model.safetensors").chmod(0o644)
    for path in folder.rglob("*"):
        if path.name in ("special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt"):
            path.unlink()


def make_modernbert() -> None:
    """Write a ModernBERT inside a masked language model, with blocks of both kinds."""
    tokenizer = modern_tokenizer()
    config = ModernBertConfig(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2,
        sep_token_id=3, local_attention=8, **SIZES | {"num_hidden_layers": 5},
    )  # fmt: skip
    model = ModernBertForMaskedLM(config).eval()
    perturb(model)
    folder = HERE / "modernbert"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    asked = tokenizer(TITLES, padding=True, truncation=True, max_length=MOST, return_tensors="pt")
    hidden, real = hidden_of(model, asked), asked["attention_mask"].numpy()[..., None]
    record(folder, model, tokenizer, (hidden * real).sum(1) / real.sum(1))


if __name__ == "__main__":
    torch.manual_seed(0)
    vocabulary = wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    write(
        "minilm", BertModel(BertConfig(vocab_size=len(vocabulary), **SIZES)),
        BertTokenizer(vocab=vocabulary), "mean", normalise=True,
    )  # fmt: skip
    tokenizer = roberta_tokenizer()
    config = RobertaConfig(
        vocab_size=len(tokenizer), layer_norm_eps=1e-5, type_vocab_size=1, **SIZES
    )
    write("roberta", RobertaModel(config), tokenizer, "cls")
    vocabulary = unigram()
    config = XLMRobertaConfig(
        vocab_size=len(vocabulary), layer_norm_eps=1e-5, type_vocab_size=1, **SIZES
    )
    write(
        "xlm_roberta", XLMRobertaModel(config), XLMRobertaTokenizer(vocab=vocabulary), "mean",
        normalise=True, default_prompt_name="query",
        prompts={"query": "query: ", "passage": "passage: "},
    )  # fmt: skip
    vocabulary = wordpiece(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])
    config = MPNetConfig(vocab_size=len(vocabulary), layer_norm_eps=1e-5, **SIZES)
    write("mpnet", MPNetModel(config), MPNetTokenizer(vocab=vocabulary), "lasttoken")
    make_modernbert()
