"""The stage `prepare`: a user's catalogue becomes a folder that training reads.

Writes (see `Dataset` for how the files are opened)
    texts.npy, text_lengths.npy     token ids int32 (t, max_tokens) of the distinct texts
    images.npy                      uint8 (i, size, size, 3), the distinct images; or
    image_vectors.npy               float32 (i, width), if the user has vectors
    records/                        the items as a TensorFlow Dataset, images as JPEG
    image_homes.npy                 int64 (i, 3): split, record and position of each image there
    {train,test,label}_items.npz    text, image_offsets, image_rows of each item
    {train,test,label}_{ids,titles}.npz
    {train,test}_{relevance,filter}.npz    CSR of points x labels
    train_held_out.npz, validation.npz, validation_filter.npz    with a validation share
    label_categories.npz, questions.npz, ceiling.json      if the catalogue has them
    tokenizer.json, prepare_report.json, records.json, and finally manifest.json
"""

import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import numpy as np

from mufin_jax.data import images as pictures
from mufin_jax.data.manifest import MANIFEST, RECORDS_CHECKSUMS, save_manifest
from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.preparation.cold_split import Split, drop_test_products
from mufin_jax.data.preparation.items import (
    ItemRecords,
    compact,
    distinct_texts,
    drop_empty,
    image_homes,
    save_categories,
    save_pairs,
    train_tokenizer,
)
from mufin_jax.data.preparation.overlap import Overlap, overlap_filter
from mufin_jax.data.preparation.records import write_records
from mufin_jax.data.preparation.resize import Bag, Wanted, copy_vectors, resize_images
from mufin_jax.data.preparation.resize_beam import BeamWorker
from mufin_jax.data.preparation.resize_one import Worker, resize_in_threads
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.preparation.validation import save_validation
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.forms import load_catalogue, load_ceiling
from mufin_jax.data.readers.tally import Tally
from mufin_jax.data.tokenizer import Tokenizer, write_texts
from mufin_jax.data.validation import FILTER, HELD_OUT, POINTS
from mufin_jax.encoders.processing import Fit, ImageProcessing, Resample
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.disk import filling
from mufin_jax.runtime.storage.files import save_array, save_json

REPORT = "prepare_report.json"
_FILES = (
    *("texts.npy", "text_lengths.npy", "tokenizer.json", REPORT),
    *("images.npy", "image_vectors.npy", "image_homes.npy"),
    *(f"{side}_{part}.npz" for side in SIDES for part in ("items", "ids", "titles")),
    *(f"{side}_{part}.npz" for side in SIDES[:2] for part in ("relevance", "filter")),
    *("label_categories.npz", "questions.npz", "ceiling.json"),
    *(HELD_OUT, POINTS, FILTER),
)
_log = logging.getLogger(__name__)
_SPOOL = "images.spool"


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
    max_bytes: int = pictures.MAX_BYTES
    """Pictures whose file is larger are left out."""
    max_pixels: int = pictures.MAX_PIXELS
    """Pictures with more pixels are left out, before they are decoded."""
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
    validation_share: float = 0.0
    """Share of the training points that do not train: best steps and weights are selected by them.
    Half of those that are labels are made cold."""
    max_bad: float = 0.05
    """The largest tolerated share of bad lines, or of broken images."""
    beam_runner: str | None = None
    """Apache Beam runner for the work, such as FlinkRunner; by default, this process does it."""
    beam_options: tuple[str, ...] = ()
    """The runner's own options, each name=value."""

    def __post_init__(self) -> None:
        """Reject impossible values."""
        for name in ("max_images", "max_bytes", "max_pixels", "vocab_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.vocab_size < 64:
            raise InputError(f"vocab_size is {self.vocab_size}: expected at least 64")
        if self.max_tokens < 3:
            raise InputError(f"max_tokens is {self.max_tokens}: expected at least 3, one a word")
        if not 0 <= self.max_bad < 1:
            raise InputError(f"max_bad is {self.max_bad}: expected a share from 0 to below 1")
        if self.image_array_gb < 0:
            raise InputError(f"image_array_gb is {self.image_array_gb}: expected 0 or more")
        if self.image_array_gb == 0 and not self.records:
            raise InputError("image_array_gb=0 and records=False leave no pictures: allow one")
        if self.filter not in ("given", "self", "reciprocal"):
            raise InputError(f"filter is {self.filter!r}: expected given, self or reciprocal")
        if self.split not in ("given", "cold"):
            raise InputError(f"split is {self.split!r}: expected given or cold")
        if not 0 <= self.validation_share <= 0.5:
            raise InputError(
                f"validation_share is {self.validation_share}: expected a share from 0 to 0.5"
            )
        _ = self.processing

    @property
    def processing(self) -> ImageProcessing:
        """The image fields as the encoder's settings; InputError if they are invalid."""
        return ImageProcessing(self.image_size, self.fit, self.resample, self.mean, self.std)


def prepare(
    config: PrepareConfig, source: Path, out: Path, processing: ImageProcessing | None = None
) -> None:
    """Read the catalogue in `source` and write the prepared folder `out`.

    The same input gives the same bytes, except for the records. A folder without a manifest is
    unfinished: preparation starts again. A finished folder is prepared again too.

    Args:
        config: the settings.
        source: a folder in one of the forms of `readers`.
        out: the output folder; its other files are left alone.
        processing: a checkpoint's own preprocessing, instead of the config's image fields.

    Raises:
        InputError: if the source as a whole is unusable.
        TooManyBadRows: if a larger share of the source is bad than `config.max_bad`.
        DiskError: if the disk is full, read-only or failing.
    """
    source, out = Path(source), Path(out)
    if out.resolve() == source.resolve():
        raise InputError(f"{out} is both the catalogue and the output: name another output folder")
    beam = Beam(config.beam_runner, config.beam_options) if config.beam_runner else None
    tally = Tally(config.max_bad)
    # An earlier preparation stays until the new catalogue has been read.
    catalogue = load_catalogue(source, tally, config.max_images, config.max_bytes)
    ceiling, left_out = load_ceiling(source), {}
    if config.split == "cold":  # the ceiling is that of a test with all labels
        ceiling, left_out = None, drop_test_products(catalogue)
    worker = resize_in_threads if beam is None else BeamWorker(beam, SourceFolder(source))
    out = out.absolute()  # Beam's workers have another working directory
    try:
        with filling(out, functools.partial(_clear, out)):
            out.mkdir(parents=True, exist_ok=True)
            _clear(out)
            _write(
                config, catalogue, processing or config.processing, out, tally, ceiling,
                left_out, worker, beam,
            )  # fmt: skip
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out} is not a folder: name another output folder") from None


def _write(
    config: PrepareConfig,
    catalogue: Catalogue,
    processing: ImageProcessing,
    out: Path,
    tally: Tally,
    ceiling: dict[str, float] | None,
    left_out: dict[str, dict[str, int]],
    worker: Worker,
    beam: Beam | None,
) -> None:
    if catalogue.vectors:
        spool, bags = None, copy_vectors(catalogue, out / "image_vectors.npy")
    else:
        spool = JpegSpool(out / _SPOOL)
        bags = _images(config, catalogue, processing, out, tally, spool, worker)
    drop_empty(catalogue, bags, tally)
    texts, text = distinct_texts(catalogue)
    prompt = _tokenize(config, catalogue, texts, out)
    items = {name: compact(catalogue, name, bags[name], text[name]) for name in SIDES}
    for name in SIDES:
        items[name].save(out, name)
    if not catalogue.vectors:
        save_array(out / "image_homes.npy", image_homes(items))
    save_categories(catalogue, out)
    if catalogue.questions is not None:
        kept = (catalogue.sides[name].kept for name in ("test", "label"))
        catalogue.questions.compact(*kept).save(out / "questions.npz")
    overlap, filters = overlap_filter(catalogue, config.filter)
    counts = {name: len(items[name]) for name in SIDES}
    counts |= save_pairs(catalogue, filters, out)
    if config.validation_share:
        counts |= save_validation(out, config.validation_share, catalogue.questions is not None)
    counts["texts"] = len(texts)
    rows = "image_vectors.npy" if catalogue.vectors else "image_homes.npy"
    counts["images"] = len(np.load(out / rows, mmap_mode="r", allow_pickle=False))
    if config.records:
        splits = {name: ItemRecords(out, name, spool) for name in SIDES}
        write_records(splits, out / "records", beam)
    if spool is not None:
        spool.remove()
    if ceiling is not None:
        save_json(out / "ceiling.json", ceiling)
    save_json(out / REPORT, {"form": catalogue.form, "kept": counts} | left_out | tally.as_dict())
    if tally.counts:
        _log.warning("%s; see %s", tally.summary(), out / REPORT)
    later = {"split": "given", "validation_share": 0.0}  # manifests of older versions lack them
    settings = dataclasses.asdict(config)
    settings = {name: settings[name] for name in settings if settings[name] != later.get(name, ...)}
    content = {
        "form": catalogue.form,
        "counts": counts,
        "processing": dataclasses.asdict(processing),
        "max_tokens": config.max_tokens,
        "prompt": prompt,
        "filter": overlap,
        # The runner does not change the result.
        "config": {name: settings[name] for name in settings if not name.startswith("beam_")},
    }
    save_manifest(out, content, [name for name in _FILES if (out / name).is_file()])


def _tokenize(config: PrepareConfig, catalogue: Catalogue, texts: list[str], out: Path) -> str:
    """Load or train the tokenizer, save it with the texts' tokens, and return its prompt."""
    if config.tokenizer is not None:
        tokenizer = Tokenizer.load(config.tokenizer, config.prompt)
    else:
        tokenizer = train_tokenizer(catalogue, config.vocab_size)
        tokenizer.prompt = config.prompt or ""
    tokenizer.save(out / "tokenizer.json")
    write_texts(tokenizer, texts, config.max_tokens, out)
    return tokenizer.prompt


def _clear(out: Path) -> None:
    """Remove what an earlier preparation left, the manifest first."""
    for name in (MANIFEST, RECORDS_CHECKSUMS, *_FILES):
        (out / name).unlink(missing_ok=True)
    for name in ("records", _SPOOL):
        shutil.rmtree(out / name, ignore_errors=True)


def _images(
    config: PrepareConfig,
    catalogue: Catalogue,
    processing: ImageProcessing,
    out: Path,
    tally: Tally,
    spool: JpegSpool,
    worker: Worker,
) -> dict[str, Bag]:
    read = functools.partial(
        pictures.read_image,
        processing=processing,
        max_bytes=config.max_bytes,
        max_pixels=config.max_pixels,
    )
    wanted = Wanted(out / "images.npy", config.image_array_gb * 1e9, config.records)
    return resize_images(catalogue, read, processing.size, tally, wanted, spool, worker)
