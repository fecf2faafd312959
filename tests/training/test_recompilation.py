"""After warm-up, training compiles nothing, copies no state, and a second process starts warm."""

import os
import shutil
import subprocess
import sys

import jax
import minute
import pytest
from contexts import after
from places import SUPPORT


@pytest.fixture
def two_devices():
    """A mesh of two devices: states lie on both, and compiling is quicker than for eight."""
    from mufin_jax.runtime.distributed.mesh import make_mesh

    return make_mesh(jax.devices()[:2])


class Watched:
    """A replacement of a stage's `fit`: the same loop, which records its steps.

    Attributes:
        shapes: Shapes of the batches, one for each step.
        compiled: Number of programs that each step compiled.
        kept: Number of buffers of states that steps did not free.
    """

    def __init__(self, module, monkeypatch, programs):
        self.shapes, self.compiled, self.kept, self.programs = [], [], 0, programs
        self.fit = module.fit
        monkeypatch.setattr(module, "fit", self)

    def __call__(self, state, step, *rest, **options):
        def watched(state, batch):
            before, leaves = len(self.programs), jax.tree.leaves(state)
            result = step(state, batch)
            self.shapes.append(str([leaf.shape for leaf in jax.tree.leaves(batch)]))
            self.compiled.append(len(self.programs) - before)
            self.kept += sum(not leaf.is_deleted() for leaf in leaves)
            return result

        return self.fit(state, watched, *rest, **options)

    def check(self, most_shapes):
        """Assert that each shape compiled once and that every state was donated."""
        first = [self.shapes.index(shape) == i for i, shape in enumerate(self.shapes)]
        assert self.compiled == [int(new) for new in first]
        assert sum(first) <= most_shapes < len(first)
        assert self.kept == 0


@pytest.mark.slow
def test_module_1_compiles_each_shape_once_and_donates_its_state(
    minute_run, two_devices, tmp_path, monkeypatch, compilations
):
    from mufin_jax.stages import pretrain as stage

    watched = Watched(stage, monkeypatch, compilations)
    stage.pretrain(
        minute.MINUTE.pretrain,
        after(minute_run, tmp_path, two_devices, model=minute.MINUTE.model),
    )
    watched.check(most_shapes=3)


@pytest.mark.slow
def test_module_4_compiles_each_shape_once_and_donates_its_state(
    minute_run, two_devices, tmp_path, monkeypatch, compilations
):
    from mufin_jax.stages import finetune as stage

    watched = Watched(stage, monkeypatch, compilations)
    stage.finetune(minute.MINUTE.finetune, after(minute_run, tmp_path, two_devices))
    watched.check(most_shapes=3)


_COUNT = """
import collections, sys
import jax
counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
import minute
from mufin_jax.pipeline.cli import main
assert main(minute.PRESETS, sys.argv[1:]) == 0
print(counts["cache_hits"], counts["cache_misses"])
"""


@pytest.mark.slow
def test_compiled_programs_are_in_the_run_s_folder_and_the_next_process_loads_them(tmp_path):
    ours = ("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ["PYTHONPATH"] = os.pathsep.join([str(SUPPORT), *sys.path])

    def run(stage: str) -> tuple[int, int]:
        flags = [f"--workdir={tmp_path}", f"--stage={stage}", "--pretrain.epochs=1"]
        command = [sys.executable, "-c", _COUNT, *flags]
        done = subprocess.run(command, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        hits, misses = done.stdout.splitlines()[-1].split()
        return int(hits), int(misses)

    run("prepare")
    hits, misses = run("pretrain")
    # JAX keeps programs that took 0.1 s to compile; one near this limit may be kept only once.
    kept = len(list((tmp_path / "compiled").glob("*-cache")))
    assert (hits, misses) == (0, kept) and kept > 0
    shutil.rmtree(tmp_path / "pretrain")
    hits, _ = run("pretrain")
    assert hits == kept
