"""Preparing a catalogue and measuring a ranking need no JAX; the loader is the first to use it."""

import subprocess
import sys

IMPORTS = """
import importlib, pkgutil, sys
import mufin_jax.data.readers, mufin_jax.data.preparation, mufin_jax.data.synthetic

packages = mufin_jax.data.readers, mufin_jax.data.preparation, mufin_jax.data.synthetic
names = [f"{p.__name__}.{m.name}" for p in packages for m in pkgutil.iter_modules(p.__path__)]
names = [name for name in names if name != "mufin_jax.data.preparation.resize_beam"]  # needs Beam
with_jax = {"loader", "pytrees"}
data = pkgutil.iter_modules(mufin_jax.data.__path__)
names += [f"mufin_jax.data.{m.name}" for m in data if m.name not in with_jax]
names += [f"mufin_jax.evaluation.{name}" for name in ("metrics", "rankings")]
for name in [*names, "mufin_jax.baselines.untrained"]:
    importlib.import_module(name)
    heavy = {"jax", "jaxlib", "flax", "optax", "orbax"} & set(sys.modules)
    assert not heavy, (name, heavy)
print(len(names))
"""


def test_preparation_readers_dataset_and_metrics_import_no_jax():
    found = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=100
    )
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) > 20


def test_a_loader_registers_its_containers_with_jax():
    code = (
        "import numpy as np, mufin_jax.data.loader, jax; from mufin_jax.data import Bags, Pool, "
        "Pixels; print(len(jax.tree.leaves((Pool(None, Pixels(np.ones(2))), Bags(1, 2)))))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "3\n"
