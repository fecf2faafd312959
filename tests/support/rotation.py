"""Which repeats of long tests run today: a part of each group, another part every day.

A test that is marked `rotates("group", every=3)` belongs to a group; each day runs one in three of
the group's tests. ROTATION names the day, for example `ROTATION=20261130 make test-slow`; without
it every test runs. The choice depends only on the day, the group and a test's place in the group:
the same day gives the same tests, and any `every` days in a row give all of them.
"""

import collections
import datetime
import os
import zlib
from collections.abc import Iterable

import pytest


def day_of(rotation: str) -> int | None:
    """Return the number of the day that ROTATION names; None if it is empty: all tests run."""
    if not rotation:
        return None
    try:
        return datetime.datetime.strptime(rotation, "%Y%m%d").toordinal()
    except ValueError:
        raise pytest.UsageError(
            f"ROTATION={rotation}: expected a day, such as ROTATION=20261130"
        ) from None


def runs(day: int, group: str, place: int, every: int) -> bool:
    """Return whether the test in this place of its group runs on a day."""
    return (day + zlib.crc32(group.encode()) + place) % every == 0


def sample(items: Iterable[pytest.Item], day: int) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests that run on a day, and those that wait for another day.

    Args:
        items: All tests that were collected, in their order.
        day: The number of the day.

    Returns:
        Two lists, each in the order of `items`.
    """
    places: collections.Counter[str] = collections.Counter()
    now, later = [], []
    for item in items:
        mark = item.get_closest_marker("rotates")
        if mark is None:
            now.append(item)
            continue
        (group,), every = mark.args, mark.kwargs["every"]
        (now if runs(day, group, places[group], every) else later).append(item)
        places[group] += 1
    return now, later


def todays(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests that run on the day that ROTATION names, and those that wait."""
    day = day_of(os.environ.get("ROTATION", ""))
    return (items, []) if day is None else sample(items, day)


def pytest_report_header() -> str | None:
    """Print the day; with it, the run can be repeated."""
    rotation = os.environ.get("ROTATION", "")
    if day_of(rotation) is None:
        return None
    return f"ROTATION={rotation}: a part of the long tests; without it, all of them"
