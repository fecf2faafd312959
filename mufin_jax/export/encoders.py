"""The encoders of an export under the names of Hugging Face, with tokenizer and processor."""

import shutil
from pathlib import Path

from mufin_jax.encoders.outwards import can_save, savable, save_checkpoint
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.storage.files import save_json

_SPECIAL = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
}
"""Special tokens, as the tokenizers of BERT and of RoBERTa name them."""


def save_encoders(predictor: Predictor, folder: Path) -> None:
    """Write `text/` and `image/`, each a checkpoint that `transformers` loads.

    Args:
        predictor: whose model they are of.
        folder: is made.

    Raises:
        ValueError: if there is a `problem`.
    """
    model, dataset = predictor.model, predictor.dataset
    folder.mkdir()
    if model.text_encoder is not None:
        save_checkpoint(model.text_encoder, folder / "text")
        shutil.copyfile(dataset.path / "tokenizer.json", folder / "text" / "tokenizer.json")
        known = dataset.tokenizer.backend.get_vocab()
        special = {
            role: name for role, names in _SPECIAL.items() for name in names if name in known
        }
        save_json(
            folder / "text" / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": int(dataset.texts.shape[1]),
                **special,
            },
        )
    if model.image_encoder is not None:
        save_checkpoint(model.image_encoder, folder / "image")
        save_json(folder / "image" / "preprocessor_config.json", dataset.processing.to_hf())


def problem(predictor: Predictor) -> str | None:
    """Return why the encoders cannot be written, or None."""
    model = predictor.model
    encoders = [one for one in (model.text_encoder, model.image_encoder) if one is not None]
    strange = [one for one in encoders if not can_save(one)]
    if not strange:
        return None
    return (
        f"--encoders: no form for Hugging Face of {type(strange[0]).__name__}; expected encoders "
        f"of the kinds {', '.join(savable())}: leave --encoders out"
    )
