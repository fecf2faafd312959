"""The forms of catalogues: find out which one a folder has, and load it."""

import dataclasses
import json
from pathlib import Path

from mufin_jax.data.readers import outfits, product_files, repository, vectors
from mufin_jax.data.readers.catalogue import Catalogue
from mufin_jax.data.readers.fields import Columns
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage.text import load_text

# Vectors come first: their folder may also hold the repository's titles.
READERS = (vectors, repository, product_files, outfits)


def load_catalogue(
    path: Path,
    tally: Tally,
    max_images: int,
    max_bytes: int,
    columns: Columns | None = None,
    pictures: Path | None = None,
    test_share: float | None = None,
) -> Catalogue:
    """Recognise the form of a folder by its files, and load the catalogue.

    Args:
        path: the folder, or the one file that has all products.
        tally: takes unusable rows.
        max_images: the most images of an item; further images are left out.
        max_bytes: the largest encoded image.
        columns: which fields of products are read.
        pictures: another folder for the pictures that the data folder lacks.
        test_share: the share of products that become test points, if the user names one.

    Raises:
        InputError: if no reader knows the form, or the files do not fit together.
        TooManyBadRows: if more lines are unusable than the tally tolerates.
    """
    source = SourceFolder(path, columns, pictures, test_share)
    if source.file is not None and not product_files.recognises(source):
        raise InputError(f"{path}: expected a folder, or a file {' or '.join(product_files.ROWS)}")
    for reader in READERS:
        if source.file is not None and reader is not product_files:
            continue
        if reader.recognises(source):
            if source.columns.given and reader is not product_files:
                raise InputError(
                    f"{path} has the form {reader.FORM}, which has no columns to name: leave "
                    "--prepare.columns out"
                )
            if source.test_share is not None and reader is not product_files:
                raise InputError(
                    f"{path} has the form {reader.FORM}, which has test points of its own: leave "
                    "--prepare.test-share out"
                )
            source.used.clear()  # of what other readers have looked for
            catalogue = reader.read(source, tally, max_images, max_bytes)
            tally.check()
            return dataclasses.replace(catalogue, files=sorted(source.used))
    found = sorted(entry.name for entry in source.path.iterdir())
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise InputError(
        f"{path} holds {shown or 'nothing'}: expected raw_data/{{train,test,label}}.raw.txt with "
        "{trn,tst}_X_Y.txt, or {trn,tst,lbl}.raw.txt with <split>_embs_imgs_*.npy, "
        "or products.jsonl (.json, .csv, .tsv, .parquet, .gz), or {trn,tst,lbl}.jsonl, "
        "or polyvore_item_metadata.json"
    )


def load_ceiling(path: Path) -> dict[str, float] | None:
    """Return the best reachable scores in percent, or None if there is no ceiling.json.

    Whoever generates a catalogue can write this file. Its remarks (strings) are left out.

    Raises:
        InputError: if the file is not an object of numbers.
    """
    file = SourceFolder(path).find("ceiling.json")
    if file is None:
        return None
    try:
        found = json.loads(load_text(file)).items()
        return {name: float(score) for name, score in found if not isinstance(score, str)}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f'{file} is invalid ({error}): expected {{"P@1": percent}}') from None
