"""`PrepareConfig`: the settings of the stage `prepare`."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mufin_jax.data import images as pictures
from mufin_jax.data.preparation.cold_split import Split
from mufin_jax.data.preparation.overlap import Overlap
from mufin_jax.data.readers.field_values import parse_keep
from mufin_jax.data.readers.fields import Columns
from mufin_jax.encoders.processing import Fit, ImageProcessing, Resample
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.paths import settle_paths


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """How a catalogue is prepared."""

    image_size: int = 224
    """Height and width of the prepared pictures, in pixels."""
    fit: Fit = "pad"
    """pad: keep the proportions, on white; stretch: resize both sides to the image size; crop:
    keep the proportions and the middle."""
    resample: Resample = "bilinear"
    """The filter that resizes pictures."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Subtracted from each channel before the encoder, on the scale 0 to 1."""
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Divides each channel after that."""
    max_images: int = 15
    """The most images of an item; the first ones are kept."""
    images: Path | None = None
    """A folder for the pictures that the data folder lacks, or links to."""
    columns: tuple[str, ...] = ()
    """Other names of the fields of products: id=NAME, title=NAME, images=NAME, related=NAME,
    category=NAME; texts=NAME,NAME: fields that are further texts of an item, such as its
    description; and separator=TEXT, between the values of a list in one cell."""
    keep: tuple[str, ...] = ()
    """Fields of labels that are kept for filters, such as category price; NAME:number or NAME:text
    where the values do not tell."""
    max_bytes: int = pictures.MAX_BYTES
    """Pictures whose file is larger are left out."""
    max_pixels: int = pictures.MAX_PIXELS
    """Pictures with more pixels are left out, before they are decoded."""
    missing_rows: float = 0.0
    """Largest share of the rows of a JPEG that may be missing at its end, as after a download that
    broke off; they are filled, and the report counts such pictures. 0: they are broken."""
    image_array_gb: float = 32.0
    """Above this size, decoded pictures are not stored and training decodes the records."""
    records: bool = True
    """Whether to also write the TensorFlow Dataset of array records."""
    tokenizer: str | None = None
    """Checkpoint (folder or hub name) or tokenizer.json; by default, train one on the titles."""
    prompt: str | None = None
    """Stands in front of every title: a text such as "query: ", or the name of one of the
    tokenizer's checkpoint's prompts; by default, the checkpoint's own default prompt."""
    vocab_size: int = 8192
    """The most tokens of a trained tokenizer."""
    max_tokens: int = 32
    """Longer titles are cut; the tokens at both ends count."""
    filter: Overlap = "given"
    """Pairs left out of scoring. given: the filter files, or else reciprocal; self: each point's
    own item; reciprocal: these, and relevant test pairs whose reverse is in training."""
    split: Split = "given"
    """given: all labels; cold: without the labels that are test products, which training then has
    never seen."""
    test_share: float | None = None
    """Share of the products of a catalogue without a split that become test points: by default one
    in five; 0 trains on everything."""
    validation_share: float = 0.0
    """Share of the training points that do not train: best steps and weights are selected by them.
    Half of those that are labels are made cold."""
    text_vectors: str | None = None
    """Ready vectors of the items' titles, by item id: a folder, or one npy file with its ids next
    to it (docs/data.md). No title is then tokenized."""
    image_vectors: str | None = None
    """Ready vectors of the items' pictures, in the same form. No picture is then read."""
    max_bad: float = 0.05
    """The largest tolerated share of bad lines, or of broken images."""
    beam_runner: str | None = None
    """Apache Beam runner for the work, such as FlinkRunner; by default, this process does it."""
    beam_options: tuple[str, ...] = ()
    """The runner's own options, each name=value."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        settle_paths(self, "prepare.", fields=["images"])
        named = ["tokenizer", "text_vectors", "image_vectors"]
        settle_paths(self, "prepare.", names=True, fields=named)
        for name in ("max_images", "max_bytes", "max_pixels", "vocab_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.vocab_size < 64:
            raise InputError(f"vocab_size is {self.vocab_size}: expected at least 64")
        if self.max_tokens < 3:
            raise InputError(f"max_tokens is {self.max_tokens}: expected at least 3, one a word")
        if not 0 <= self.max_bad < 1:
            raise InputError(f"max_bad is {self.max_bad}: expected a share from 0 to below 1")
        if not 0 <= self.missing_rows <= 0.5:
            raise InputError(f"missing_rows is {self.missing_rows}: expected a share from 0 to 0.5")
        if self.image_array_gb < 0:
            raise InputError(f"image_array_gb is {self.image_array_gb}: expected 0 or more")
        if self.image_array_gb == 0 and not self.records:
            raise InputError("image_array_gb=0 and records=False leave no pictures: allow one")
        if self.filter not in ("given", "self", "reciprocal"):
            raise InputError(f"filter is {self.filter!r}: expected given, self or reciprocal")
        if self.split not in ("given", "cold"):
            raise InputError(f"split is {self.split!r}: expected given or cold")
        if self.test_share is not None and not 0 <= self.test_share <= 0.5:
            raise InputError(f"test_share is {self.test_share}: expected a share from 0 to 0.5")
        if not 0 <= self.validation_share <= 0.5:
            raise InputError(
                f"validation_share is {self.validation_share}: expected a share from 0 to 0.5"
            )
        _ = self.processing, self.parsed_columns

    def recorded(self) -> Iterator[tuple[str, Any]]:
        """Yield the settings that a manifest records: older ones lack some, at their defaults."""
        later: dict[str, Any] = {"split": "given", "validation_share": 0.0}
        later |= {"columns": (), "images": None, "text_vectors": None, "image_vectors": None}
        later |= {"missing_rows": 0.0, "test_share": None, "keep": ()}
        for name, value in dataclasses.asdict(self).items():
            if value != later.get(name, ...):
                yield name, value

    @property
    def parsed_columns(self) -> Columns:
        """The fields that are read; InputError if `columns` or `keep` is invalid."""
        keep = tuple(parse_keep(self.keep, "prepare.keep"))
        return dataclasses.replace(Columns.parse(self.columns), keep=keep)

    @property
    def processing(self) -> ImageProcessing:
        """The image fields as the encoder's settings; InputError if they are invalid."""
        return ImageProcessing(self.image_size, self.fit, self.resample, self.mean, self.std)
