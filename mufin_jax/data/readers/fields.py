"""The names of fields: those that are read, and others that look alike and are not."""

import re
from collections import Counter
from collections.abc import Iterable

READ = {
    "id": ("ASIN", "asin", "uid"),
    "title": ("title",),
    "images": ("images",),
    "relations": ("also_buy", "target_ind", "target_rel"),
    "category": ("category",),
}
"""The fields of a product that are read, by what they mean."""
NAMES = frozenset(name for names in READ.values() for name in names)

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
    """

    def __init__(self):
        """Start at zero."""
        self.items = 0
        self.counts: Counter[str] = Counter()

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
        return {name: n for name, n in ranked if name not in NAMES and pattern.search(name)}

    def shown(self) -> str:
        """Return the names of the first fields, for messages."""
        names = [name[:40] for name, _ in self.counts.most_common(12)]
        return ", ".join(names) + (", ..." if len(self.counts) > 12 else "") or "none"
