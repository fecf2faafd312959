"""Commands print whatever a stream can hold: an accent must not end a command after its work."""

import io
import os
import subprocess
import sys

import pytest

from mufin_jax.runtime.printing import print_everything

SAYS = "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{EN DASH} 1.5 \N{PLUS-MINUS SIGN} .2 \N{SNOWMAN}"
CODE = f"""
import sys
from mufin_jax.runtime.exit import main_guard
sys.exit(main_guard(lambda: print({SAYS!r})))
"""


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("ascii", "caf\\xe9 - 1.5 +- .2 \\u2603"),
        ("latin-1", "café - 1.5 ± .2 \\u2603"),
        ("utf-8", SAYS),
        ("ascii:replace", "caf? ? 1.5 ? .2 ?"),  # its user's own choice
    ],
)
def test_a_command_prints_on_a_stream_of_any_encoding(encoding, printed):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode(encoding.partition(":")[0]) == printed + "\n"


def test_a_log_file_in_ascii_takes_every_character(monkeypatch):
    """Also a lone surrogate, as names of files have them, in UTF-8."""
    for encoding, wanted in (("ascii", b"\\u2603 \\udcff"), ("utf-8", b"\xe2\x98\x83 \\udcff")):
        file = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
        print_everything()
        print("\N{SNOWMAN} \udcff", end="", flush=True)
        assert file.getvalue() == wanted


def test_streams_that_are_no_files_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    print_everything()
