"""The minute experiment: all stages on very little data; a run takes seconds.

    python tests/support/minute.py --workdir=DIR [--stage=...] [any flag of an experiment]

As a script it is an experiment like those of `experiments/`; tests start, kill and resume it.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.amazon_visualbert import visualbert
from mufin_jax.data.preparation.prepare import PrepareConfig
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.stage_table import stages_of
from mufin_jax.prediction.parts import PARTS
from mufin_jax.stages.evaluate import EvaluateConfig
from mufin_jax.stages.finetune import FinetuneConfig
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.stages.report import ReportConfig
from mufin_jax.stages.retrieve import RetrieveConfig
from mufin_jax.training.fit_config import FitConfig
from mufin_jax.training.optimizer import OptimizerConfig

_RATES = OptimizerConfig(rate=3e-3, warmup=2, image_encoder="full", text_encoder="full")
_FIT = FitConfig(log_every=1, checkpoint_every=1)

# With these sizes batches have few shapes. Most of a run's time is compiling, once for each shape.
MINUTE = Experiment(
    name="minute",
    miniature=MiniatureConfig(labels=30, points=80, test_points=24, picture=32),
    prepare=PrepareConfig(image_size=16, max_tokens=8, vocab_size=256, max_images=2),
    model=ModelConfig(
        dim=8,
        image=ViTConfig(width=16, depth=1, heads=2, mlp=32, patch=8, image_size=16, init_std=None),
        text=DistilBertConfig(
            vocab=256, width=16, depth=1, heads=2, mlp=32, max_positions=16, init_std=None
        ),
    ),
    pretrain=PretrainConfig(epochs=2, batch_size=16, refresh_epochs=1, optimizer=_RATES, fit=_FIT),
    retrieve=RetrieveConfig(shortlist=20),
    finetune=FinetuneConfig(epochs=2, batch_size=40, optimizer=_RATES, fit=_FIT),
    evaluate=EvaluateConfig(timed_points=3),
    report=ReportConfig(figures=False),  # only test_report.py draws them
)

STAGES = stages_of(MINUTE)
"""The stages of the experiment, in their order."""

PARTS = (
    *("--prepare.validation-share=0.2", "--select.candidates=20"),
    *("--select.parts", *PARTS),
)
"""Flags that give the score all parts: the run then also has the stage select."""

_VISUAL = VisualBertConfig(
    vocab=256, width=16, depth=2, heads=2, mlp=32, max_positions=16, init_std=None
)
PRESETS = {
    "miniature": MINUTE,
    "paper": MINUTE,
    "joint": visualbert(MINUTE, "minute-joint", text=_VISUAL),
}


def environment(cache: Path, devices: int = 1) -> dict[str, str]:
    """Return the environment of a process with so many devices, and a folder of compiled programs.

    It has no PJRT_NPROC (XLA's threads), which a command may have set in this process.
    """
    mine = {name: value for name, value in os.environ.items() if name != "PJRT_NPROC"}
    return mine | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # With it, the path of a cache for GPUs would be a part of every program's name.
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
        "JAX_NUM_CPU_DEVICES": str(devices),
    }


def start(
    workdir: Path, *flags: str, cache: Path, devices: int = 1, script: str = __file__
) -> subprocess.Popen[str]:
    """Start the experiment, or another script with its flags, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, script, f"--workdir={workdir}", *flags],
        env=environment(cache, devices), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def start_together(
    workdir: Path, *flags: str, cache: Path, processes: int = 2, devices: int = 4,
    script: str = __file__,
) -> list[subprocess.Popen[str]]:  # fmt: skip
    """Start the experiment, or another script with its flags, as a run of several processes."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        place = f"--hosts.coordinator=localhost:{probe.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, script, f"--workdir={workdir}", *flags, place,
             f"--hosts.processes={processes}", f"--hosts.process={process}"],
            env=environment(cache, devices), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for process in range(processes)
    ]  # fmt: skip


def ends(processes: list[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str]]:
    """Wait for processes; return the exit code and stderr of each, without JAX's first lines."""
    try:
        texts = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    lines = (
        [line for line in text.splitlines() if line and "coordination_service.cc" not in line]
        for text in texts
    )
    return [
        (process.returncode, "\n".join(kept))
        for process, kept in zip(processes, lines, strict=True)
    ]


def finish(
    workdir: Path, *flags: str, cache: Path, devices: int = 1, script: str = __file__
) -> str:
    """Run the experiment, or another script, which must succeed; return its output."""
    process = start(workdir, *flags, cache=cache, devices=devices, script=script)
    try:
        out, errors = process.communicate()
    finally:  # also when the test's time is over
        process.kill()
        process.communicate()
    assert process.returncode == 0, errors
    return out


def metrics(workdir: Path) -> dict[str, Any]:
    """Return the content of metrics.json without the times."""
    found = json.loads((workdir / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("ms_per_point")}


def losses(workdir: Path, stage: str = "finetune") -> list[float]:
    """Return the loss of every recorded step of a training stage, in their order."""
    lines = (workdir / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def assert_learned(workdir: Path) -> None:
    """Assert that Module IV's loss fell by at least 4%: without training, batches differ by 2%."""
    steps = losses(workdir)
    assert len(steps) > 1 and steps[-1] < 0.96 * steps[0], f"losses of Module IV: {steps}"


def results(workdir: Path) -> dict[str, np.ndarray]:
    """Return all arrays of a run's folder by name: weights, label table, shortlists, rankings."""
    from mufin_jax.runtime.storage.checkpoint import Checkpoints

    found: dict[str, np.ndarray] = {}
    for folder in sorted(path.parent for path in workdir.glob("*/**/[0-9]*/manifest.json")):
        restored = Checkpoints(folder.parent).restore(step=int(folder.name))
        assert restored is not None
        _flatten(restored[1], folder.relative_to(workdir).as_posix(), found)
    for path in sorted(workdir.glob("*/**/*.np[yz]")):
        name = path.relative_to(workdir)
        if name.parts[0] in ("miniature", "prepare"):
            continue
        arrays = np.load(path, allow_pickle=False)
        named = {"": arrays} if path.suffix == ".npy" else dict(arrays)
        found |= {f"{name}:{part}": array for part, array in named.items()}
    return found


def assert_same(one: Path, other: Path, until: str = "evaluate") -> None:
    """Assert that the files of two runs are bit-identical, up to the stage `until`.

    These are the prepared data, weights, tables, checkpoints, shortlists, rankings, the losses of
    every step, the parts of the score with their weights, and the metrics.
    """
    stages = [*STAGES[: STAGES.index(until) + 1], *(["select"] if until == "evaluate" else [])]
    found, wanted = (
        {name: array for name, array in results(at).items() if name.split("/")[0] in stages}
        for at in (one, other)
    )
    assert found.keys() == wanted.keys() and bool(found) == (until != "prepare")
    one_data, other_data = ((at / "prepare" / "manifest.json").read_bytes() for at in (one, other))
    assert one_data == other_data
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name], name)
    for stage in {"pretrain", "finetune"}.intersection(stages):
        one_log, other_log = ((at / stage / "metrics.jsonl").read_text() for at in (one, other))
        assert one_log == other_log
    if until == "evaluate":
        assert metrics(one) == metrics(other)
        for path in (other / "select").glob("*.json"):
            if path.name not in ("done.json", "settings.json"):
                assert (one / "select" / path.name).read_bytes() == path.read_bytes()


def begun(finished: Path, workdir: Path, stage: str) -> Path:
    """Copy the folder of a finished run without a stage and those after it."""
    workdir.mkdir()
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(finished / name, workdir / name)
    return workdir


def _flatten(tree: Any, name: str, found: dict[str, np.ndarray]) -> None:
    if isinstance(tree, dict):
        for key, branch in tree.items():
            _flatten(branch, f"{name}/{key}", found)
    else:
        found[name] = np.asarray(tree)


if __name__ == "__main__":
    sys.exit(main(PRESETS))
