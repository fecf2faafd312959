"""A table of runs that differ from one experiment in a few settings, as in the paper's table 4.

All rows run for every seed, one after another. Finished runs are skipped. A stage that several rows
share is made once (`runtime/shared_stages.py`). All rows are compared with the first one.

    <workdir>/seed-<seed>/<row>/    the folder of a run, in which shared stages are links
    <workdir>/run.json              the experiment, versions, devices
    <workdir>/table.json            each row's settings, metrics by seed, and the paper's values
    <workdir>/table.csv             one line a row: the printed figures
"""

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.summary import CONTENT
from mufin_jax.evaluation.tables import table
from mufin_jax.evaluation.test_set import measure
from mufin_jax.evaluation.warm_cold import KINDS, SHOWN
from mufin_jax.pipeline.cli import Command
from mufin_jax.pipeline.experiment import Experiment, StageName
from mufin_jax.pipeline.named_settings import with_settings
from mufin_jax.pipeline.run import run
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import Run, environment
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import load_json, replacing, save_json

COLUMNS = ("P@1", "P@5", "nDCG@5", "R@10")
"""The metrics of the paper's table 4, in percent."""

FURTHER = tuple(f"{metric} {of}" for of in ("content", *KINDS) for metric in SHOWN)
"""Columns that a table has if one of its runs has these figures: of the mix without the walks (in
runs whose score has parts), and of warm and of cold test points (where there are both)."""

_TO_THE_END: tuple[StageName, ...] = ("all",)
_TO_SHORTLISTS: tuple[StageName, ...] = ("prepare", "pretrain", "retrieve")


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        settings: the differences from the experiment: part of it -> field -> value. The value of a
            field that has fields itself may be such a mapping, too.
        paper: the published metrics of the row, if any.
        shortlists_alone: rank by the similarities of Module II, without Modules III and IV.
    """

    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    shortlists_alone: bool = False

    def of(self, experiment: Experiment) -> Experiment:
        """Return the experiment with this row's settings."""
        return with_settings(experiment, self.settings)


@dataclasses.dataclass(frozen=True)
class Comparison(Command):
    """A command that runs an experiment and the other rows of a table; it skips finished runs."""

    TABLE: ClassVar[Mapping[str, Row]] = {}
    """All rows by name. The first row is the experiment without changes."""

    rows: str = "all"
    """Names of the rows to run, separated by commas; the first row of the table always runs."""
    seeds: str = "0,1,2"
    """Seeds of the training, separated by commas; the data are the same for all."""

    def table(self) -> Mapping[str, Row]:
        """Return the rows that can be run with these options."""
        return self.TABLE

    def run(self) -> None:
        """Run the rows and print the table."""
        if self.stage != "all" or self.experiment.seed:
            given = f"--stage={self.stage}" if self.stage != "all" else "--seed"
            raise InputError(
                f"{given}: every row runs through all of its stages, with the seeds of "
                "--seeds=0,1,2; leave the option out"
            )
        if self.redo is not None:
            raise InputError(
                f"--redo={self.redo}: rows share their stages; make those of one row again with "
                "its own experiment and --workdir, or choose another --workdir for the table"
            )
        rows = _chosen(self.rows, self.table())
        found = compare(rows, self.experiment, _seeds(self.seeds))
        if processes.is_main():
            print(comparison_table(rows, found, self.experiment))
            print(f"\n{self.experiment.folder}/table.json has all figures")


Found = dict[str, dict[int, dict[str, float]]]
"""Row -> seed -> metric -> value."""


def compare(rows: Mapping[str, Row], experiment: Experiment, seeds: Sequence[int]) -> Found:
    """Run every row with every seed, return its metrics, and write the tables after each run.

    Raises:
        InputError: wrong data, or a folder made with another configuration.
        Held: another run uses the folder.
        Stopped: after a signal; the same call resumes.
    """
    found: Found = {name: {} for name in rows}
    made: list[Path] = []
    with Run(experiment.folder) as held:
        if not held.facts():  # a resumed table keeps the number of threads that it began with
            held.record(experiment=experiment.options(), **environment())
        for seed in seeds:
            for name, row in rows.items():
                check_stop("ablations")
                workdir = experiment.folder / f"seed-{seed}" / name
                own = dataclasses.replace(row.of(experiment), seed=seed, workdir=workdir)
                page = dataclasses.replace(own.report, figures=False)
                own = dataclasses.replace(own, report=page)
                run(own, "prepare", others=made)
                _reject_questions(workdir)  # before hours of training begin
                for stage in _TO_SHORTLISTS if row.shortlists_alone else _TO_THE_END:
                    run(own, stage, others=made)
                jax.clear_caches()  # later rows find shared programs on the disk
                made.append(workdir)
                found[name][seed] = metrics_of(workdir, row)
                processes.once(
                    "the tables are written", lambda: _write(rows, found, experiment.folder)
                )
    return found


def _reject_questions(workdir: Path) -> None:
    """Reject data whose test points are questions: the columns need rankings of labels."""
    if Dataset.load(workdir / "prepare").questions is not None:
        raise InputError(
            "the test points are questions with given answers, and the table needs rankings of "
            "labels; run python -m experiments.polyvore with the options of a row"
        )


def metrics_of(workdir: Path, row: Row) -> dict[str, float]:
    """Return the metrics of a row's finished run, with those of `FURTHER` that it has."""
    if row.shortlists_alone:
        lists = Shortlist.load(workdir / "retrieve" / "test")
        return measure(lists.labels, Dataset.load(workdir / "prepare"))
    result = load_json(workdir / "evaluate" / "metrics.json")
    further = {"content": result["rows"].get(CONTENT)}
    if all(kind in result for kind in KINDS):
        further |= {kind: result[kind]["rows"]["MUFIN"] for kind in KINDS}
    return result["rows"]["MUFIN"] | {
        f"{metric} {of}": values[metric] for of, values in further.items() if values
        for metric in SHOWN
    }  # fmt: skip


def columns_of(found: Found) -> tuple[str, ...]:
    """Return the metrics that the tables show: `COLUMNS`, and those of `FURTHER` that a run has."""
    known = {name for seeds in found.values() for values in seeds.values() for name in values}
    return (*COLUMNS, *(name for name in FURTHER if name in known))


def differences(found: Found, name: str, metric: str = "P@1") -> list[float]:
    """Return a row's metric minus that of the first row, for each seed."""
    first = next(iter(found.values()))
    return [values[metric] - first[seed][metric] for seed, values in found[name].items()]


def comparison_table(rows: Mapping[str, Row], found: Found, experiment: Experiment) -> str:
    """Return the table: our metrics, the paper's P@1, and differences from the first row.

    A row with the settings of the first row, because the preset has them already, is marked so.
    """
    first, lines, shown = next(iter(rows)), {}, columns_of(found)
    difference = f"P@1 - {first}"
    for name, row in rows.items():
        line = {c: cell for c in shown if (cell := spread(_values(found[name], c)))}
        if name != first:
            same = row.of(experiment) == rows[first].of(experiment) and not row.shortlists_alone
            line[difference] = "same settings" if same else spread(differences(found, name), "+")
        published = {"P@1": row.paper.get("P@1"), difference: _published_difference(row, rows)}
        lines[name] = line | {
            f"paper: {head}": f"{value:+.2f}" if head == difference else f"{value:.2f}"
            for head, value in published.items()
            if value is not None
        }
    published = ("paper: P@1", f"paper: {difference}")
    columns = (*shown, difference, *(c for c in published if any(c in lines[n] for n in lines)))
    seeds = len(found[first])
    return table(lines, columns) + (
        f"\nmean ± standard deviation over {seeds} seed{'s' * (seeds != 1)}; differences are taken "
        "seed by seed"
    )


def _values(seeds: Mapping[int, Mapping[str, float]], metric: str) -> list[float]:
    """Return a metric of the seeds that have it."""
    return [values[metric] for values in seeds.values() if metric in values]


def spread(values: Sequence[float], sign: str = "") -> str:
    """Return the mean of values, and their standard deviation where there are several."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{sign}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _published_difference(row: Row, rows: Mapping[str, Row]) -> float | None:
    """Return the published difference in P@1 from the first row."""
    first = next(iter(rows.values()))
    if row is first or "P@1" not in row.paper or "P@1" not in first.paper:
        return None
    return round(row.paper["P@1"] - first.paper["P@1"], 2)


def _write(rows: Mapping[str, Row], found: Found, folder: Path) -> None:
    """Write table.json and table.csv with the results so far."""
    first = next(iter(rows))
    whole = {
        name: {
            "settings": row.settings,
            "seeds": found[name],
            "P@1 - " + first: differences(found, name),
            "paper": row.paper,
        }
        for name, row in rows.items()
    }
    save_json(folder / "table.json", whole)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    shown = columns_of(found)
    heads = [head for c in shown for head in (c, f"{c} sd", f"{c} paper")]
    moves = f"P@1 - {first}"
    writer.writerow(["row", "seeds", *heads, moves, f"{moves} sd", f"{moves} paper"])
    for name, row in rows.items():
        seeds = found[name]
        cells = [cell for c in shown for cell in (*_moments(_values(seeds, c)), row.paper.get(c))]
        moved = *_moments(differences(found, name)), _published_difference(row, rows)
        writer.writerow([name, len(seeds), *cells, *moved])
    with replacing(folder / "table.csv") as file:
        file.write(text.getvalue().encode())


def _moments(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the standard deviation, None where they do not exist."""
    return (
        round(statistics.mean(values), 4) if values else None,
        round(statistics.stdev(values), 4) if len(values) > 1 else None,
    )


def _chosen(names: str, table: Mapping[str, Row]) -> dict[str, Row]:
    """Return the table's first row and the chosen rows, in the order of the table."""
    chosen = set(table) if names == "all" else {name.strip() for name in names.split(",")}
    if unknown := sorted(chosen - set(table)):
        raise InputError(f"--rows={','.join(unknown)}: expected all, or some of {', '.join(table)}")
    first = next(iter(table))
    return {name: row for name, row in table.items() if name in chosen or name == first}


def _seeds(text: str) -> list[int]:
    """Return the distinct seeds of a list."""
    try:
        return list(dict.fromkeys(int(seed) for seed in text.split(",")))
    except ValueError:
        raise InputError(f"--seeds={text}: expected whole numbers, such as --seeds=0,1,2") from None
