"""The mistakes of newcomers: each is right all the same, or one true line tells what to do."""

import pytest
from newcomers_rows import MISTAKES

from mufin_jax.pipeline import run as running


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Keep commands from setting JAX's compile cache for the whole process."""
    monkeypatch.setattr(running, "use_compile_cache", lambda folder: None)


def is_log(line: str) -> bool:
    """Return whether a line is a log line: time and level before the message."""
    words = line.split(" ", 2)
    return len(words) == 3 and words[0].count(":") == 2 and words[1] in ("INFO", "WARNING")


def test_the_list_has_at_least_sixty_mistakes():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 60


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_each_mistake_is_told_in_one_true_line(mistake, tmp_path, capsys):
    code = mistake.call(tmp_path)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if not is_log(line)]
    warnings = [line for line in err.splitlines() if is_log(line) and " WARNING " in line]
    assert code == mistake.code, err
    if mistake.code:
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        assert mistake.words in lines[0], lines[0]
        assert len(lines[0]) < 700
    elif mistake.words:
        assert any(mistake.words in line for line in warnings) or mistake.words in out, err
    else:
        assert not warnings
