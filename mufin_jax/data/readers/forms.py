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
from mufin_jax.runtime.storage.paths import gone_link
from mufin_jax.runtime.storage.text import load_text

# Vectors come first: their folder may also hold the repository's titles.
READERS = (vectors, repository, product_files, outfits)
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst")
_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
_FILES = ("products.*", "meta_*.json*", "metadata.json*", "trn.*", "tst.*", "lbl.*", "???_X_Y.txt",
          "*.raw.txt*", "filter_labels_*.txt", "polyvore_item_metadata.json")  # fmt: skip
"""The files of catalogues, but for pictures and vectors."""


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
    if not path.is_dir() and not product_files.is_product_file(path):
        raise InputError(absent_data(path))
    source = SourceFolder(path, columns, pictures, test_share)
    for reader in READERS:
        if source.file is not None and reader is not product_files:
            continue
        if reader.recognises(source):
            if source.columns.given and reader is not product_files:
                raise InputError(
                    f"{path} has the form {reader.FORM}, which has no columns to name: leave "
                    "--prepare.columns out"
                )
            if source.columns.keep and reader is not product_files:
                raise InputError(
                    f"{path} has the form {reader.FORM}, which has no fields to keep: leave "
                    "--prepare.keep out"
                )
            if source.test_share is not None and reader is not product_files:
                raise InputError(
                    f"{path} has the form {reader.FORM}, which has test points of its own: leave "
                    "--prepare.test-share out"
                )
            source.used.clear()  # of what other readers have looked for
            catalogue = reader.read(source, tally, max_images, max_bytes)
            tally.check()
            if source.file is None and (warning := _unread(source)):
                tally.warnings.append(warning)
            return dataclasses.replace(catalogue, files=sorted(source.used))
    found = sorted(entry.name for entry in source.path.iterdir())
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise InputError(
        f"{path} holds {shown or 'nothing'}: expected raw_data/{{train,test,label}}.raw.txt with "
        "{trn,tst}_X_Y.txt, or {trn,tst,lbl}.raw.txt with <split>_embs_imgs_*.npy, "
        "or products.jsonl (.json, .csv, .tsv, .parquet, .gz), or {trn,tst,lbl}.jsonl, "
        f"or polyvore_item_metadata.json{_hint(source, found)}"
    )


def absent_data(path: Path) -> str:
    """Return why a path is neither a folder nor a file of products, and what is expected."""
    if not path.exists():
        return gone_link(path) or f"{path}: no such folder, nor a file of products such as .csv"
    ending = path.suffix.lower()
    if ending in _ARCHIVES:
        return f"{path} is an archive: unpack it, and name the folder"
    if ending in _WORKBOOKS:
        return f"{path} is a workbook: export its sheet as CSV"
    endings = ", ".join(product_files.ROWS)
    return f"{path} is another kind of file: expected a folder, or a file of products ({endings})"


def _unread(source: SourceFolder) -> str:
    """Return a warning of files that look like a catalogue's, and that the reader has not read."""
    found = {path.name for form in _FILES for path in source.path.glob(form) if path.is_file()}
    found |= {f"raw_data/{path.name}" for path in (source.path / "raw_data").glob("*.raw.txt*")}
    left = sorted(name for name in found - source.used if _is_read(name))
    if not left:
        return ""
    verb, used = "is" if len(left) == 1 else "are", sorted(source.used & found)
    return (
        f"{', '.join(left[:6])}{', ...' if len(left) > 6 else ''} {verb} not read, as "
        f"{', '.join(used[:6])} {'is' if len(used) == 1 else 'are'}: remove what is not needed, or "
        "name one file by --data=FILE"
    )


def _is_read(name: str) -> bool:
    """Return whether a file's name ends like one that a reader reads."""
    return name.endswith((*product_files.ROWS, ".txt", ".txt.gz"))


def _hint(source: SourceFolder, found: list[str]) -> str:
    """Return what to do about a folder of no known form, if its files tell."""
    for name in found:
        if Path(name).suffix.lower() in _WORKBOOKS:
            return f"; export the sheet of {name} as CSV"
        if Path(name).suffix.lower() in _ARCHIVES:
            return f"; unpack {name}"
    stems = {name.partition(".")[0] for name in found if _is_read(name)}
    if "trn" in stems and "lbl" not in stems:
        return "; lbl.jsonl is missing: the labels, one a line"
    folders = [path for path in sorted(source.path.iterdir()) if path.is_dir()][:50]
    for folder in folders:
        if any(reader.recognises(SourceFolder(folder)) for reader in READERS):
            return f"; is the catalogue {source.path.name}/{folder.name}?"
    return ""


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
