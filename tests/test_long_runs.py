"""Claims about long runs: neither memory nor programs grow with the number of steps and answers."""

import dataclasses
import gc
import os
from pathlib import Path
from typing import Any

import jax
import minute
import numpy as np
import pytest
from raw_folders import picture
from small import COLOURS

STATM = Path("/proc/self/statm")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc"),
]
MOST = 1.02
"""Resident memory at the end, over that after a tenth."""


def resident() -> int:
    """Bytes of this process that lie in memory."""
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_ten_thousand_answers_compile_nothing_and_take_no_memory(
    minute_run, one_device, compilations
):
    from mufin_jax.prediction import Predictor

    predictor = Predictor.load(minute_run, one_device)
    predictor.warm_up(points=8, images=3)
    compilations.clear()
    rng, early = np.random.default_rng(0), 0
    for answer in range(10_000):
        title = " ".join(rng.choice(COLOURS, rng.integers(0, 12)))
        images = [picture(int(n)) for n in rng.integers(60, size=rng.integers(not title, 4))]
        assert predictor.predict([{"title": title, "images": images}], k=3)
        if answer == 1_000:
            early = resident()
    assert compilations == []
    assert resident() < MOST * early, f"{early / 1e6:.0f} MB became {resident() / 1e6:.0f}"


@pytest.mark.parametrize("number", ["1", "4"])
def test_two_thousand_steps_compile_their_shapes_once_and_take_no_memory(
    number, minute_run, one_device, tmp_path, monkeypatch, compilations
):
    from mufin_jax.stages import finetune, pretrain

    module = {"1": pretrain, "4": finetune}[number]
    taken, fit = [], module.fit
    beside: list[int] = []
    shapes: set[tuple[Any, ...]] = set()  # one batch in a thousand is larger than the usual size

    def watched_fit(state, step, *rest, **options):
        def watched(state, batch):
            if len(taken) in (200, 1_999):
                beside.append(len(compilations) - len(shapes))
                taken.append(resident())
            else:
                taken.append(0)
            shapes.add(tuple(map(np.shape, jax.tree.leaves(batch))))
            return step(state, batch)

        return fit(state, watched, *rest, **options)

    monkeypatch.setattr(module, "fit", watched_fit)
    config = {"1": minute.MINUTE.pretrain, "4": minute.MINUTE.finetune}[number]
    rarely = dataclasses.replace(config.fit, log_every=20, checkpoint_every=500)
    config = dataclasses.replace(config, epochs=1_000, fit=rarely)
    if number == "1":
        config = dataclasses.replace(config, refresh_epochs=100)
        pretrain.pretrain(
            config, minute.MINUTE.model, minute_run / "prepare", tmp_path, one_device, 0,
            tmp_path / "kept",
        )  # fmt: skip
    else:
        finetune.finetune(
            config, minute_run / "prepare", minute_run / "retrieve", minute_run / "initialize",
            tmp_path, one_device, 0, tmp_path / "kept",
        )  # fmt: skip
    assert len(taken) >= 2_000 and beside[0] == beside[1] and len(shapes) <= 3
    assert taken[1_999] < MOST * taken[200], f"{taken[200]:,} bytes became {taken[1_999]:,}"
