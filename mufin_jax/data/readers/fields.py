"""The names of fields: those that are read, and others that look alike and are not."""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mufin_jax.runtime.errors import InputError

_OPTIONS = {"id", "title", "texts", "images", "related", "category", "separator"}
_JOINED = re.compile(f"[,;]\\s*(?=(?:{'|'.join(sorted(_OPTIONS))})=)")
"""Between two options that are joined into one."""


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which fields of a product are read; of several names, the first that has a value.

    Attributes:
        id, title, images, related, category: names of fields.
        texts: names of fields whose values are further texts of an item, next to its title.
        separator: between the values of a list in one cell; if None, the first of | ; , that occurs
            in it (in pictures, the first of | ;).
        given: the names that the user chose.
        keep: names of fields that are kept for filters.
        needs_id: whether a product without an id is bad.
    """

    id: tuple[str, ...] = ("ASIN", "asin", "uid", "parent_asin", "id")
    title: tuple[str, ...] = ("title",)
    images: tuple[str, ...] = ("images", "imageURLHighRes", "imageURL", "imUrl", "image")
    related: tuple[str, ...] = ("also_buy", "related", "bought_together")
    category: tuple[str, ...] = ("category",)
    texts: tuple[str, ...] = ()
    separator: str | None = None
    given: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    needs_id: bool = True

    @classmethod
    def parse(cls, options: Sequence[str]) -> "Columns":
        """Return the columns of options such as "id=sku" and "separator=;".

        Raises:
            InputError: if an option has another form.
        """
        chosen: dict[str, str] = {}
        for option in options:
            if joined := [part.strip() for part in _JOINED.split(option)][1:]:
                parts = " ".join([_JOINED.split(option)[0].strip(), *joined])
                raise InputError(
                    f"columns: {option!r}: separate them by blanks: --prepare.columns {parts}"
                )
            name, equals, value = option.partition("=")
            if not equals or not value or name not in _OPTIONS or name in chosen:
                raise InputError(
                    f"columns: {option!r}: expected id=NAME, title=NAME, texts=NAME,NAME, "
                    "images=NAME, related=NAME, category=NAME or separator=TEXT, each once"
                )
            chosen[name] = value
        separator = chosen.pop("separator", None)
        texts = chosen.pop("texts", None)
        names: dict[str, tuple[str, ...]] = {name: (value,) for name, value in chosen.items()}
        if texts is not None:
            names["texts"] = tuple(dict.fromkeys(filter(None, texts.split(","))))
        given = tuple(name for some in names.values() for name in some)
        return cls(**names, separator=separator, given=given)  # type: ignore

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """All names that are read."""
        named = (*self.id, *self.title, *self.images, *self.related, *self.category, *self.texts)
        return frozenset((*named, *self.keep, "target_ind", "target_rel"))


_ALIKE = {
    "title": re.compile(r"title|name|product|headline|text", re.IGNORECASE),
    "images": re.compile(r"im(age|g|ur)|pic|photo|thumb", re.IGNORECASE),
    "relations": re.compile(
        r"also|b(ou|uy)|view|relat|similar|target|together|recommend|compl", re.IGNORECASE
    ),
}
_MOST = 1000


class FieldCounts:
    """How many items of a file have each field.

    Attributes:
        items: the number of items.
        counts: items by field; after a thousand fields, further ones are left out.
        read: the names of the fields that are read.
    """

    def __init__(self, read: frozenset[str]):
        """Start at zero."""
        self.items = 0
        self.counts: Counter[str] = Counter()
        self.read = read

    def add(self, names: Iterable[str]) -> None:
        """Count the fields of one more item that have a value."""
        self.items += 1
        for name in names:
            if name in self.counts or len(self.counts) < _MOST:
                self.counts[name] += 1

    def alike(self, kind: str) -> dict[str, int]:
        """Return the unread fields whose names look like those of a kind, the most frequent first.

        Args:
            kind: "title", "images" or "relations".
        """
        ranked = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        pattern = _ALIKE[kind]
        return {name: n for name, n in ranked if name not in self.read and pattern.search(name)}

    def shown(self) -> str:
        """Return the names of the first fields, for messages."""
        names = [name[:40] for name, _ in self.counts.most_common(12)]
        return ", ".join(names) + (", ..." if len(self.counts) > 12 else "") or "none"
