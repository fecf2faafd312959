"""The minute experiment, on a disk that cannot be written from a chosen moment on.

    python lacking.py --lacking=KIND --from=PATTERN --workdir=DIR [any flag of an experiment]

The moment comes when the run makes the first file or folder in DIR whose path matches the regular
expression PATTERN. From then on, depending on KIND:

    full       the file system that holds DIR is full, because of a file next to DIR
    read-only  DIR is mounted read-only
    limit      no file of this process, or of one that it starts, may hold more than 100 bytes
    EDQUOT     or another name of an error: making anything in DIR fails with this error; with
               EROFS, deleting fails, too

The first two really happen, and require a file system of their own: `on_a_small_disk` starts the
experiment on one, where the system permits it. The third really happens, too, on every system. All
three affect native code like Python. The last is simulated, for Python alone, by the names of the
files that it opens.
"""

import errno
import functools
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import minute

from mufin_jax.pipeline.cli import main
from mufin_jax.retrieval import scann

SIZE = "64m"
LIMIT = 100

_OPEN_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MAKES = ("open", "os.mkdir", "os.rename")
_DELETES = ("os.remove", "os.rmdir")

_ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$0 disk "$1.disk" && cp -a "$1" "$1.disk/run" || exit
workdir="$1"; shift
"$@" --workdir="$workdir.disk/run"; code=$?
rm -r "$workdir" && cp -a "$workdir.disk/run" "$workdir"
exit $code
"""


def lack(kind: str, pattern: str, workdir: Path) -> None:
    """Make writes fail once the moment comes; this process cannot undo it."""
    number = getattr(errno, kind, None)
    failing = (*_MAKES, *_DELETES) if kind == "EROFS" else _MAKES
    began = False

    def watch(event: str, arguments: tuple) -> None:
        nonlocal began
        if event not in failing or not isinstance(arguments[0], (str, bytes, Path)):
            return
        if event == "open" and not arguments[2] & _OPEN_TO_WRITE:
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))
        name = os.path.relpath(path, workdir)
        if not began and event in ("open", "os.mkdir") and re.fullmatch(pattern, name):
            began = True
            begin(kind, workdir)
        if began and number is not None and not name.startswith(".."):
            raise OSError(number, os.strerror(number), path)

    sys.addaudithook(watch)


def begin(kind: str, workdir: Path) -> None:
    """Do what a kind requires at the moment."""
    if kind == "full":
        with open(workdir.parent / "filling", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC
    if kind == "read-only":
        for options in (["--bind", workdir, workdir], ["-o", "remount,bind,ro", workdir]):
            subprocess.run(["mount", *options], check=True)
    if kind == "limit":
        tempfile.gettempdir()  # Python chooses it once, by writing a file there
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))


def on_a_small_disk(workdir: Path, *flags: str, cache: Path) -> subprocess.Popen[str]:
    """Start this script on a copy of the folder on a small file system; the copy comes back."""
    workdir.with_name(workdir.name + ".disk").mkdir(exist_ok=True)
    command = [*namespace(), "sh", "-c", _ON_A_SMALL_DISK, SIZE, str(workdir)]
    return subprocess.Popen(
        [*command, sys.executable, __file__, *flags],
        env=minute.environment(cache), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@functools.cache
def namespace() -> list[str]:
    """Return the command that starts another one with the right to mount; empty if none works."""
    for options in ("--mount", "--map-root-user --mount"):
        command = ["unshare", *options.split()]
        with tempfile.TemporaryDirectory() as folder:
            mount = [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "disk", folder]
            try:
                if subprocess.run(mount, capture_output=True).returncode == 0:
                    return command
            except OSError:  # the command does not exist
                break
    return []


def _taken(name: str) -> str:
    """Return the value of a flag of this script, and remove the flag from the arguments."""
    (flag,) = [flag for flag in sys.argv if flag.startswith(f"--{name}=")]
    if name != "workdir":
        sys.argv.remove(flag)
    return flag.partition("=")[2]


if __name__ == "__main__":
    lack(_taken("lacking"), _taken("from"), Path(_taken("workdir")).absolute())
    if "--retrieve.index.backend=scann" in sys.argv:
        scann.FEWEST_VECTORS = 16  # ScaNN needs so many
    sys.exit(main(minute.PRESETS))
