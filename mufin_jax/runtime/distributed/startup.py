"""How the processes of a run find one another: by flags, or by what a launcher tells them."""

import dataclasses
import os
import re
import threading

from mufin_jax.runtime.distributed import liveness
from mufin_jax.runtime.errors import InputError, PeerLost


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How several processes find one another; of no use where a launcher says it."""

    coordinator: str | None = None
    """HOST:PORT of process 0, as all processes can reach it."""
    processes: int | None = None
    """How many there are; 1 keeps this one alone, whatever its launcher says."""
    process: int | None = None
    """Which of them this is, from 0."""
    start_timeout: int = 300
    """Seconds to wait at the start until all are there."""
    lost_timeout: int = 20
    """Seconds without a sign of life after which a process is taken for lost."""

    def __post_init__(self) -> None:
        """Reject flags that do not fit together."""
        for name, least in (("processes", 1), ("start_timeout", 1), ("lost_timeout", 5)):
            if (found := getattr(self, name)) is not None and found < least:
                flag = name.replace("_", "-")
                raise InputError(f"--hosts.{flag}={found}: expected a whole number >= {least}")
        if self.processes == 1 and self.coordinator is None and not self.process:
            return
        given = {name: getattr(self, name) for name in ("coordinator", "processes", "process")}
        missing = [f"--hosts.{name}" for name, value in given.items() if value is None]
        if 0 < len(missing) < len(given):
            raise InputError(
                f"without {' and '.join(missing)} a process cannot know its place: give "
                "--hosts.coordinator=HOST:PORT --hosts.processes=N --hosts.process=0..N-1, or none"
            )
        if self.coordinator and not re.fullmatch(r".+:[0-9]{1,5}", self.coordinator):
            raise InputError(f"--hosts.coordinator={self.coordinator}: expected HOST:PORT")
        if self.processes and not 0 <= (self.process or 0) < self.processes:
            raise InputError(f"--hosts.process={self.process}: expected 0 to {self.processes - 1}")


def join(config: HostsConfig, stop: threading.Event) -> liveness.Peers | None:
    """Connect with the other processes; None if neither flags nor a launcher speak of any."""
    if config.processes == 1:
        return None
    place = f"process {config.process} of {config.processes}, coordinator {config.coordinator}"
    if config.coordinator is None:
        if (place := launcher()) is None:
            return None
    import jax
    from jax._src import distributed  # where JAX keeps its client of the coordination service

    # Else the runtime would abort every process when one is lost, and take over SIGTERM.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)

    def late() -> None:
        os.write(
            2,
            f"error: the processes of this run did not all meet within {config.start_timeout} s "
            f"({place}); start all of them, or allow more with --hosts.start-timeout\n".encode(),
        )
        liveness.leave(PeerLost.exit_code)

    liveness.answer_aborts(
        lambda: (InputError.exit_code, f"error: this process could not join the run ({place})")
    )
    timer = threading.Timer(config.start_timeout, late)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process,
            cluster_detection_method=None if config.coordinator is None else "deactivate",
            initialization_timeout=config.start_timeout + 60,  # the runtime's own would abort
            heartbeat_timeout_seconds=config.lost_timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:
        liveness.leave_aborts()
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"this process could not join the run ({place}): {reason}") from error
    finally:
        timer.cancel()
    state = distributed.global_state
    address, processes = state.coordinator_address or "", state.num_processes
    lost = PeerLost.exit_code, liveness.lost_line([0], processes)
    liveness.answer_aborts(lambda: None if liveness.answers(address) else lost)
    return liveness.Peers(state.client, state.process_id, processes, stop, config.lost_timeout)


def launcher() -> str | None:
    """The launcher that JAX recognises, if it started more than one process."""
    from jax._src import clusters

    try:
        for cluster in clusters.ClusterEnv._cluster_types:
            name = cluster.__name__.removesuffix("Cluster")
            # A pod that is no part of an indexed Job is alone; JAX would look for its Job.
            in_job = name != "K8s" or "JOB_COMPLETION_INDEX" in os.environ
            if not cluster.opt_in_only_method and in_job and cluster.is_env_present():
                return name if cluster.get_process_count() > 1 else None
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{name}: {reason or type(error).__name__}; give --hosts.coordinator=HOST:PORT "
            "--hosts.processes=N --hosts.process=I, or --hosts.processes=1 for a run of one process"
        ) from error
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise InputError(
            "JAX does not recognise this version of Open MPI: give --hosts.coordinator=HOST:PORT "
            "--hosts.processes=$OMPI_COMM_WORLD_SIZE --hosts.process=$OMPI_COMM_WORLD_RANK"
        )
    return None
