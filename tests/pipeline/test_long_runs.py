"""Long runs: neither memory nor programs grow with the number of steps and predictions."""

import json
from pathlib import Path

import minute
import pytest
from places import SUPPORT

pytestmark = [
    pytest.mark.apart,
    pytest.mark.slow,
    pytest.mark.rotates("long runs", every=3),
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]
MOST = 1.02
"""Resident memory at the end, divided by that after a tenth of the run."""


@pytest.mark.parametrize("of", ["answers", "pretrain", "finetune"])
def test_a_long_run_compiles_nothing_late_and_keeps_its_memory(of, minute_run, compiled, tmp_path):
    script = str(SUPPORT.joinpath("long_runs.py"))
    flags = [f"--of={of}", f"--scratch={tmp_path}"]
    found = json.loads(minute.finish(minute_run, *flags, cache=compiled, script=script))
    assert found["late"] == [] and found["shapes"] <= 3
    early, end = found["memory"]
    assert end < MOST * early, f"{early / 1e6:.0f} MB became {end / 1e6:.0f}"
    print(f"{of}: {early / 1e6:.0f} MB became {end / 1e6:.0f}")
