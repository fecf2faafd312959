"""`Dataset.from_items`: a user's items become raw data, which the stage `prepare` reads.

<folder>/items/      the raw data (`item_folder.py`)
<folder>/prepare/    the prepared folder, and what else a run of the stage `prepare` writes
"""

import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.readers.hash_split import is_test
from mufin_jax.pipeline.item_folder import write_items
from mufin_jax.pipeline.named_settings import with_settings
from mufin_jax.pipeline.presets import preset_of
from mufin_jax.pipeline.run import run
from mufin_jax.prediction.items import Item, read_query
from mufin_jax.runtime.errors import InputError, TooManyBadRows
from mufin_jax.runtime.run_folder import flatten, use_compile_cache
from mufin_jax.runtime.storage.files import jsonable, load_json, save_json
from mufin_jax.runtime.storage.paths import Given, user_path
from mufin_jax.runtime.storage.temporary import Temporary, of_process

_DECIDE = ("prepare.", "model.text_checkpoint", "model.image_checkpoint", "model.modalities")
"""Beginnings of the settings that decide how items are prepared."""

_SETTINGS = "settings.json"
"""Written last: the settings that the raw data are read by."""

log = logging.getLogger(__name__)


def prepare_items(
    train: object,
    labels: object,
    test: object,
    folder: Given | None,
    preset: object,
    settings: Mapping[str, Any],
) -> Dataset:
    """Prepare items; the arguments are those of `Dataset.from_items`.

    Raises:
        InputError: for wrong settings or items, the latter by the place of the first wrong one; or
            if the folder holds anything.
        TooManyBadRows: if too many items or pictures cannot be used.
        DiskError: if a file cannot be written.
    """
    settings = flatten(dict(settings)) if settings else {}
    base = with_settings(preset_of(preset), settings)
    for name in settings:
        if not name.replace("-", "_").startswith(_DECIDE):
            raise InputError(f"{name}: from_items prepares, and this decides other things; see fit")
    files, share = _files(train, labels, test)
    temporary = None
    if folder is None:
        temporary = Temporary("data")
        home = temporary.path
        use_compile_cache(of_process("programs"))
    else:
        home = _new_folder(folder)
    try:
        own = write_items(files, home / "items", base.prepare.max_bytes)
        own |= {} if share is None else {"prepare.test_share": share}
        if twice := own.keys() & settings.keys():
            raise InputError(f"{min(twice)}: from_items sets it itself, by the items")
        experiment = with_settings(base, {**own, "data": home / "items", "workdir": home})
        run(experiment, "prepare")
        save_json(home / "items" / _SETTINGS, jsonable({**own, **settings}))
        dataset = Dataset.load(home / "prepare")
    except TooManyBadRows:  # its message names a list of them in the folder
        if temporary is not None:
            temporary.needed_by(prepare_items)
        raise
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)  # it was new
        raise
    if temporary is not None:
        temporary.needed_by(dataset)
    return dataset


def _new_folder(given: Given) -> Path:
    """Return a folder that a user names; reject one that holds anything."""
    folder = user_path(given, "folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is not empty: expected a new folder; what from_items has written there "
            f"before is opened by Dataset.load({str(folder / 'prepare')!r})"
        )
    return folder


def made_from(dataset: Dataset) -> tuple[Path, dict[str, Any]]:
    """Return the raw data of a dataset that `from_items` made, and the settings that read them.

    Raises:
        InputError: if it was made otherwise.
    """
    items = dataset.path.parent / "items"
    if not (items / _SETTINGS).is_file():
        raise InputError(
            f"{dataset.path} was not made by Dataset.from_items: expected such a dataset, or the "
            "folder or file that it was prepared from"
        )
    return items, load_json(items / _SETTINGS)


def _files(
    train: object, labels: object, test: object
) -> tuple[dict[str, Sequence[Item]], float | None]:
    """Return items by the file that they belong to, and the test share of products in one file."""
    points = _read(train, "train", labels is None)
    share, tests = 0.0, list[Item]()
    if isinstance(test, int | float) and not isinstance(test, bool):
        if not 0 < test <= 0.5:
            raise InputError(f"test={test}: expected items, or a share above 0 and up to 0.5")
        share = float(test)
    elif test is not None:
        tests = _read(test, "test", labels is None)
    if labels is None and not tests:
        return {"products": points}, share
    if labels is None:
        return _products(points, tests), None
    found = _read(labels, "labels", True)
    if share:
        tests = [item for item in points if is_test(item.id or "", share)]
        points = [item for item in points if not is_test(item.id or "", share)]
    return {"trn": points, "tst": tests, "lbl": found}, None


def _products(points: Sequence[Item], tests: Sequence[Item]) -> dict[str, Sequence[Item]]:
    """Return items that recommend each other: the labels are those that a training item relates to.

    Related ids that no item has are left out, as of products in one file.
    """
    bought = {uid for item in points for uid in item.related}
    labels = {item.id: item for item in [*tests, *points] if item.id in bought}
    if not labels:
        first = f"; the first is {next(iter(bought))!r:.80}" if bought else ""
        raise InputError(f"train: none of {len(bought):,} related ids is the id of an item{first}")
    if strange := len(bought - labels.keys()):
        log.info("%s related ids are ids of no item, and left out", f"{strange:,}")

    def known(items: Sequence[Item]) -> Sequence[Item]:
        kept = ([uid for uid in item.related if uid in labels] for item in items)
        return [dataclasses.replace(i, related=own) for i, own in zip(items, kept, strict=True)]

    return {"trn": known(points), "tst": known(tests), "lbl": [*labels.values()]}


def _read(given: object, side: str, needs_id: bool) -> list[Item]:
    """Return the items of one argument, each with an id and a name that tells its place.

    Raises:
        InputError: if there are none, or one is wrong.
    """
    try:
        items = read_query(given, kept=())
    except InputError as error:
        raise InputError(f"{side}: {error}") from None
    if not items:
        raise InputError(f"{side}: no items; expected at least one")
    found, places = list[Item](), dict[str, str]()
    for number, item in enumerate(items):
        place = f"{side}: {item.name}"
        if item.id is None and needs_id:
            raise InputError(f"{place}: no id; expected one, as relations are ids")
        uid = item.id or f"{side}-{number}"
        if uid in places:
            raise InputError(f"{place}: the id {uid!r:.80} is that of {places[uid]}, too")
        places[uid] = item.name
        found.append(dataclasses.replace(item, id=uid, name=place))
    return found
