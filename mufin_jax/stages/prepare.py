"""Raw data, or built-in data, to the prepared folder that all other stages read.

Reads: the raw data folder. Writes: the prepared folder (see `data.dataset`); built-in raw data go
to `miniature/` in the run's folder first.
"""

import dataclasses
from pathlib import Path

from mufin_jax.data.preparation.prepare import PrepareConfig
from mufin_jax.data.preparation.prepare import prepare as prepare_folder
from mufin_jax.encoders.pretrained import image_processing
from mufin_jax.model.config import ModelConfig
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.context import StageContext


def prepare(config: PrepareConfig, context: StageContext) -> None:
    """Write the prepared folder. This is the one stage that computes nothing on the devices.

    With several processes, process 0 does the work.

    Raises:
        InputError: if the data are wrong.
        DiskError: if a folder cannot be written.
        Stopped: after a signal; the same call resumes.
    """
    processes.once("the data are prepared", lambda: _prepare(config, context))


def with_tokenizer(config: PrepareConfig, model: ModelConfig) -> PrepareConfig:
    """Return the settings of preparation; a text checkpoint brings its own tokenizer."""
    without = model.text_checkpoint is None or model.modalities == "images"
    if config.tokenizer or config.text_vectors or without:
        return config
    return dataclasses.replace(config, tokenizer=model.text_checkpoint)


def _prepare(config: PrepareConfig, context: StageContext) -> None:
    source, processing = context.source, None
    if not isinstance(source, Path) and source.PREPARED:
        if config.validation_share:
            raise InputError(
                f"prepare.validation_share={config.validation_share}: built-in data without raw "
                "files have no validation part; expected 0"
            )
        source.write(context.out)
        return
    if context.model.image_checkpoint:
        processing = image_processing(context.model.image_checkpoint)
    if not isinstance(source, Path):
        source.write(context.invented)
        source = context.invented
    prepare_folder(with_tokenizer(config, context.model), source, context.out, processing)
