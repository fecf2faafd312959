"""Checkpoints and tokenizers are checked before the first stage: a wrong one ends a run at once."""

import dataclasses

from mufin_jax.data.preparation.prepare import PrepareConfig
from mufin_jax.data.tokenizer_trial import load_tried
from mufin_jax.encoders.pretrained import check_checkpoint, image_processing
from mufin_jax.model.config import ModelConfig, check_joint
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.prepare import with_tokenizer


def check_checkpoints(prepare: PrepareConfig, model: ModelConfig) -> None:
    """Check all files that a run reads of the checkpoints that it names, but for the weights.

    Names and shapes of the weights are compared with config.json; no weight is read.

    Args:
        prepare: The settings of preparation.
        model: Names the checkpoints.

    Raises:
        InputError: A file is missing, unreadable, or doesn't fit the others or the settings.
    """
    for kind in ("image", "text"):
        ready, named = getattr(prepare, f"{kind}_vectors"), getattr(model, f"{kind}_checkpoint")
        if ready and named:
            raise InputError(
                f"--prepare.{kind}-vectors={ready} with --model.{kind}-checkpoint={named}: ready "
                "vectors need no encoder; leave one of the two out"
            )
    if model.image_checkpoint and model.modalities != "text":
        check_checkpoint(model.image_checkpoint, "image")
        image_processing(model.image_checkpoint)
    if model.modalities == "images":
        return
    prepare = with_tokenizer(prepare, model)
    tokenizer = None
    if prepare.tokenizer:
        tokenizer = load_tried(prepare.tokenizer, prepare.prompt, prepare.max_tokens)
    if model.text_checkpoint is None:
        return
    text = check_checkpoint(model.text_checkpoint, "text", model.modalities == "joint")
    model = dataclasses.replace(model, text=text)
    check_joint(model)
    if tokenizer is not None and (found := tokenizer.vocab_size) > model.text.vocab:
        raise InputError(
            f"the tokenizer {prepare.tokenizer} knows {found} tokens, but {model.text_checkpoint} "
            f"embeds {model.text.vocab}; set --prepare.tokenizer={model.text_checkpoint}"
        )
    if prepare.max_tokens > (most := model.text.max_positions):
        raise InputError(
            f"--prepare.max-tokens={prepare.max_tokens}, but {model.text_checkpoint} takes texts "
            f"of at most {most} tokens; set --prepare.max-tokens={most}"
        )
