"""A toy run of several processes, for tests that kill one: a table is split over all devices.

    python tests/support/hosts_toy.py --workdir=DIR [--steps=N] [--hosts.coordinator=... ...]

It trains, saves and resumes like a stage, in seconds; `fault` names what goes wrong.
"""

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from mufin_jax.runtime.distributed import processes as processes_module
from mufin_jax.runtime.distributed.mesh import (
    by_row,
    fetch,
    gather_rows,
    make_mesh,
    put,
    replicated,
)
from mufin_jax.runtime.distributed.startup import HostsConfig
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.logs import MetricsWriter, set_up_logging
from mufin_jax.runtime.run_folder import Run
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.loop import fit

ROWS, WIDTH = 64, 3


@dataclasses.dataclass(frozen=True)
class Toy:
    """Options of a toy run."""

    workdir: Path
    steps: int = 20
    step_seconds: float = 0.0
    fault: Literal["none", "input", "all-input", "bug", "kill", "busy"] = "none"
    """What goes wrong: at step 10 on process 1, before it on all, or process 0 works for long."""
    every: int = 5
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)


def step_of(mesh: Any) -> Any:
    """Build a step that reads and moves rows of the table; the order of batches matters."""

    def step(state: dict, batch: Any) -> tuple[dict, dict]:
        rows = gather_rows(state["table"], batch, mesh)
        table = state["table"].at[batch].set(0.9 * rows + jnp.sin(state["bias"] + rows))
        bias = state["bias"] + 0.1 * jnp.tanh(table).mean(0)
        new = {"table": table, "bias": bias, "count": state["count"] + 1}
        return new, {"loss": jnp.square(bias).sum(), "negative_cosine": rows.mean()}

    place = {"table": by_row(mesh), "bias": replicated(mesh), "count": replicated(mesh)}
    return jax.jit(step, donate_argnums=0, out_shardings=(place, replicated(mesh)))


def run(toy: Toy) -> None:
    """Train, and save the table as table.npy."""
    processes_module.start(toy.hosts)
    set_up_logging(process=processes_module.process())
    mesh = make_mesh()
    with Run(toy.workdir) as held:
        held.guard("toy", {"steps": toy.steps})
        held.record(processes=jax.process_count())
        if toy.fault == "all-input":
            raise InputError("row 7: no title")
        table = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
        state = {
            "table": put(table, by_row(mesh)),
            "bias": put(np.full(WIDTH, 0.5, np.float32), replicated(mesh)),
            "count": put(np.int32(0), replicated(mesh)),
        }

        def batch(step: int) -> np.ndarray:
            if step == 10 and processes_module.process() == 1:
                if toy.fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if toy.fault == "input":
                    raise InputError("row 7: no title")
                if toy.fault == "bug":
                    raise ZeroDivisionError("of rows")
            return np.random.default_rng([1, step]).permutation(ROWS)[:8].astype(np.int32)

        def put_batch(numbers: np.ndarray) -> jax.Array:
            time.sleep(toy.step_seconds)
            print("step", flush=True)
            return put(numbers, replicated(mesh))

        def work() -> None:
            until = time.monotonic() + 60 * (toy.fault == "busy")
            print("busy", flush=True)
            while time.monotonic() < until:
                check_stop("prepare")
                time.sleep(0.1)

        processes_module.once("work of process 0", work)
        start = Checkpoints(toy.workdir / "toy" / "start")
        start.save(0, {"bias": state["bias"], "local": jnp.arange(2.0), "numpy": table[:2]}, {})
        found = start.restore()
        assert found is not None
        assert (found[1]["bias"] == 0.5).all() and (found[1]["numpy"] == table[:2]).all()
        assert (found[1]["local"] == np.arange(2)).all()
        last = fit(
            state, step_of(mesh), batch, put_batch, name="toy", steps=toy.steps,
            config=FitConfig(log_every=1, checkpoint_every=toy.every),
            checkpoints=Checkpoints(toy.workdir / "toy" / "checkpoints"),
            writer=MetricsWriter(toy.workdir / "toy"),
        )  # fmt: skip
        table = fetch(last["table"])
        processes_module.once("the table", lambda: np.save(toy.workdir / "table.npy", table))
        held.mark_finished("toy")
    if processes_module.is_main():
        print("finished")


if __name__ == "__main__":
    set_up_logging()
    code = main_guard(lambda: run(tyro.cli(Toy)))
    # A thread in native code while Python ends would abort the process, once in a hundred runs.
    if listening := [t.name for t in threading.enumerate() if t.name.startswith("peers: ")]:
        print("still listening:", *listening, file=sys.stderr)
    sys.exit(code)
