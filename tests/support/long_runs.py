"""A long run in a process like those of users: what it compiles, and how much memory it holds.

    python tests/support/long_runs.py --workdir=RUN --of=answers|pretrain|finetune --scratch=DIR

RUN is a finished minute experiment. The script prints one line of JSON: `memory`, the resident
bytes after a tenth of the run and at its end; `late`, the names of the programs compiled between
the two; `shapes`, the number of shapes of batches. About one batch in a thousand is larger than
usual and compiles a program of its own: in these runs, in the first tenth or never.

It needs a process of its own because the tests check the types of every call (beartype), which
loses about 5 kB a call.
"""

import argparse
import dataclasses
import gc
import json
import os
from pathlib import Path
from typing import Any, cast

import jax
import minute
import numpy as np
from contexts import after
from raw_folders import picture
from small import COLOURS

from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.machine import share_memory_among_threads
from mufin_jax.stages import finetune, pretrain

ANSWERS, STEPS = 10_000, 2_000
SEEDS = {"pretrain": 0, "finetune": 3}
"""With these seeds the larger batches come early or never; see above."""


def resident() -> int:
    """Return the resident bytes of this process."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def compilations() -> list[str]:
    """Return a list that gets the name of each function compiled, or read from a cache."""
    names: list[str] = []

    def note(event: str, _: float, fun_name: str = "", **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    return names


def answers(run: Path) -> dict[str, Any]:
    """Predict for one item at a time, of all sizes, after warming up."""
    predictor = Predictor.load(run, make_mesh(jax.devices()[:1]))
    predictor.warm_up(points=8, images=3)
    compiled, memory = compilations(), []
    rng = np.random.default_rng(0)
    for answer in range(1, ANSWERS + 1):
        title = " ".join(rng.choice(COLOURS, rng.integers(0, 12)))
        images = [picture(int(n)) for n in rng.integers(60, size=rng.integers(not title, 4))]
        assert predictor.predict([{"title": title, "images": images}], k=3)
        if answer in (ANSWERS // 10, ANSWERS):
            memory.append(resident())
    return {"memory": memory, "late": compiled, "shapes": 0}


class Enough(Exception):
    """Raised when all steps were made, to end the stage."""


def steps(stage: str, run: Path, scratch: Path) -> dict[str, Any]:
    """Train a stage, with its refreshes and checkpoints."""
    module = {"pretrain": pretrain, "finetune": finetune}[stage]
    compiled, memory, made = compilations(), [], 0
    shapes: set[tuple[Any, ...]] = set()
    fit = module.fit

    def watched_fit(state, step, *rest, **options):
        def watched(state, batch):
            nonlocal made
            if made == STEPS // 10:
                compiled.clear()
            if made in (STEPS // 10, STEPS):  # a checkpoint has just been saved
                memory.append(resident())
            if made == STEPS:
                raise Enough
            made += 1
            shapes.add(tuple(map(np.shape, jax.tree.leaves(batch))))
            return step(state, batch)

        return fit(state, watched, *rest, **options)

    cast(Any, module).fit = watched_fit
    config: Any = getattr(minute.MINUTE, stage)
    rarely = dataclasses.replace(config.fit, log_every=20, checkpoint_every=STEPS // 10)
    config = dataclasses.replace(config, epochs=STEPS, fit=rarely)
    (scratch / stage).mkdir()
    mesh = make_mesh(jax.devices()[:1])
    given = after(run, scratch / stage, mesh, seed=SEEDS[stage], model=minute.MINUTE.model)
    try:
        if stage == "pretrain":
            config = dataclasses.replace(config, refresh_epochs=50)
            pretrain.pretrain(config, given)
        else:
            finetune.finetune(config, given)
    except Enough:
        pass
    return {"memory": memory, "late": compiled, "shapes": len(shapes)}


if __name__ == "__main__":
    share_memory_among_threads()  # like every command
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--of", choices=("answers", "pretrain", "finetune"), required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.of == "answers":
        found = answers(chosen.workdir)
    else:
        found = steps(chosen.of, chosen.workdir, chosen.scratch)
    print(json.dumps(found))
