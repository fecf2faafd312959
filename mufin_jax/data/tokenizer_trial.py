"""A user's tokenizer.json is tried in a process of its own before anything else loads it.

Compiled code reads the file, and no `except` here can catch an abort in it. The trial has limits on
time and memory. What it finds ends the run in one line that names the file.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mufin_jax.data.tokenizer import Tokenizer, tokenizer_file
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import check_stop

SECONDS = 20
"""Of computing that a trial may take."""
MOST_BYTES = 2**28
"""The largest tokenizer.json that is read."""
_MEMORY, _TIMES = 4 * 2**30, 64  # a trial may use _MEMORY bytes and _TIMES the size of the file
_TITLES = 500
"""Of the catalogue, this many are tried."""
_LONGEST = 500
_TEXTS = (
    "",
    "a",
    "The quick brown fox jumps over the lazy dog, 0123456789 times.",
    "THE QUICK BROWN FOX: JUMPS OVER; THE LAZY DOG!",
    "".join(map(chr, range(32, 127))),
    "Crème brûlée, Übergröße, naïve Ångström, piñata & œuvre",
    "日本語 中文 한국어 русский العربية ไทย 😀",
    " \t\n\u200b ",
    "leather sofa " * 30,
)
_tried: set[tuple[str, str, int]] = set()


def load_tried(
    source: str | Path, prompt: str | None, max_tokens: int, titles: Sequence[str] = ()
) -> Tokenizer:
    """Load a tokenizer as `Tokenizer.load` does, after a trial of its tokenizer.json.

    A trial without titles is made once in a process.

    Args:
        source: a tokenizer.json, a folder with tokenizer.json or vocab.txt, or a hub name.
        prompt: as for `Tokenizer.load`.
        max_tokens: the most tokens of a text.
        titles: of the catalogue; the first ones are tried.

    Raises:
        InputError: if there is no tokenizer, it cannot be read, or it fails in the trial.
        Stopped: after a signal.
    """
    path, prompt = tokenizer_file(source, prompt)
    if path.suffix == ".json":
        if (size := path.stat().st_size) > MOST_BYTES:
            raise InputError(f"{path} has {size:,} bytes: expected at most {MOST_BYTES:,}")
        key = hashlib.sha256(path.read_bytes()).hexdigest(), prompt, max_tokens
        if titles or key not in _tried:
            texts = [*_TEXTS, *(title[:_LONGEST] for title in titles[:_TITLES])]
            found = _try(path, size, [prompt + text if text else "" for text in texts], max_tokens)
            if found is not None:
                raise InputError(
                    f"{path} is not a tokenizer that can be used: {found}; expected the "
                    "tokenizer.json of a checkpoint as published"
                )
            _tried.add(key)
    return Tokenizer.load(path, prompt)


def _try(path: Path, size: int, texts: list[str], max_tokens: int) -> str | None:
    """Return what is wrong with a tokenizer.json; None if nothing is."""
    probe = Path(__file__).with_name("tokenizer_probe.py")
    limit = str(_MEMORY + _TIMES * size)
    request = json.dumps({"texts": texts, "max_tokens": max_tokens})
    request = request.encode("utf-8", "replace").decode("utf-8")
    with subprocess.Popen(
        [sys.executable, "-P", str(probe), str(path), limit, str(SECONDS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        text=True,
        start_new_session=True,  # Ctrl-C is for this process, which then ends the other
    ) as child:
        out = error = None
        given: str | None = request
        try:
            for _ in range(6 * SECONDS):
                try:
                    out, error = child.communicate(given, timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    given = None  # it was sent before
                    check_stop("tokenizer")
        finally:
            child.kill()
    slow = f"a few short texts take more than {SECONDS} s"
    if out is None or error is None or child.returncode == -_signal("SIGXCPU"):
        return slow
    if child.returncode == 0:
        return json.loads(out)["error"]
    told = " ".join(error.partition("stack backtrace:")[0].split())
    return f"a few short texts end the process ({told[:120] or f'code {child.returncode}'})"


def _signal(name: str) -> int:
    return int(getattr(signal, name, 0))
