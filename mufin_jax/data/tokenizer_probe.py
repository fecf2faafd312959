"""The program that tries a tokenizer.json: `tokenizer_trial.py` runs it in a process of its own.

    python tokenizer_probe.py FILE BYTES SECONDS    reads {"texts": [...], "max_tokens": n}

The file is somebody else's, and compiled code reads it: a few bytes of it can end the process, fill
the memory or never come to an end. This program has limits on memory and on time. It imports only
`tokenizers`, which takes a twentieth of a second.
"""

import contextlib
import json
import sys
from pathlib import Path

import tokenizers

_ID_LIMIT = 2**31
_HOLES = 1000  # numbers that no token has: some vocabularies leave a few out


def main(path: str, most_bytes: int, seconds: int) -> None:
    """Try one file, and print {"error": text or null}."""
    _limit(most_bytes, seconds)
    request = json.load(sys.stdin)
    try:
        error = _error(Path(path).read_text("utf-8-sig"), **request)
    except BaseException as failure:  # a panic in Rust is no Exception
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())[:200]}"
    print(json.dumps({"error": error}))


def _error(text: str, texts: list[str], max_tokens: int) -> str | None:
    """Return what is wrong with a tokenizer; None if it encodes all texts."""
    backend = tokenizers.Tokenizer.from_str(text)
    backend.no_padding()
    if hasattr(backend.model, "dropout"):
        backend.model.dropout = None  # type: ignore
    vocabulary = backend.get_vocab()
    token = max(vocabulary, key=lambda name: vocabulary[name], default="")
    last = vocabulary.get(token, -1)
    if last >= min(2 * len(vocabulary) + _HOLES, _ID_LIMIT):
        return f"the token {token!r:.60} has the id {last:,}, though there are {len(vocabulary):,}"
    backend.enable_truncation(max_tokens)
    found = 0
    for one in texts:
        shown = f"the text {one[:40]!r}"
        try:
            ids = backend.encode(one).ids
            again = backend.encode(one).ids
        except BaseException as failure:  # a panic in Rust is no Exception
            reason = " ".join(str(failure).split())[:120]
            return f"{shown} cannot be encoded ({type(failure).__name__}: {reason})"
        if len(ids) > max_tokens:
            return f"{shown} gives {len(ids)} tokens with max_tokens={max_tokens}"
        if ids and max(ids) > last:
            return f"{shown} gives the id {max(ids):,}, though the last token has {last:,}"
        if ids != again:
            return f"{shown} gives other tokens each time"
        found += len(ids)
    return None if found else "no text gives a token"


def _limit(most_bytes: int, seconds: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows; the parent's clock still ends this process
        return
    limits = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_AS: (most_bytes, most_bytes),
        resource.RLIMIT_CPU: (seconds, seconds + 1),
    }
    for kind, values in limits.items():
        with contextlib.suppress(ValueError, OSError):  # there is a lower one, or macOS knows none
            resource.setrlimit(kind, values)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
