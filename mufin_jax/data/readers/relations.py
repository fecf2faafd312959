"""Products and what is bought with them: ids to numbers of labels.

Every id that no product has is counted.
"""

import dataclasses
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse

from mufin_jax.data.readers import matrices
from mufin_jax.data.readers.catalogue import RawSide
from mufin_jax.data.readers.fields import FieldCounts
from mufin_jax.data.readers.image_files import ImageFiles
from mufin_jax.data.readers.products import Product
from mufin_jax.data.readers.tally import Fact, Tally
from mufin_jax.data.readers.values import similar_id
from mufin_jax.runtime.errors import InputError

UNBOUGHT = "label without a training product"
"""A kind of defect: a test product relates to a product that no training product relates to."""


@dataclasses.dataclass
class ProductFile:
    """The products of a file.

    Attributes:
        name: the file's name, for messages.
        items: one a line; unusable ones are not `kept`.
        fields: which fields the items have.
        no_items: if there are no items, a sentence that tells why.
        may_lack: whether no items are needed.
    """

    name: str
    items: list[Product]
    fields: FieldCounts
    no_items: str = ""
    may_lack: bool = False


def side_of(file: ProductFile, images: ImageFiles, tally: Tally, max_images: int) -> RawSide:
    """Return the products of a file as a side; their pictures get numbers in `images`."""
    keys: list[int] = []
    offsets = [0]
    for item in file.items:
        local = [name for name in item.images if "://" not in name]
        if len(local) < len(item.images):
            reason = "not downloaded: download the pictures and give their paths in `images`"
            for _ in range(len(item.images) - len(local)):
                tally.note("image by URL", file.name, item.row, reason)
        if len(local) > max_images:
            reason = f"{len(local) - max_images} images beyond the first {max_images} left out"
            tally.note("more images than max_images", file.name, item.row, reason)
        keys += [images.add(name) for name in local[:max_images]]
        offsets.append(len(keys))
    categories = [item.category for item in file.items]
    several = any(item.texts for item in file.items)
    return RawSide(
        file.name,
        np.array([item.row for item in file.items], np.int64),
        [item.uid for item in file.items],
        [item.title for item in file.items],
        np.array([item.kept for item in file.items], bool),
        np.array(offsets, np.int64),
        np.array(keys, np.int64),
        [name or "" for name in categories] if any(categories) else None,
        [[item.title, *item.texts] for item in file.items] if several else None,
        fields=file.fields,
        no_items=file.no_items,
        may_lack=file.may_lack,
        kept_fields=[item.kept_fields for item in file.items],
    )


def relevance_of(
    files: Mapping[str, ProductFile],
    sides: Mapping[str, RawSide],
    tally: Tally,
    complete: bool,
    products: Container[str] = (),
) -> dict[str, scipy.sparse.csr_matrix]:
    """Return `also_buy` ids or `target_ind` numbers of both sides of points as matrices.

    Args:
        files: by "train", "test" and "label".
        sides: the same.
        tally: takes unknown labels.
        complete: there is a label file: a row without any known label is bad. Without one,
            also_buy can name products outside the catalogue; these are only counted.
        products: the ids of products that may be no label: no training product relates to them.

    Raises:
        InputError: if no training point has a relation.
    """
    train = files["train"]
    if complete and not any(item.relevant for item in train.items):
        tally.check()
        raise InputError(
            f"{train.name}: no item has `also_buy` or `target_ind`, and there is no trn_X_Y.txt; "
            f"found the fields {train.fields.shown()}{unread_relations(train)}"
        )
    label = sides["label"]
    numbers: dict[str, int] = {}
    for i, uid in enumerate(label.ids):
        if label.kept[i]:
            numbers.setdefault(uid, i)
    if complete:
        tell_relations(tally, [files["train"], files["test"]], numbers)
    labels = _Labels(numbers, len(label), complete, products)
    return {name: _matrix(files[name], labels, tally) for name in ("train", "test")}


def tell_relations(tally: Tally, files: Sequence[ProductFile], known: Container[str]) -> None:
    """Add to the tally's facts: items without a relation, and relations that match nothing."""
    missing: dict[str, str] = {}
    first, total, lone, read, missed = "", 0, 0, 0, 0
    for file in files:
        for item in file.items:
            if not item.kept:
                continue
            total += 1
            if not item.relevant:
                lone += 1
                first = first or f"{file.name}:{item.row}: {item.uid}"
            read += len(item.relevant or ())
            for uid in item.relevant or ():
                if isinstance(uid, str) and uid not in known:
                    missed += 1
                    if uid not in missing:
                        missing[uid] = f"{file.name}:{item.row}: {uid!r}" if not missing else ""
    unknown = (
        f"{len(missing):,} ids, the first in {next(iter(missing.values()))}" if missing else ""
    )
    tally.facts += [
        Fact("products without a relation", lone, total, first),
        Fact("relations that match nothing", missed, read, unknown),
    ]


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What ids and numbers of labels are read by.

    Attributes:
        numbers: of the labels that are kept, by their ids.
        count: of all labels.
        complete: as in `relevance_of`.
        products: as in `relevance_of`.
    """

    numbers: dict[str, int]
    count: int
    complete: bool
    products: Container[str]


def _matrix(file: ProductFile, labels: _Labels, tally: Tally) -> scipy.sparse.csr_matrix:
    """Return the relations of a file's items."""
    counts_from_one = matrices.CountsFromOne(labels.count)
    tally.seen("also_buy rows", len(file.items))
    matrix = matrices.from_rows(_known(file, labels, tally, counts_from_one), labels.count)
    counts_from_one.warn(tally, f"{file.name}: `target_ind`")
    return matrix


def _known(
    file: ProductFile, labels: _Labels, tally: Tally, counts_from_one: matrices.CountsFromOne
) -> Iterator[list[int]]:
    """Yield the numbers of each item's known labels; the tally takes the unknown ones."""
    similar: Iterable[str] = labels.numbers  # are looked through once
    for item in file.items:
        found = []
        for name in item.relevant or ():
            if isinstance(name, str):
                found.append(labels.numbers.get(name, -1))
            else:
                counts_from_one.see(name)
                found.append(name if 0 <= name < labels.count else -1)
        row = [number for number in found if number >= 0]
        if len(row) == len(found):
            yield row
            continue
        unknown = [n for n, i in zip(item.relevant or (), found, strict=True) if i < 0]
        unbought = [name for name in unknown if isinstance(name, str) and name in labels.products]
        if unbought:
            reason = f"no training product relates to {unbought[0]!r}, so it is no label"
            tally.note(UNBOUGHT, file.name, item.row, reason)
        unknown = [name for name in unknown if name not in unbought]
        if unknown:
            reason, first = f"{len(unknown)} unknown labels, the first ", unknown[0]
            if labels.complete and not row:
                reason, similar = reason + quoted(first, similar), ()
                tally.bad("also_buy rows", "unknown label", file.name, item.row, reason)
            else:
                tally.note("unknown label", file.name, item.row, reason + repr(first))
        yield row


def quoted(wanted: str | int, uids: Iterable[str]) -> str:
    """Return an id in quotes, and the known id that it resembles."""
    similar = similar_id(wanted, uids) if isinstance(wanted, str) else None
    shown = repr(wanted[:60]) if isinstance(wanted, str) else repr(wanted)
    return f"{shown} (there is {similar[:60]!r})" if similar else shown


def unread_relations(file: ProductFile) -> str:
    """Return a hint at unread fields that may hold the relations."""
    alike = [name[:40] for name in file.fields.alike("relations")]
    if not alike:
        return ""
    return f"; if the relations are in {alike[0]}, set --prepare.columns related={alike[0]}"
