"""The long tests of a day: always the same for one day, and all of them within some days."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from places import SUPPORT
from rotation import day_of, runs, sample

GROUPS = [
    ("kills", 9, 9), ("stops", 15, 3), ("interrupts", 17, 17), ("disk again", 14, 7), ("few", 2, 5),
]  # fmt: skip
"""A group, its number of tests, and the period of each test in days."""


def items():
    """Yield tests of all groups, mixed, and some without a group."""
    longest = max(count for _, count, _ in GROUPS)
    for place in range(longest):
        yield SimpleNamespace(name=f"always-{place}", get_closest_marker={}.get)
        for group, count, every in GROUPS:
            if place < count:
                get = {"rotates": pytest.mark.rotates(group, every=every).mark}.get
                yield SimpleNamespace(name=f"{group}-{place}", get_closest_marker=get)


def names(day):
    return [item.name for item in sample(items(), day)[0]]


def test_a_day_gives_the_same_tests_every_time_and_the_others_wait():
    now, later = sample(items(), 739_950)
    assert [item.name for item in now] == names(739_950)
    assert len(now) + len(later) == len(list(items()))
    assert names(739_950) != names(739_951)


@pytest.mark.parametrize(("group", "count", "every"), GROUPS)
@pytest.mark.parametrize("first", [1, 739_950])
def test_every_test_of_a_group_runs_once_in_any_period_of_days(group, count, every, first):
    found = [name for day in range(first, first + every) for name in names(day)]
    expected = sorted(f"{group}-{place}" for place in range(count))
    assert sorted(name for name in found if name.startswith(f"{group}-")) == expected


def test_a_test_of_no_group_runs_every_day():
    assert sum(name.startswith("always-") for name in names(5)) == 17


def test_groups_do_not_all_begin_with_their_first_test_on_the_same_day():
    assert len({tuple(runs(day, group, 0, 3) for day in range(3)) for group, *_ in GROUPS}) > 1


def test_consecutive_days_have_consecutive_numbers():
    assert day_of("20261201") == day_of("20261130") + 1  # pyright: ignore[reportOptionalOperand]
    assert day_of("") is None


@pytest.mark.parametrize("wrong", ["today", "2026-11-30", "20261301", "7"])
def test_an_invalid_rotation_is_rejected(wrong):
    with pytest.raises(pytest.UsageError, match=f"ROTATION={wrong}: expected a day, such as"):
        day_of(wrong)


def test_pytest_runs_a_part_of_a_group_and_prints_the_day(tmp_path, monkeypatch):
    (tmp_path / "conftest.py").write_text(
        "import rotation\n"
        "def pytest_collection_modifyitems(items): items[:], _ = rotation.todays(items)\n"
        "pytest_report_header = rotation.pytest_report_header\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  rotates(group, every)\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.rotates('kills', every=3)\n"
        "@pytest.mark.parametrize('n', range(6))\n"
        "def test_it(n): print('ran', n)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))

    def ran(rotation):
        monkeypatch.setenv("ROTATION", rotation)
        command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ("ROTATION=20261130: a part of the long tests" in done.stdout) == bool(rotation)
        return [int(word.split()[0]) for word in done.stdout.split("ran ")[1:]]

    some = ran("20261130")
    assert len(some) == 2 and some[1] - some[0] == 3
    assert ran("20261130") == some and ran("") == list(range(6))


def test_the_tests_of_a_file_run_in_one_process(request):
    """Otherwise each process makes the file's fixtures again: --dist=loadgroup reads the name."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("this run has one process")
    assert request.node.nodeid.endswith("@test_rotation")
