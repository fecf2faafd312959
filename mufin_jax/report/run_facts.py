"""Facts about a run that anyone may read: settings, versions, hours and memory, but no folders."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from mufin_jax.runtime.run_folder import flatten
from mufin_jax.runtime.units import in_bytes

HOUR = 3600


def run_facts(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows about a run.

    Args:
        recorded: the content of run.json.

    Returns:
        "seed"; "machine", "versions", "stages" (name, time, memory) and "settings" as rows.
    """
    experiment = dict(recorded.get("experiment", {}))
    memory, seconds = dict(recorded.get("peak_bytes", {})), dict(recorded.get("seconds", {}))
    for known in (memory, seconds):  # the cost of an earlier report is not part of the run
        known.pop("report", None)
    stages = [
        (name, duration(spent), _gigabytes(memory.get(name))) for name, spent in seconds.items()
    ]
    stages.append(
        (
            "all",
            duration(sum(seconds.values(), 0.0)),
            _gigabytes(max(memory.values(), default=None)),
        )
    )
    devices = recorded.get("devices", [])
    kinds = sorted({device.partition(" ")[2] or device for device in devices})
    machine = [
        ("platform", recorded.get("platform", "unknown")),
        ("devices", f"{len(devices)} x {', '.join(kinds)}" if devices else "unknown"),
        ("processes", recorded.get("processes", 1)),
    ]
    return {
        "seed": experiment.get("seed", 0),
        "machine": machine,
        "versions": list(recorded.get("versions", {}).items()),
        "stages": stages,
        "settings": [(name, shown_setting(value)) for name, value in flatten(experiment).items()],
    }


def duration(seconds: float) -> str:
    """Return seconds in a suitable unit."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def shown_setting(value: Any) -> str:
    """Return a setting as text; of an absolute path, which tells who ran it, only the last part."""
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return str(value)


def _gigabytes(count: int | None) -> str:
    return "\N{EN DASH}" if count is None else in_bytes(count)
