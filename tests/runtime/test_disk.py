"""A disk that is full, over its quota or read-only ends a run with one line and loses nothing.

In each test, writing to the disk fails at some points. There the run ends with code 74 and keeps
what it has saved. When the disk has space again, the same command resumes from there, and its
results are bit-identical to those of an uninterrupted run.
"""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lacking
import minute
import numpy as np
import pytest
from entries import catalogue, needs_scann
from jax._src import compilation_cache

from mufin_jax.retrieval.scann import Tree, build_apart
from mufin_jax.runtime.errors import DiskError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.logs import MetricsWriter
from mufin_jax.runtime.run_folder import Run
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.storage.disk import disk_errors, native_errors
from mufin_jax.runtime.storage.files import discard, save_array


class Point(NamedTuple):
    """A point at which writing fails: the file being written, and the failure (lacking.py)."""

    path: str
    kind: str
    blamed: str | None = None
    """The path in the message, if it differs from what was being written."""


POINTS = {
    "prepare": [
        Point("owner.json.tmp", "EROFS"),
        Point("prepare/settings.json.tmp", "EDQUOT"),
        Point("miniature/images/img.bin", "limit", "miniature"),
        Point("prepare/images.npy", "limit", "prepare"),
        Point("prepare/records/records/incomplete.*", "limit", "prepare"),
        Point("prepare/manifest.json.tmp", "ENOSPC"),
    ],
    "pretrain": [
        Point("pretrain/metrics.jsonl", "ENOSPC"),
        Point("pretrain/tensorboard/events.*", "limit", "pretrain/tensorboard"),
        Point("pretrain/.refresh-2.tmp/z.npy.tmp", "EDQUOT"),
        Point("pretrain/checkpoints/.3.tmp/state.*", "limit", "pretrain/checkpoints"),
        Point("pretrain/checkpoints/.4.tmp/facts.json.tmp", "ENOSPC"),
    ],
    "retrieve": [
        Point("retrieve/vectors.npy.tmp", "limit"),
        Point("retrieve/index/entries.npy.tmp", "limit"),
        Point("retrieve/test/similarities.npy.tmp", "EROFS"),
    ],
    "initialize": [
        Point("initialize/model/model.json.tmp", "EDQUOT"),
        Point("initialize/table/.0.tmp/state.*", "limit", "initialize/table"),
    ],
    "finetune": [
        Point("finetune/checkpoints/.4.tmp/state.*", "limit", "finetune/checkpoints"),
        Point("finetune/table/.0.tmp", "ENOSPC", "finetune/table"),
        Point("finetune/predictor/index/entries.npy.tmp", "EDQUOT"),
    ],
    "evaluate": [
        Point("evaluate/test.npz.tmp", "limit"),
        Point("metrics.json.tmp", "EROFS"),
    ],
    "report": [
        Point("report/part/index.html.tmp", "limit"),
    ],
}
SOME = [
    *(("prepare", point) for point in (1, 3, 4)),
    ("retrieve", 2),
]
"""The points of the default suite; the next test adds native code."""


def run(workdir: Path, point: Point, *flags: str, cache: Path) -> tuple[int, list[str]]:
    """Return the exit code of a run that meets a point, and its stderr without log lines."""
    flags = (*flags, f"--lacking={point.kind}", f"--from={point.path}")
    if point.kind in ("full", "read-only"):
        process = lacking.on_a_small_disk(workdir, *flags, cache=cache)
    else:
        process = minute.start(workdir, *flags, cache=cache, script=lacking.__file__)
    ((code, errors),) = minute.ends([process])
    logged = re.compile(r"\d\d:\d\d:\d\d (INFO|WARNING) ")
    return code, [line for line in errors.splitlines() if not logged.match(line)]


def meet(workdir: Path, point: Point, *flags: str, cache: Path) -> None:
    """Let a run meet a point; it must end with one line and leave no incomplete file."""
    code, errors = run(workdir, point, *flags, cache=cache)
    assert code == 74 and len(errors) == 1, (point, code, errors)
    blamed = point.blamed or point.path.removesuffix(".tmp")
    at = workdir if point.kind not in ("full", "read-only") else f"{workdir}.disk/run"
    size = r"[\d,.]+ (bytes|MB)"
    wanted = rf"error: {at}/{blamed}: [A-Z][a-z -]+ \((more than )?{size} needed, {size} free\); "
    assert re.match(wanted, errors[0]), (wanted, errors)
    if point.kind not in ("EROFS", "read-only"):  # where nothing can be deleted
        assert not leftovers(workdir), point
    for stage in ("pretrain", "finetune"):
        for step in (workdir / stage / "checkpoints").glob("[0-9]*"):
            assert Checkpoints(step.parent).restore(step=int(step.name)) is not None


def leftovers(workdir: Path) -> list[str]:
    """List the incomplete files of a folder."""
    names = [path.relative_to(workdir).as_posix() for path in workdir.rglob("*")]
    half_made = re.compile(r".*\.tmp(/.*)?|.*\.part|.*\.spool|.*incomplete.*|owner\.json")
    found = [name for name in names if half_made.fullmatch(name)]
    if not (workdir / "prepare" / "manifest.json").exists():  # only complete preparation counts
        told = ("prepare/settings.json", "prepare/sources.json")  # what the next try is compared to
        found += [
            name for name in names if name.startswith("prepare/") and not name.startswith(told)
        ]
    if not (workdir / "miniature" / "ceiling.json").exists():
        found += [name for name in names if name.startswith("miniature/")]
    return found


def complete(workdir: Path, stage: str, finished: Path, *flags: str, cache: Path) -> str:
    """Run the same command with space; check the results and return its stderr."""
    process = minute.start(workdir, f"--stage={stage}", *flags, cache=cache)
    ((code, errors),) = minute.ends([process])
    assert code == 0, errors
    if stage == "prepare":
        assert prepared(workdir) == prepared(finished)
    else:
        minute.assert_same(workdir, finished, until=stage)
    found = leftovers(workdir)
    assert not found
    return errors


def prepared(workdir: Path) -> dict:
    """Return the checksums of the prepared files."""
    return json.loads((workdir / "prepare" / "manifest.json").read_bytes())


@pytest.mark.slow  # the test below that meets a full disk in training is not
@pytest.mark.parametrize("stage", dict.fromkeys(stage for stage, _ in SOME))
def test_a_stage_that_a_full_disk_interrupted_resumes_to_the_same_bits(
    minute_run, compiled, tmp_path, stage
):
    workdir = minute.begun(minute_run, tmp_path / "run", stage)
    for name, point in SOME:
        if name == stage:
            meet(workdir, POINTS[stage][point], f"--stage={stage}", cache=compiled)
    complete(workdir, stage, minute_run, cache=compiled)


@pytest.mark.rotates("interrupted", every=2)
def test_training_that_cannot_save_resumes_from_the_last_checkpoint(minute_run, compiled, tmp_path):
    workdir = minute.begun(minute_run, tmp_path / "run", "pretrain")
    shutil.copytree(minute_run / "pretrain", workdir / "pretrain")
    for name in ("done.json", "model", "checkpoints/4"):
        discard(workdir / "pretrain" / name)
    point = Point("pretrain/checkpoints/.4.tmp/state.*", "limit", "pretrain/checkpoints")
    meet(workdir, point, "--stage=pretrain", cache=compiled)
    assert "resuming at step 3" in complete(workdir, "pretrain", minute_run, cache=compiled)


@contextlib.contextmanager
def limit(size: int) -> Iterator[None]:
    """Limit the size of the files of this process and of those that it starts."""
    tempfile.gettempdir()  # which Python chooses, once, by writing to it
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_array_whose_last_bytes_do_not_fit_on_the_disk_is_not_saved(tmp_path):
    array = np.arange(500.0)  # its end waits in a buffer when numpy looks for errors
    with (
        limit(4096),
        pytest.raises(DiskError, match=r"a\.npy: File too large \(4,000 bytes needed"),
    ):
        save_array(tmp_path / "a.npy", array)
    assert not list(tmp_path.iterdir())
    save_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


@pytest.mark.parametrize("array", [np.zeros((0, 3), np.int32), np.eye(3)[:, ::2], np.eye(2).T])
def test_arrays_are_saved_in_the_bytes_that_numpy_writes(tmp_path, array):
    save_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", np.ascontiguousarray(array))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EFBIG", "EIO"])
def test_each_way_in_which_a_disk_fails_is_a_disk_error(tmp_path, name, capsys):
    number = getattr(errno, name)

    def refuse() -> None:
        with disk_errors(tmp_path / "a", needed=2_000_000):
            raise OSError(number, os.strerror(number))

    assert main_guard(refuse) == 74
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {tmp_path}/a: {os.strerror(number)} (2.0 MB needed, ")
    assert errors.count("\n") == 1


def test_native_code_that_quotes_an_error_of_the_disk_raises_a_disk_error():
    errors = f"write() failed: {os.strerror(errno.ENOSPC)}; at byte 0"
    with pytest.raises(OSError) as found, native_errors():
        raise RuntimeError(errors)
    assert found.value.errno == errno.ENOSPC
    with pytest.raises(RuntimeError, match="of another kind"), native_errors():
        raise RuntimeError("of another kind")


def test_a_new_folder_without_room_is_a_disk_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Run(tmp_path) as held:
        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(DiskError, match=r"device \(4,096 bytes needed, .* free\)"):
            held.stage_folder("retrieve")


def test_metrics_that_do_not_fit_on_the_disk_raise_at_once(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 0.5})
    with limit(40), pytest.raises(DiskError, match=r"metrics\.jsonl: .* \(26 bytes needed"):
        writer.write(2, {"loss": 0.25})
    writer.close()
    again = MetricsWriter(tmp_path)
    again.resume(1)
    with limit(60), pytest.raises(DiskError, match=r"tensorboard: .* bytes needed"):
        again.write(2, {"loss": 0.25})
    again.resume(1)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 0.5}\n'


def test_a_compiled_program_that_was_written_in_part_is_deleted(tmp_path):
    (tmp_path / "compiled").mkdir()
    whole = compilation_cache.compress_executable(bytes(range(256)) * 99)
    for name, content in (("whole-cache", whole), ("torn-cache", whole[:99]), ("empty-cache", b"")):
        (tmp_path / "compiled" / name).write_bytes(content)
    with pytest.raises(DiskError), Run(tmp_path):
        raise DiskError("full")
    assert [path.name for path in (tmp_path / "compiled").iterdir()] == ["whole-cache"]


@needs_scann
def test_a_tree_that_does_not_fit_on_the_disk_is_a_disk_error(tmp_path):
    vectors, _, _ = catalogue()
    save_array(tmp_path / "vectors.npy", vectors)
    for size in (
        100,
        350,
    ):  # the list of files, for which ScaNN reports no error, holds about 300 bytes
        with limit(size), pytest.raises(OSError) as found:
            build_apart(tmp_path / "vectors.npy", tmp_path / "tree", 2, lambda: None)
        assert found.value.errno == errno.EFBIG
        assert not (tmp_path / "tree").exists()


@needs_scann
def test_a_list_of_files_that_scann_could_not_write_raises(tmp_path, monkeypatch):
    tree = Tree.build(catalogue()[0], 2)
    serialize = tree.searcher.serialize

    def cut_short(*arguments, **options):
        serialize(*arguments, **options)
        (tmp_path / "scann_assets.pbtxt").write_bytes(b"")
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    monkeypatch.setattr(tree.searcher, "serialize", cut_short)
    with limit(1 << 30), pytest.raises(OSError, match="File too large"):
        tree.save(tmp_path)


@pytest.mark.slow
@pytest.mark.rotates("disk", every=3)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["limit", "full", "read-only"])
@needs_scann
def test_an_index_whose_tree_a_full_disk_interrupts_resumes_to_the_same_bits(
    minute_run, compiled, tmp_path, kind
):
    if kind != "limit" and not lacking.namespace():
        pytest.skip("this system lets nobody mount a file system")
    workdir, whole = (
        minute.begun(minute_run, tmp_path / at, "retrieve") for at in ("run", "whole")
    )
    flags = ("--stage=retrieve", "--retrieve.index.backend=scann")
    point = Point("retrieve/index/tree.tmp", kind, "retrieve/index/tree.tmp")
    meet(workdir, point, *flags, cache=compiled)
    for at in (workdir, whole):
        assert run(at, Point("nothing", "limit"), *flags, cache=compiled) == (0, [])
    assert (whole / "retrieve" / "index" / "tree").is_dir()
    minute.assert_same(workdir, whole, until="retrieve")
    assert not leftovers(workdir)


@pytest.mark.slow
@pytest.mark.rotates("disk again", every=7)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("stage", POINTS)
def test_a_stage_that_full_disks_interrupt_repeatedly_resumes_to_the_same_bits(
    minute_run, compiled, tmp_path, stage, real
):
    if real and not lacking.namespace():
        pytest.skip("this system lets nobody mount a file system")
    workdir = minute.begun(minute_run, tmp_path / "run", stage)
    for point in POINTS[stage]:
        if real:
            kind = "read-only" if point.kind == "EROFS" else "full"
            point = point._replace(kind=kind)
        meet(workdir, point, f"--stage={stage}", cache=compiled)
    errors = complete(workdir, stage, minute_run, cache=compiled)
    if stage in ("pretrain", "finetune"):
        assert re.search("resuming at step [1-9]", errors)
