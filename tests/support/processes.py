"""Python in another process, and the lines that it prints."""

import subprocess
import sys


def python(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def next_line(stream):
    assert stream is not None
    return stream.readline()
