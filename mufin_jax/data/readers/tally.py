"""What preparation dropped or repaired: counted by kind, listed by file and row."""

import dataclasses
from collections import Counter, defaultdict
from typing import Any

from mufin_jax.runtime.errors import TooManyBadRows

LISTED = 10_000
EXAMPLES = 100
"""Of a kind that is only counted, this many are listed."""
HOPELESS = 100_000
"""Reading stops after so many bad members if most are bad: an archive may hold billions."""
REMEDIES = {
    "broken image": "Replace these pictures, or correct their paths",
    "linked image": "Name the folder of the pictures by --prepare.images=DIR",
    "bad line": "Correct these lines",
    "repeated id": "Give every item an id of its own",
    "unknown label": "Correct these ids or numbers, or add the labels",
    "unknown pair": "Correct these numbers, which count from 0",
    "unknown vector": "Correct these numbers, which count from 0",
    "bad metadata": "Complete the items' metadata",
}
"""What to do about a kind of defect."""
_LONGEST = 300


@dataclasses.dataclass(frozen=True)
class Fact:
    """A line of the report's summary.

    Attributes:
        what: what is counted.
        number: how many.
        of: how many there are in all; 0 if unknown.
        first: the first example, with its place.
    """

    what: str
    number: int
    of: int = 0
    first: str = ""

    @property
    def share(self) -> float:
        """The number's share of all; 0 if that is unknown."""
        return self.number / self.of if self.of else 0.0


class Tally:
    """Counts and lists of defects; stops preparation when too much of the input is bad.

    Attributes:
        max_bad: the largest tolerated share of bad members of any population (lines, images ...).
        option: the flag that sets it.
        counts: defects by kind.
        listed: the first `LISTED` defects.
        warnings: sentences about the data as a whole, for the log and the report.
        facts: what readers tell about the data as a whole, for the report's summary.
    """

    def __init__(self, max_bad: float, option: str = "--prepare.max-bad"):
        """Start at zero."""
        self.max_bad, self.option = max_bad, option
        self.counts: Counter[str] = Counter()
        self.listed: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.facts: list[Fact] = []
        self._seen: Counter[str] = Counter()
        self._bad: dict[str, Counter[str]] = defaultdict(Counter)
        self._first: dict[str, str] = {}

    def note(self, kind: str, file: str, row: int, reason: str, most: int = LISTED) -> None:
        """Record something that users should know but that makes no row bad."""
        # Reasons quote the data, which may contain line breaks and unprintable characters.
        reason = " ".join(reason.encode("utf-8", "replace").decode("utf-8").split())[:_LONGEST]
        self.counts[kind] += 1
        self._first.setdefault(kind, f"{file}:{row}: {reason}")
        if len(self.listed) < LISTED and self.counts[kind] <= most:
            self.listed.append({"kind": kind, "file": file, "row": row, "reason": reason})

    def count(self, kind: str, file: str, row: int, reason: str) -> None:
        """Record something that may be true of most rows: the first `EXAMPLES` are listed."""
        self.note(kind, file, row, reason, EXAMPLES)

    def seen(self, population: str, number: int) -> None:
        """Add to the size of a population; `bad` counts its bad members."""
        self._seen[population] += number

    def seen_of(self, population: str) -> int:
        """Return the size of a population."""
        return self._seen[population]

    def first(self, kind: str) -> str:
        """Return file, row and reason of the first defect of a kind."""
        return self._first.get(kind, "")

    def bad(self, population: str, kind: str, file: str, row: int, reason: str) -> None:
        """Record a bad member of a population, such as "lines" or "images".

        Raises:
            TooManyBadRows: if the population seen so far is hopeless.
        """
        self.note(kind, file, row, reason)
        bad = self._bad[population]
        bad[kind] += 1
        if bad[kind] > max(HOPELESS, self._seen[population] / 2):
            self.check(so_far=True)

    def check(self, so_far: bool = False) -> None:
        """Stop if more than `max_bad` of any population is bad.

        Args:
            so_far: some members are still to be looked at; the message then tells so.

        Raises:
            TooManyBadRows: with the most frequent kind and its first file and row.
        """
        for population, bad in self._bad.items():
            total = self._seen[population]
            if bad.total() > self.max_bad * total:
                worst, times = min(bad.items(), key=lambda item: (-item[1], item[0]))
                raise TooManyBadRows(
                    f"{bad.total():,} of {total:,} {population} are bad{' so far' * so_far}, more "
                    f"than the tolerated {self.max_bad:.0%}; most often ({times:,} times) {worst}, "
                    f"first at {self._first[worst]}. {REMEDIES.get(worst, 'Fix the data')}, or "
                    f"raise {self.option}"
                )

    def summary(self) -> str:
        """Return one line of counts by kind."""
        return ", ".join(f"{count:,} x {kind}" for kind, count in sorted(self.counts.items()))

    def as_dict(self) -> dict[str, Any]:
        """Return the report: counts by kind, the list, and how many defects it leaves out."""
        report = {
            "counts": dict(sorted(self.counts.items())),
            "listed": self.listed,
            "not_listed": self.counts.total() - len(self.listed),
        }
        return report | ({"warnings": self.warnings} if self.warnings else {})
