"""Networks that turn pixels or token ids into one vector for each picture or text.

Each architecture is one file: its config, its module and its table of checkpoint names.
`registry.py` lists them, `pretrained.py` loads checkpoints. No encoder knows of bags or labels.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.encoders.freezing import trainable
    from mufin_jax.encoders.interface import ImageEncoder, JointEncoder, TextEncoder
    from mufin_jax.encoders.pretrained import (
        image_processing,
        load_image_encoder,
        load_text_encoder,
    )
    from mufin_jax.encoders.processing import ImageProcessing
    from mufin_jax.encoders.registry import ENCODERS, EncoderKind, find, new_encoder, of_checkpoint

__all__ = [
    "ENCODERS",
    "EncoderKind",
    "ImageEncoder",
    "ImageProcessing",
    "JointEncoder",
    "TextEncoder",
    "find",
    "image_processing",
    "load_image_encoder",
    "load_text_encoder",
    "new_encoder",
    "of_checkpoint",
    "trainable",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "freezing": ["trainable"],
        "interface": ["ImageEncoder", "JointEncoder", "TextEncoder"],
        "pretrained": ["image_processing", "load_image_encoder", "load_text_encoder"],
        "processing": ["ImageProcessing"],
        "registry": ["ENCODERS", "EncoderKind", "find", "new_encoder", "of_checkpoint"],
    },
)
