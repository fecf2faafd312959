"""What the model is made of.

Importing this file imports every encoder: the options of the command are the fields of their
configs. `encoders/registry.py` alone imports none.
"""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.registry import configs, is_joint, name_of
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import settle_paths

Modalities = Literal["both", "text", "images", "joint"]
CrossAttention = Literal["attention", "concat", "none", "residual"]

if TYPE_CHECKING:
    from mufin_jax.encoders.interface import EncoderConfig as ImageConfig
    from mufin_jax.encoders.interface import TextConfig
else:  # of any encoder in the table; the options are the fields of the default's kind
    ImageConfig = Annotated[configs("image"), tyro.conf.AvoidSubcommands]
    TextConfig = Annotated[configs("text"), tyro.conf.AvoidSubcommands]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What the model is made of; the defaults are the paper's.

    Attributes:
        dim: D, the width of every embedding.
        heads: attention heads of A_S and of A_C; must divide dim.
        modalities: what the model sees of an item: both, its text, or its images; or both through a
            joint encoder, to which E_V's vectors of the images are tokens: one descriptor an item.
        label_images: whether the labels' pictures are seen; without them, labels are text alone.
        reduce: how 768 entries become D: adaptive max-pooling; a learned linear map; or a learned
            map with a hidden layer, of vectors without their mean, for frozen encoders.
        reduce_hidden: the width of that hidden layer.
        self_attention: A_S, or none: X1 = X0 (table 4).
        cross_attention: A_C; [x1; z1] through two linear maps; or none: x2_l = x1 (table 4); or
            residual: A_C without its norm and with O = 0 at first, which starts at x2_l = x1.
            Module III makes it: runs that differ in it share Modules I and II.
        image: E_V, when it is trained from scratch; the type of the config names the encoder.
        text: E_T, when it is trained from scratch; its vocabulary is the tokenizer's.
        image_checkpoint: weights for E_V to start from: a local directory or a name on the hub.
            Its config.json names the encoder and its sizes.
        text_checkpoint: weights for E_T to start from, named in the same way, with their tokenizer.
    """

    dim: int = 192
    heads: int = 1
    modalities: Modalities = "both"
    label_images: bool = True
    reduce: Literal["max_pool", "linear", "hidden"] = "max_pool"
    reduce_hidden: int = 512
    self_attention: Literal["attention", "none"] = "attention"
    cross_attention: CrossAttention = "attention"
    image: ImageConfig = dataclasses.field(default_factory=ViTConfig.base_32)
    text: TextConfig = dataclasses.field(default_factory=DistilBertConfig.base)
    image_checkpoint: str | None = None
    text_checkpoint: str | None = None

    def __post_init__(self) -> None:
        """Reject widths that no attention block can have."""
        settle_paths(self, "model.", names=True, fields=["image_checkpoint", "text_checkpoint"])
        if self.dim < 1 or self.heads < 1 or self.dim % self.heads:
            raise InputError(
                f"model.dim={self.dim} with model.heads={self.heads}: heads must divide dim; "
                "choose, say, --model.heads=1"
            )
        if self.reduce_hidden < 1:
            raise InputError(f"model.reduce_hidden={self.reduce_hidden}: expected at least 1")
        if self.modalities == "images" and not self.label_images:
            raise InputError(
                "model.modalities=images without model.label_images leaves labels empty; choose "
                "--model.modalities=both"
            )
        if self.text_checkpoint is None:  # else its config.json specifies the encoder
            check_joint(self)


def check_joint(config: ModelConfig) -> None:
    """Reject a text encoder that does not fit what the model sees."""
    joint = config.modalities == "joint"
    if config.modalities != "images" and is_joint(config.text) != joint:
        named = config.text_checkpoint or f"{name_of(config.text)}, model.text's kind,"
        kind = "a text alone" if joint else "a text and its pictures as one"
        raise InputError(
            f"model.modalities={config.modalities}, but {named} encodes {kind}; choose "
            f"--model.modalities={'both' if joint else 'joint'}, or another text encoder"
        )
