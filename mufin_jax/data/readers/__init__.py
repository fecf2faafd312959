"""The forms in which catalogues come; each reader recognises its own and returns a `Catalogue`."""

import json
from pathlib import Path

from mufin_jax.data.readers import jsonlines, outfits, repository, vectors
from mufin_jax.data.readers.catalogue import SIDES, Catalogue, RawSide
from mufin_jax.data.readers.files import SourceFolder
from mufin_jax.data.readers.tally import Tally
from mufin_jax.runtime.errors import InputError

__all__ = ["READERS", "SIDES", "Catalogue", "RawSide", "read", "read_ceiling"]

# Vectors first: the repository's own titles may stand beside them.
READERS = (vectors, repository, jsonlines, outfits)


def read(path: Path, tally: Tally, max_images: int, max_bytes: int) -> Catalogue:
    """Recognises the form of a folder by its files, and reads it.

    Raises:
      InputError: if no reader knows the form, or the files do not fit together.
      TooManyBadRows: if more lines are unusable than the tally tolerates.
    """
    source = SourceFolder(path)
    for reader in READERS:
        if reader.recognises(source):
            catalogue = reader.read(source, tally, max_images, max_bytes)
            tally.check()
            return catalogue
    found = sorted(entry.name for entry in source.path.iterdir())
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise InputError(
        f"{path} holds {shown or 'nothing'}: expected raw_data/{{train,test,label}}.raw.txt with "
        "{trn,tst}_X_Y.txt, or {trn,tst,lbl}.raw.txt with <split>_embs_imgs_*.npy, "
        "or products.jsonl, or {trn,tst,lbl}.jsonl, or polyvore_item_metadata.json"
    )


def read_ceiling(path: Path) -> dict[str, float] | None:
    """The best reachable scores in percent, where the inventor of a catalogue left ceiling.json.

    Remarks in it (strings) are left out.

    Raises:
      InputError: if the file is not an object of numbers.
    """
    file = SourceFolder(path).find("ceiling.json")
    if file is None:
        return None
    try:
        found = json.loads(file.read_text("utf-8")).items()
        return {name: float(score) for name, score in found if not isinstance(score, str)}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f'{file} is not as {{"P@1": percent}} ({error})') from None
