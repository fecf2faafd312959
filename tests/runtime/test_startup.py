"""How processes find each other: flags that fit together, and recognised launchers."""

import os

import pytest

from mufin_jax.runtime.distributed import processes as processes_module
from mufin_jax.runtime.distributed import startup
from mufin_jax.runtime.distributed.startup import HostsConfig
from mufin_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "a:1"}, "without --hosts.processes and --hosts.process a process cannot"),
        ({"processes": 2, "process": 1}, "without --hosts.coordinator"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "coordinator=a: expected HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process=2: expected 0 to 1"),
        ({"processes": 0}, "processes=0: expected a whole number >= 1"),
        ({"lost_timeout": 1}, "lost-timeout=1: expected a whole number >= 5"),
    ],
)
def test_flags_that_do_not_fit_together_are_rejected(flags, message):
    with pytest.raises(InputError, match=message):
        HostsConfig(**flags)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "1",
         "SLURM_LOCALID": "0"}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (SLURM | {"SLURM_NTASKS": "2"}, "Slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),  # a single task waits for nobody
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # an allocation's shell, without srun
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9", "OMPI_COMM_WORLD_SIZE": "4"}, "Ompi"),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:9", "OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),  # a pod that is not of an indexed Job
    ],
)
def test_a_launcher_counts_only_if_it_started_several_processes(monkeypatch, variables, found):
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert startup.launcher() == found
    if found is None:
        processes_module.start(HostsConfig())
        assert not processes_module.several() and processes_module.is_main()


def test_the_flag_for_one_process_overrides_the_launcher(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "2"}).items():
        monkeypatch.setenv(name, value)
    processes_module.start(HostsConfig(processes=1))
    assert not processes_module.several()


def test_an_open_mpi_that_jax_does_not_recognise_requires_flags(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")  # version 5 and later give no address
    with pytest.raises(InputError, match=r"--hosts\.coordinator=HOST:PORT"):
        startup.launcher()
