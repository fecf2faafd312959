"""Answers for files of any number of items, in bounded memory, resumed after a kill.

The work is cut into parts of `PART` rows. OUT.partial/ holds a finished part as two files:
`00012` (answers) and, written after it, `00012.json` (what is bad among its rows). At the end the
parts are joined to OUT. `settings.json` knows the input and the options: others are rejected.
"""

import contextlib
import dataclasses
import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mufin_jax.data.readers.tally import Tally
from mufin_jax.prediction.answer_files import Answered, form_of, join_parts, save_part
from mufin_jax.prediction.answers import Prediction
from mufin_jax.prediction.item_files import Block, ItemFile, Note, RowReader
from mufin_jax.prediction.items import Item
from mufin_jax.runtime.errors import Held, InputError, Stopped
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.files import jsonable, load_sealed, save_sealed
from mufin_jax.runtime.storage.fingerprint import fingerprint

BLOCK = 256
"""Rows that are read and asked for together ..."""
PART = 16 * BLOCK
"""... and rows of a part."""

Answer = Callable[[list[Item]], list[list[Prediction]]]
"""Ranks the labels of items."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """What became of a file.

    Attributes:
        items: how many were answered.
        now: how many of them by this call.
        seconds: that this call took.
        tally: what is bad in the file.
    """

    items: int
    now: int
    seconds: float
    tally: Tally

    def __str__(self) -> str:
        """Return one line for people."""
        rate = f", {self.now / self.seconds:,.0f} a second" if self.now and self.seconds else ""
        bad = self.tally.summary()
        return f"{self.items:,} items{rate}{'; ' + bad if bad else ''}"


def answer_file(
    source: ItemFile,
    out: Path,
    reader: RowReader,
    answer: Answer,
    settings: dict[str, Any],
    max_bad: float = 0.05,
) -> Summary:
    """Write the labels of all items of a file; the same call resumes after a stop.

    Args:
        source: the items.
        out: the file of answers; its name gives its form (`answer_files.FORMS`).
        reader: turns rows into items.
        answer: ranks labels; for the same block, always the same.
        settings: what the answers depend on, as JSON; recorded for `resume`.
        max_bad: the largest tolerated share of bad rows, or of broken pictures.

    Raises:
        InputError: if `out` is there, was begun with other settings, or an input cannot be read.
        TooManyBadRows: if more is bad; what is answered stays for a call with a larger `max_bad`.
        Held: if another process writes the same file.
        DiskError: if the disk does not take it.
        Stopped: after a signal.
    """
    start, form = time.monotonic(), form_of(out)
    work = out.with_name(f"{out.name}.partial")
    if out.exists() and not work.exists():
        raise InputError(f"{out} is there already: delete it, or choose another --out")
    if not out.parent.is_dir():
        raise InputError(f"{out}: expected a folder that exists; {out.parent} is none")
    with disk_errors(work):
        work.mkdir(exist_ok=True)
    with _alone(work):
        recorded = {"form": form, "input": fingerprint(source.path), "part": PART, **settings}
        _check_settings(work, jsonable(recorded))
        tally, before = Tally(max_bad, "--max-bad"), 0
        done = list(_finished(work))
        for facts in done:
            before += facts["items"]
            _block_of(facts).tell(tally, source.path.name)
        files = [_name(work, number) for number in range(len(done))]
        now = 0
        with progress(total=_count(source.path), desc="predict", unit="item") as bar:
            bar.update(len(done) * PART)
            parts = _parts(source, reader, answer, len(done), bar.update)
            for number, (block, answers) in enumerate(parts, len(done)):
                save_part(_name(work, number), form, answers)
                save_sealed(
                    _facts(work, number),
                    {"items": len(answers), "seen": block.seen, "notes": block.notes},
                )
                block.tell(tally, source.path.name)
                files.append(_name(work, number))
                now += len(answers)
        if not tally.seen_of("lines"):
            raise InputError(f"{source.path} is empty: expected items, a row each")
        tally.check()
        join_parts(out, form, files)
        shutil.rmtree(work, ignore_errors=True)
    return Summary(before + now, now, time.monotonic() - start, tally)


def _parts(
    source: ItemFile, reader: RowReader, answer: Answer, finished: int, tick: Callable[[int], Any]
) -> Iterator[tuple[Block, list[Answered]]]:
    """Yield what is read and answered of each part that is not finished.

    One thread reads the next block while this one is answered.
    """
    rows = source.rows()
    with ThreadPoolExecutor(1) as ahead:

        def read() -> tuple[int, Block]:
            some = list(itertools.islice(rows, BLOCK))
            return len(some), reader.read(some)

        for _ in range(finished):
            check_stop("predict")
            _skip(rows)
        whole, answers, count = Block(), [], 0
        coming: Future[tuple[int, Block]] = ahead.submit(read)
        while True:
            with _named():
                size, block = coming.result()
            if size:
                coming = ahead.submit(read)
                found = answer(block.items) if block.items else []
                answers += map(Answered, block.rows, (one.id for one in block.items), found)
                _join(whole, block)
                count += size
                tick(size)
            if count and (not size or count >= PART):
                yield whole, answers
                whole, answers, count = Block(), [], 0
            if not size:
                return


def _skip(rows: Iterator[Any]) -> None:
    with _named():
        for _ in itertools.islice(rows, PART):
            pass


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Let a stop while reading begin with the word of this command."""
    check_stop("predict")
    try:
        yield
    except Stopped:
        check_stop("predict")
        raise


def _join(whole: Block, block: Block) -> None:
    """Add what is known of a block to what is known of its part; items and rows are not kept."""
    whole.notes += block.notes
    for population, number in block.seen.items():
        whole.seen[population] += number


def _finished(work: Path) -> Iterator[dict[str, Any]]:
    """Yield what is recorded of the parts that are finished, up to the first that is not."""
    for number in itertools.count():
        if not (_facts(work, number).exists() and _name(work, number).exists()):
            return
        yield load_sealed(_facts(work, number))


def _block_of(facts: dict[str, Any]) -> Block:
    return Block(notes=[Note(*note) for note in facts["notes"]], seen=facts["seen"])


def _name(work: Path, number: int) -> Path:
    return work / f"{number:05d}"


def _facts(work: Path, number: int) -> Path:
    return work / f"{number:05d}.json"


@contextlib.contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder of the parts.

    Raises:
        Held: if another process holds it.
    """
    try:
        with FileLock(work / "lock", timeout=0):
            yield
    except InputError:
        if not _facts(work, 0).exists():  # nothing is lost, and other options may be given
            shutil.rmtree(work, ignore_errors=True)
        raise
    except Timeout:
        raise Held(f"{work}: another process writes this file; wait for it, or end it") from None


def _check_settings(work: Path, settings: dict[str, Any]) -> None:
    """Record settings, or compare them with those that are recorded.

    Raises:
        InputError: if they differ.
    """
    path = work / "settings.json"
    if not path.exists():
        save_sealed(path, settings)
        return
    known = load_sealed(path)
    names = sorted(known.keys() | settings.keys())
    changed = [name for name in names if known.get(name) != settings.get(name)]
    if changed:
        shown = [
            "the input file" if name == "input" else "the run" if name == "run"
            else f"{name}: {known.get(name)} -> {settings.get(name)}" for name in changed
        ]  # fmt: skip
        raise InputError(
            f"{work} was begun with something else ({'; '.join(shown):.300}): give what it was "
            "begun with, or delete it to begin again"
        )


def _count(path: Path) -> int | None:
    """Return about how many rows a file has, for the bar; None if only reading it tells."""
    if path.suffix in (".gz", ".parquet"):
        return None
    count = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            check_stop("predict")
            count += piece.count(b"\n")
    return count or None
