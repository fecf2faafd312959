"""`mufin compare`: finished runs on the same test points, with what chance allows."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from mufin_jax.commands.parsing import parse
from mufin_jax.evaluation.compared_runs import FinishedRun, differing_settings, load_runs
from mufin_jax.evaluation.paired import CONFIDENCE, RESAMPLES, SEED, Difference, compare
from mufin_jax.evaluation.tables import table
from mufin_jax.pipeline.old_runs import ADDED
from mufin_jax.report.comparison_panels import comparison_page
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import jsonable, replacing
from mufin_jax.runtime.storage.paths import settle_paths

Settings = Mapping[str, Sequence[Any]]
"""Settings that differ, with the value of each run."""

_WIDEST = 40
"""Characters of a setting that are printed; --json has all."""


@dataclasses.dataclass(frozen=True)
class CompareCommand:
    """Compare finished runs that were measured on the same test points."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="A B")]
    """The folders of two or more finished runs; each is compared with the first."""
    out: Path | None = None
    """An HTML page with the largest wins and losses, their pictures and titles."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print JSON instead of tables."""

    def __post_init__(self) -> None:
        """Reject fewer than two runs, and a run that is compared with itself."""
        settle_paths(self, fields=["out"])
        if len(self.runs) < 2:
            raise InputError("mufin compare A B: expected the folders of two or more finished runs")
        resolved = [run.resolve() for run in self.runs]
        if len(set(resolved)) < len(resolved):
            raise InputError("mufin compare A B: the same folder is named twice")
        if self.out is not None and self.out.suffix not in (".html", ".htm"):
            raise InputError(f"--out={self.out}: expected the name of a page, such as page.html")


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging(logging.WARNING)
    command = parse(CompareCommand, arguments, "compare")
    runs = load_runs(command.runs)
    against = [compare(other.points, runs[0].points, n) for n, other in enumerate(runs[1:])]
    names, settings = names_of(command.runs), differing_settings(runs, ADDED)
    told = as_json if command.json else as_text
    print(told(runs, names, against, settings))
    if command.out is not None:
        page = comparison_page(runs, names, against, settings)
        with disk_errors(command.out.parent), replacing(command.out, len(page)) as file:
            file.write(page)
        if not command.json:
            print(f"\n{command.out} shows the largest wins and losses")


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each run: the last parts of its path, as many as tell it from others."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(some[-count:]) for some in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, folders))


def as_text(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    against: Sequence[Mapping[str, Difference]],
    settings: Settings,
) -> str:
    """Return the tables."""
    columns = list(runs[0].points)
    means = {
        name: {metric: float(values.mean()) for metric, values in run.points.items()}
        for name, run in zip(names, runs, strict=True)
    }
    count = len(runs[0].dataset.test)
    blocks = [table(means, columns, head=f"{count:,} test points")]
    shown = ("difference", f"{CONFIDENCE:.0%} interval", "won", "lost", "equal")
    for name, found in zip(names[1:], against, strict=True):
        rows = {metric: _cells(one, count, shown) for metric, one in found.items()}
        blocks.append(table(rows, shown, head=f"{name} minus {names[0]}"))
    blocks.append(
        f"intervals: paired bootstrap over test points, {RESAMPLES:,} samples, seed {SEED}; they "
        "tell nothing of other seeds of the training"
    )
    differ = {
        name: dict(zip(names, map(_short, values), strict=True))
        for name, values in settings.items()
    }
    equal = "all settings are equal"
    blocks.append(table(differ, names, head="settings that differ") if differ else equal)
    costs = [run.costs() for run in runs]
    rows = {
        cost: {name: _amount(one[cost]) for name, one in zip(names, costs, strict=True)
               if cost in one}
        for cost in dict.fromkeys(cost for one in costs for cost in one)
    }  # fmt: skip
    if rows:
        blocks.append(table(rows, names, head="cost"))
    return "\n\n".join(blocks)


def _cells(found: Difference, count: int, columns: Sequence[str]) -> dict[str, str]:
    interval = "\N{EN DASH}" if found.low is None else f"{found.low:+.2f} to {found.high:+.2f}"
    cells = (
        f"{found.mean:+.2f}", interval, f"{found.won:,}", f"{found.lost:,}",
        f"{count - found.won - found.lost:,}",
    )  # fmt: skip
    return dict(zip(columns, cells, strict=True))


def _short(value: Any) -> str:
    """Return a setting as text, of which the end is left out if it is long; of paths the begin."""
    text = str(value)
    if len(text) <= _WIDEST:
        return text
    return f"…{text[1 - _WIDEST :]}" if text.startswith("/") else f"{text[: _WIDEST - 1]}…"


def _amount(value: float | int) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def as_json(
    runs: Sequence[FinishedRun],
    names: Sequence[str],
    against: Sequence[Mapping[str, Difference]],
    settings: Settings,
) -> str:
    """Return everything as JSON."""
    found = {
        "runs": {name: str(run.folder) for name, run in zip(names, runs, strict=True)},
        "test_points": len(runs[0].dataset.test),
        "metrics": {
            name: {metric: float(values.mean()) for metric, values in run.points.items()}
            for name, run in zip(names, runs, strict=True)
        },
        "minus_first": {
            name: {metric: dataclasses.asdict(one) for metric, one in some.items()}
            for name, some in zip(names[1:], against, strict=True)
        },
        "bootstrap": {"samples": RESAMPLES, "confidence": CONFIDENCE, "seed": SEED},
        "settings": {
            setting: dict(zip(names, values, strict=True)) for setting, values in settings.items()
        },
        "cost": {name: run.costs() for name, run in zip(names, runs, strict=True)},
    }
    return json.dumps(jsonable(found), indent=1)
