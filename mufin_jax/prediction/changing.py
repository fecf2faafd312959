"""Labels that come and go without training: added, removed and updated, in memory or as versions.

An added label is embedded as the labels of training were. It has no training points, so its
classifier is w = z (alpha = 1).
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mufin_jax.data.kept_fields import FieldValue, KeptFields, number_of
from mufin_jax.data.readers.field_values import parse_keep, read_value
from mufin_jax.data.strings import Strings
from mufin_jax.prediction.catalogue import Catalogue
from mufin_jax.prediction.items import Item, Items, read_ids, read_query
from mufin_jax.prediction.queries import names_of, read_items
from mufin_jax.prediction.segment import Changes, Segment
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.distributed.mesh import fetch
from mufin_jax.runtime.errors import InputError

if TYPE_CHECKING:
    from mufin_jax.prediction.living import LivingRanker

log = logging.getLogger(__name__)

_BLOCK = 256
"""Labels that are embedded together."""


def add(predictor: "LivingRanker", items: Items, save: bool) -> None:
    """Add labels; see `LivingRanker.add_labels`."""
    given = _with_ids(predictor, items)
    restored = [uid for uid, item in given.items() if not _shows(item)]
    shown = [item for item in given.values() if _shows(item)]
    predictor.catalogue.check_new(given, restored)  # before any is encoded
    new = _segment(predictor, shown)
    if given:
        _change(predictor, lambda catalogue: catalogue.with_labels(new, restored), save)


def remove(predictor: "LivingRanker", ids: Iterable[object], save: bool) -> None:
    """Remove labels; see `LivingRanker.remove_labels`."""
    named = read_ids(ids, "ids")
    if named:
        _change(predictor, lambda catalogue: catalogue.without_labels(named), save)


def update(predictor: "LivingRanker", items: Items, save: bool) -> None:
    """Replace labels; see `LivingRanker.update_labels`."""
    given = _with_ids(predictor, items)
    predictor.catalogue.without_labels(given)  # before any is encoded
    new = _segment(predictor, list(given.values()))

    def replaced(catalogue: Catalogue) -> Changes:
        return catalogue.changed(catalogue.without_labels(given)).with_labels(new)

    if given:
        _change(predictor, replaced, save)


def keep_fields(
    predictor: "LivingRanker",
    items: Iterable[Mapping[str, Any]],
    fields: Sequence[str],
    save: bool,
) -> int:
    """Keep fields of labels; see `LivingRanker.keep_fields`."""
    kinds = parse_keep(fields, "fields")
    values: dict[str, list[FieldValue]] = {}
    for row, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InputError(f"item {row}: found {type(item).__name__}; expected a dict with an id")
        uid = Item.read({"id": item.get("id")}, f"item {row}").id
        if uid is None:
            raise InputError(f"item {row}: no id; expected an id for each label")
        if uid in values:
            raise InputError(f"item {row}: the id {uid!r:.80} twice; expected distinct ids")
        values[uid] = [read_value(item.get(name)) for name in kinds]
    catalogue = predictor.catalogue
    ids = [uid for uid in values if next(catalogue.all_of(uid), None) is not None]
    rows = [values[uid] for uid in ids]
    for place, name in enumerate(kinds):
        if ids and all(row[place] is None for row in rows):
            raise InputError(f"fields: no label has a value in {name!r:.80}; nothing is changed")
    chosen = {name: kind for name, kind in kinds.items() if kind}
    new = KeptFields.build(list(kinds), rows, chosen)
    if not kinds:
        raise InputError("fields: none is named; expected names such as category price:number")
    # Without any label among them, the error names the first id.
    known = ids or list(values)
    _change(predictor, lambda now: now.with_fields(known, new, chosen), save)
    return len(ids)


def refresh(predictor: "LivingRanker") -> bool:
    """Move to the current version; see `LivingRanker.refresh`."""
    versions, catalogue = predictor.versions, predictor.catalogue
    if versions is None:
        return False
    number = processes.decide(versions.current)
    if number == catalogue.version:
        return False
    found = Changes.none(predictor.model.dim)
    if number:
        number, found = versions.load_current(_reader(predictor), found)
    predictor.change_to(catalogue.changed(found, number))
    return True


def roll_back(predictor: "LivingRanker") -> None:
    """Return to the version before the current one; see `LivingRanker.roll_back`."""
    versions = predictor.versions
    if versions is None:
        raise InputError("this predictor has no versions; load it from a run's folder")

    def move() -> None:
        with versions.hold():
            versions.roll_back()

    processes.once("a catalogue", move)
    refresh(predictor)


def _change(predictor: "LivingRanker", change: Callable[[Catalogue], Changes], save: bool) -> None:
    """Change the catalogue: as a new version if it can be saved, else in memory."""
    versions = predictor.versions
    if not save or versions is None or not processes.decide(lambda: versions.writable):
        if save and versions is not None:
            log.warning("%s cannot be written: labels change in memory alone", versions.folder)
        changes = change(predictor.catalogue)
        predictor.change_to(predictor.catalogue.changed(changes, version=-1))
        return

    def write() -> None:
        none = Changes.none(predictor.model.dim)
        with versions.hold():
            number, found = versions.load_current(_reader(predictor), none)
            changes = change(predictor.catalogue.changed(found, number))
            versions.save(changes.save, number)

    processes.once("a catalogue", write)
    refresh(predictor)


def _reader(predictor: "LivingRanker") -> Callable[[Path], Changes]:
    """Return what reads the changes of a version."""
    labels, points = len(predictor.catalogue.base.ids), len(predictor.dataset.train)
    return lambda folder: Changes.load(folder, predictor.model.dim, labels, points)


def _with_ids(predictor: "LivingRanker", items: Items) -> dict[str, Item]:
    """Return items by their ids, in their order; reject items without one, and ids given twice."""
    kept = list(predictor.catalogue.fields.fields)
    found: dict[str, Item] = {}
    for item in read_query(items, kept):
        if item.id is None:
            raise InputError(f"{item.name}: no id; expected an id for each label")
        if item.id in found:
            raise InputError(f"{item.name}: the id {item.id!r:.80} twice; expected distinct ids")
        found[item.id] = item
    return found


def _shows(item: Item) -> bool:
    """Return whether an item has anything besides its id."""
    vectors = item.text_vector is not None or item.image_vectors is not None
    return bool(item.titles or item.pictures or vectors)


def _segment(predictor: "LivingRanker", items: Sequence[Item]) -> Segment:
    """Embed items as labels."""
    dim, bags, counts, z = predictor.model.dim, [], [np.zeros(1, np.int64)], []
    points = [predictor.known_items.training_points(item.related) for item in items]
    _warn_of_strangers(items, points)
    for rows in cut(len(items), _BLOCK):
        block = items[rows]
        pool, slots = read_items(block, predictor.dataset, predictor.loader.descriptors)
        found = predictor.embed(pool, slots)
        bag, mask, vector = (part[: len(block)] for part in
                             fetch((found.bag, found.mask, found.vector)))  # fmt: skip
        bags.append(bag[mask])
        counts.append(mask.sum(1))
        z.append(vector)
    none = np.zeros((0, dim), np.float32)
    titles, ids = names_of(items)
    return Segment(
        Strings.pack(str(uid) for uid in ids),
        Strings.pack(titles),
        np.concatenate([none, *bags]),
        np.cumsum(np.concatenate(counts)),
        np.concatenate([none, *z]),
        np.concatenate([np.zeros(0, np.int64), *points]),
        np.cumsum([0, *map(len, points)], dtype=np.int64),
        _fields(predictor.catalogue.fields.kinds(), items),
    )


def _fields(kinds: Mapping[str, str], items: Sequence[Item]) -> KeptFields:
    """Return the values that items have in the fields that are kept, by their kinds.

    Raises:
        InputError: if a value is no number where the field is of numbers.
    """
    for item in items:
        for name, value in item.fields.items():
            if kinds.get(name) == "number" and value is not None and number_of(value) is None:
                raise InputError(f"{item.name}: {name}: found {value!r:.80}; expected a number")
    return KeptFields.build(list(kinds), [[i.fields.get(n) for n in kinds] for i in items], kinds)


def _warn_of_strangers(items: Sequence[Item], points: Sequence[np.ndarray]) -> None:
    """Log how many labels name related products of which none is a training point."""
    strange = [item for item, own in zip(items, points, strict=True)
               if item.related and not len(own)]  # fmt: skip
    if strange:
        log.warning(
            "%d of %d labels are related to no training point; the first is %r, related to %.200r",
            len(strange), len(items), strange[0].id, list(strange[0].related),
        )  # fmt: skip
