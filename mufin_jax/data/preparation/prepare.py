"""The stage `prepare`: a user's catalogue becomes a folder that training reads.

Writes (see `Dataset` for how the files are opened)
    texts.npy, text_lengths.npy     token ids int32 (t, max_tokens) of the distinct texts
    images.npy                      uint8 (i, size, size, 3), the distinct images; or
    image_vectors.npy               float32 (i, width), if the user has vectors
    text_vectors.npy                float32 (t, width), instead of tokens, if the user has vectors
    records/                        the items as a TensorFlow Dataset, images as JPEG
    image_homes.npy                 int64 (i, 3): split, record and position of each image there
    {train,test,label}_items.npz    text, image_offsets, image_rows of each item
    {train,test,label}_{ids,titles}.npz
    {train,test}_{relevance,filter}.npz    CSR of points x labels
    train_held_out.npz, validation.npz, validation_filter.npz    with a validation share
    label_categories.npz, questions.npz, ceiling.json      if the catalogue has them
    label_fields.npz                fields of labels for filters, if the user keeps some
    tokenizer.json, prepare_report.json, records.json, and finally manifest.json
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import numpy as np

from mufin_jax.data import images as pictures
from mufin_jax.data import kept_fields
from mufin_jax.data.manifest import MANIFEST, RECORDS_CHECKSUMS, save_manifest
from mufin_jax.data.preparation.beam import Beam
from mufin_jax.data.preparation.cold_split import drop_test_products
from mufin_jax.data.preparation.config import PrepareConfig
from mufin_jax.data.preparation.findings import warn_of
from mufin_jax.data.preparation.items import (
    ItemRecords,
    compact,
    image_homes,
    save_categories,
    save_pairs,
)
from mufin_jax.data.preparation.label_fields import save_kept_fields
from mufin_jax.data.preparation.overlap import overlap_filter
from mufin_jax.data.preparation.ready import ready_images
from mufin_jax.data.preparation.records import write_records
from mufin_jax.data.preparation.report import as_rows, facts_of, pair_facts, screen, warnings_of
from mufin_jax.data.preparation.resize import Bag, Wanted, copy_vectors, resize_images
from mufin_jax.data.preparation.resize_beam import BeamWorker
from mufin_jax.data.preparation.resize_one import Worker, resize_in_threads
from mufin_jax.data.preparation.spool import JpegSpool
from mufin_jax.data.preparation.texts import write_all_texts
from mufin_jax.data.preparation.validation import save_validation
from mufin_jax.data.readers.catalogue import SIDES, Catalogue
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.forms import load_catalogue, load_ceiling
from mufin_jax.data.readers.tally import Fact, Tally
from mufin_jax.data.validation import FILTER, HELD_OUT, POINTS
from mufin_jax.encoders.processing import ImageProcessing
from mufin_jax.runtime.errors import DiskError, InputError, TooManyBadRows
from mufin_jax.runtime.storage.disk import filling
from mufin_jax.runtime.storage.files import save_array, save_json
from mufin_jax.runtime.storage.fingerprint import (
    Fingerprint,
    fingerprint,
    load_sources,
    save_sources,
)
from mufin_jax.runtime.storage.paths import Given, user_path

REPORT = "prepare_report.json"
REJECTED = "prepare_rejected.json"
"""The report of a preparation that stopped because too much of the data was bad."""
_FILES = (
    *("texts.npy", "text_lengths.npy", "text_vectors.npy", "tokenizer.json", REPORT),
    *("images.npy", "image_vectors.npy", "image_homes.npy"),
    *(f"{side}_{part}.npz" for side in SIDES for part in ("items", "ids", "titles")),
    *(f"{side}_{part}.npz" for side in SIDES[:2] for part in ("relevance", "filter")),
    *("label_categories.npz", "questions.npz", "ceiling.json"),
    *(HELD_OUT, POINTS, FILTER, kept_fields.FILE),
)
_log = logging.getLogger(__name__)
_SPOOL = "images.spool"


def prepare(
    config: PrepareConfig, source: Given, out: Given, processing: ImageProcessing | None = None
) -> None:
    """Read the catalogue in `source` and write the prepared folder `out`.

    The same input gives the same bytes, except for the records. A folder without a manifest is
    unfinished: preparation starts again. A finished folder is prepared again too.

    Args:
        config: the settings.
        source: a folder in one of the forms of `readers`, or a file of products.
        out: the output folder; its other files are left alone.
        processing: a checkpoint's own preprocessing, instead of the config's image fields.

    Raises:
        InputError: if the source as a whole is unusable.
        TooManyBadRows: if a larger share of the source is bad than `config.max_bad`.
        DiskError: if the disk is full, read-only or failing.
    """
    source, out = user_path(source), user_path(out)
    if out.resolve() == source.resolve():
        raise InputError(f"{out} is both the catalogue and the output: name another output folder")
    beam = Beam(config.beam_runner, config.beam_options) if config.beam_runner else None
    tally, columns = Tally(config.max_bad), config.parsed_columns
    out = out.absolute()  # Beam's workers have another working directory
    try:
        # An earlier preparation stays until the new catalogue has been read.
        catalogue = load_catalogue(
            source, tally, config.max_images, config.max_bytes, columns, config.images,
            config.test_share,
        )  # fmt: skip
        ceiling, left_out = load_ceiling(source), {}
        if config.split == "cold":  # the ceiling is that of a test with all labels
            ceiling, left_out = None, drop_test_products(catalogue)
        worker = (
            resize_in_threads
            if beam is None
            else BeamWorker(beam, SourceFolder(source, columns, config.images))
        )
        with filling(out, functools.partial(_clear, out)):
            out.mkdir(parents=True, exist_ok=True)
            _clear(out)
            _write(
                config, catalogue, processing or config.processing, out, tally, ceiling,
                left_out, worker, beam, fingerprint(source, catalogue.files),
            )  # fmt: skip
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out} is not a folder: name another output folder") from None
    except TooManyBadRows as error:
        with contextlib.suppress(OSError, DiskError):
            out.mkdir(parents=True, exist_ok=True)
            save_json(out / REJECTED, tally.as_dict())
            raise TooManyBadRows(f"{error}; {out / REJECTED} lists them") from None
        raise


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
    source: Fingerprint,
) -> None:
    spool, bags = _bags(config, catalogue, processing, out, tally, worker)
    text, num_texts, prompt, cut = write_all_texts(config, catalogue, bags, out, tally)
    items = {name: compact(catalogue, name, bags[name], text[name]) for name in SIDES}
    for name in SIDES:
        items[name].save(out, name)
    if spool is not None:
        save_array(out / "image_homes.npy", image_homes(items))
    save_categories(catalogue, out)
    kept = save_kept_fields(catalogue, config.keep, out)
    if catalogue.questions is not None:
        kept = (catalogue.sides[name].kept for name in ("test", "label"))
        catalogue.questions.compact(*kept).save(out / "questions.npz")
    overlap, filters = overlap_filter(catalogue, config.filter)
    counts = {name: len(items[name]) for name in SIDES}
    counts |= save_pairs(catalogue, filters, out)
    if config.validation_share:
        counts |= save_validation(out, config.validation_share, catalogue.questions is not None)
    counts["texts"] = num_texts
    rows = "image_vectors.npy" if spool is None else "image_homes.npy"
    counts["images"] = len(np.load(out / rows, mmap_mode="r", allow_pickle=False))
    if config.records:
        splits = {name: ItemRecords(out, name, spool) for name in SIDES if counts[name]}
        write_records(splits, out / "records", beam)
    if spool is not None:
        spool.remove()
    if ceiling is not None:
        save_json(out / "ceiling.json", ceiling)
    warn_of(catalogue, items, counts, cut, config.max_tokens, tally)
    facts = [*facts_of(catalogue, items, counts, tally), cut]
    facts += [*pair_facts(catalogue, items, filters), *kept]
    tally.warnings += warnings_of(facts, catalogue.questions is not None)
    report = {"form": catalogue.form, "kept": counts} | left_out | tally.as_dict()
    save_json(out / REPORT, report | {"summary": as_rows(facts)})
    _tell(facts, tally, out / REPORT)
    content = {
        "form": catalogue.form,
        "counts": counts,
        "processing": dataclasses.asdict(processing),
        "max_tokens": config.max_tokens,
        "prompt": prompt,
        "filter": overlap,
        # The runner does not change the result.
        "config": {n: own for n, own in config.recorded() if not n.startswith("beam_")},
    }
    save_sources(out, load_sources(out) | {"data": source})
    save_manifest(out, content, [name for name in _FILES if (out / name).is_file()])


def _tell(facts: list[Fact], tally: Tally, path: Path) -> None:
    """Log the summary, then the warnings."""
    for line in screen(facts):
        _log.info("%s", line)
    for warning in tally.warnings:
        _log.warning("%s", warning)
    if tally.counts:
        _log.warning("%s; see %s", tally.summary(), path)


def _clear(out: Path) -> None:
    """Remove what an earlier preparation left, the manifest first."""
    for name in (MANIFEST, RECORDS_CHECKSUMS, REJECTED, *_FILES):
        (out / name).unlink(missing_ok=True)
    for name in ("records", _SPOOL):
        shutil.rmtree(out / name, ignore_errors=True)


def _bags(
    config: PrepareConfig,
    catalogue: Catalogue,
    processing: ImageProcessing,
    out: Path,
    tally: Tally,
    worker: Worker,
) -> tuple[JpegSpool | None, dict[str, Bag]]:
    """Write the pictures or their vectors; return the JPEGs, if any, and the rows of each item."""
    vectors = out / "image_vectors.npy"
    if config.image_vectors is not None:
        given = Path(config.image_vectors)
        return None, ready_images(given, catalogue, vectors, tally, config.max_images)
    if catalogue.vectors:
        return None, copy_vectors(catalogue, vectors, tally)
    spool = JpegSpool(out / _SPOOL)
    return spool, _images(config, catalogue, processing, out, tally, spool, worker)


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
    wanted = Wanted(
        out / "images.npy", config.image_array_gb * 1e9, config.records, config.missing_rows,
        config.max_bytes,
    )  # fmt: skip
    return resize_images(catalogue, read, processing.size, tally, wanted, spool, worker)
