"""JAX's private modules have what the package uses, in every supported version of JAX."""

import subprocess
import sys

from places import ROOT

from mufin_jax.runtime import jax_internals

_COMPILES = """
import sys
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
jax.jit(lambda x: x + 1)(jnp.ones(3))
"""


def test_a_process_of_its_own_has_a_state_without_others():
    state = jax_internals.distributed_state()
    assert state.client is None and state.coordinator == ""
    assert (state.process, state.processes) == (0, 1)


_JOINS = """
import socket, jax
from mufin_jax.runtime.jax_internals import distributed_state
with socket.socket() as probe:
    probe.bind(("localhost", 0))
    place = f"localhost:{probe.getsockname()[1]}"
jax.distributed.initialize(place, 1, 0)
client, process, processes, coordinator = distributed_state()
assert (process, processes, coordinator) == (0, 1, place)
client.key_value_set("a/b", "old")
client.key_value_set("a/b", "new", allow_overwrite=True)
assert client.blocking_key_value_get("a/b", 1000) == "new"
((key, value),) = client.key_value_dir_get("a")
assert key.endswith("b") and value == "new"
client.wait_at_barrier("c", 1000)
(alive,) = client.get_live_nodes([0])
assert alive == 0
jax.distributed.shutdown()
"""


def test_the_client_of_the_coordination_service_does_what_we_call():
    done = subprocess.run([sys.executable, "-c", _JOINS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jax_recognises_slurm_open_mpi_and_kubernetes():
    found = {launcher.name: launcher for launcher in jax_internals.launchers()}
    assert {"Slurm", "Ompi", "K8s"} <= found.keys()
    assert not found["Slurm"].only_by_name


def test_slurm_is_recognised_by_its_variables(monkeypatch):
    (slurm,) = (each for each in jax_internals.launchers() if each.name == "Slurm")
    variables = {"JOB_ID": "7", "STEP_NODELIST": "n[1-2]", "PROCID": "1", "LOCALID": "0"}
    for name, value in (variables | {"NTASKS": "3"}).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm.started_this() and slurm.process_count() == 3


def test_a_file_of_the_compile_cache_is_whole_until_it_is_cut(tmp_path):
    subprocess.run([sys.executable, "-c", _COMPILES, str(tmp_path)], check=True)
    programs = [path.read_bytes() for path in tmp_path.glob("*-cache")]
    assert programs
    for program in programs:
        assert jax_internals.is_whole_program(program)
        assert not jax_internals.is_whole_program(program[: len(program) // 2])


def test_only_one_file_imports_private_modules_of_jax():
    found = [path.name for path in (ROOT / "mufin_jax").rglob("*.py")
             if "jax._src" in path.read_text()]  # fmt: skip
    assert found == ["jax_internals.py"]
