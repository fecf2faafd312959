"""Runs the short version of every benchmark, one process after the other, and prints one table.

    python benchmarks/table.py                       # what `make bench` does
    python benchmarks/table.py startup label_table   # only these
    python benchmarks/table.py --out=results         # also writes table.txt and lines.jsonl there
    python benchmarks/table.py --device=gpu          # at the paper's size, and torch.compile
    python benchmarks/table.py --device=cpu --small  # the same code on tiny encoders

A row is a line of JSON with `name` and `ratio` that a script has printed. A script that ends with
an error has a row that reports this, and the exit code is then 1. A ratio beyond its limit does not
change the exit code: another machine, or a busy one, is no error.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "encoders": ("torch", "transformers"),
    "module_1_step": ("torch", "transformers"),
    "module_4_step": ("torch", "transformers"),
    "label_table": (),
    "retrieval": ("hnswlib",),
    "parts": (),
    "predict": ("torch", "transformers", "hnswlib"),
    "input_pipeline": (),
    "startup": (),
    "demo": (),
    "parity": ("torch", "transformers"),
}
"""The benchmarks in their order, and the packages beyond our own that each compares with."""
DEVICE = ("module_1_step", "module_4_step", "predict")
"""The benchmarks that a named device runs whole."""
SECONDS = 600
"""The most that a short script may take; a whole one may take three times that."""
HEADER = ("name", "ratio", "limit", "within", "ours ms", "theirs ms")


def run(script: str, flags: list[str]) -> tuple[list[dict[str, Any]], str | None]:
    """Run one script, and return the lines of JSON it printed and what went wrong, if anything."""
    needs, seconds = SCRIPTS[script], SECONDS if "--short" in flags else 3 * SECONDS
    if missing := [package for package in needs if importlib.util.find_spec(package) is None]:
        return [], f"needs the extra bench ({', '.join(missing)})"
    path = HERE / f"{script}.py"
    if not path.exists():
        return [], "failed: no such script"
    root = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    command, failed = [sys.executable, str(path), *flags], None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=HERE.parent, env=os.environ | {"PYTHONPATH": root}, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out, said = process.communicate(timeout=seconds)
            if process.returncode:
                failed = f"failed: {_last(said) or f'exit code {process.returncode}'}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # with the processes that it started
            out, said = process.communicate()
            failed = f"failed: longer than {seconds} s"
    if failed:
        print(said, file=sys.stderr)
    lines = lines_of(out)
    return lines, failed or (None if lines else "failed: printed no line with name and ratio")


def lines_of(out: str) -> list[dict[str, Any]]:
    """Return the results among the lines that a script printed."""
    found = []
    for text in out.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"name", "ratio"} <= line.keys():
            found.append(line)
    return found


def row(line: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a result."""
    within = line.get("within")
    return (
        line["name"],
        _number(line["ratio"]),
        _number(line.get("limit")),
        "" if within is None else "yes" if within else "NO",
        _number(_milliseconds(line, "ours")),
        _number(_milliseconds(line, "theirs")),
    )


def table(rows: list[tuple[str, ...]]) -> str:
    """Align the cells; a row of two, name and remark, runs across."""
    full = [HEADER, *(row for row in rows if len(row) > 2)]
    widths = [max(len(row[i]) for row in full) for i in range(len(HEADER))]
    widths[0] = max(widths[0], *(len(row[0]) for row in rows)) if rows else widths[0]
    lines = []
    for cells in (HEADER, *rows):
        padded = [cells[0].ljust(widths[0])]
        if len(cells) == 2:
            padded.append(cells[1])
        else:
            padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    return "\n".join(lines)


def _milliseconds(line: dict[str, Any], side: str) -> float | None:
    """Return the time of a side: `ours_ms`, or `ms` under `ours`, or that in `sides`.

    With several sides, ours is the first, and theirs the first that is not named "ours".
    """
    found = line.get(f"{side}_ms", line.get(side))
    if found is None and isinstance(sides := line.get("sides"), dict):
        own = [name for name in sides if name.startswith("ours")]
        others = [name for name in sides if name not in own]
        names = own if side == "ours" else others
        found = sides[names[0]] if names else None
    if isinstance(found, dict):
        found = found.get("ms")
    return found if isinstance(found, int | float) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _last(said: str) -> str:
    """Return the last line of an error message, cut to a width."""
    lines = [line for line in said.splitlines() if line.strip()]
    return lines[-1].strip()[:100] if lines else ""


def main() -> int:
    """Run the requested scripts, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description="All benchmarks, short, in one table.")
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"of {', '.join(SCRIPTS)}")
    parser.add_argument("--device", choices=("gpu", "cpu"), help="whole steps and answers on it")
    parser.add_argument("--small", action="store_true", help="with --device: tiny encoders")
    parser.add_argument("--out", type=Path, help="a folder for table.txt and lines.jsonl")
    arguments = parser.parse_args()
    if unknown := set(arguments.scripts) - SCRIPTS.keys():
        parser.error(
            f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(SCRIPTS)}"
        )
    flags, scripts = ["--short"], arguments.scripts or SCRIPTS
    if arguments.device:
        scripts = arguments.scripts or DEVICE
        flags = [f"--device={arguments.device}", *(["--small"] if arguments.small else [])]
    rows: list[tuple[str, ...]] = []
    results, code, begin = [], 0, time.monotonic()
    for script in scripts:
        start = time.monotonic()
        print(f"{script} ...", end=" ", file=sys.stderr, flush=True)
        lines, remark = run(script, flags)
        print(remark or f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        results += lines
        rows += [row(line) for line in lines]
        if remark:
            rows.append((script, remark))
            code |= remark.startswith("failed")
    text = table(rows)
    print(text)
    print(f"\nratio: ours over theirs, at most the limit; {time.monotonic() - begin:.0f} s in all")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "table.txt").write_text(text + "\n")
        (arguments.out / "lines.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
