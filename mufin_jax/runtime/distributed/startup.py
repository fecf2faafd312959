"""How the processes of a run find each other: by flags, or through a launcher such as Slurm."""

import dataclasses
import os
import re
import threading

from mufin_jax.runtime.distributed import liveness
from mufin_jax.runtime.errors import InputError, PeerLost
from mufin_jax.runtime.jax_internals import distributed_state, launchers


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How several processes find each other; needed only if no launcher connects them."""

    coordinator: str | None = None
    """HOST:PORT of process 0, reachable by all processes."""
    processes: int | None = None
    """How many there are; with 1, the run has this process only, whatever its launcher says."""
    process: int | None = None
    """The number of this process, from 0."""
    start_timeout: int = 300
    """Seconds to wait at the start until all processes are there."""
    lost_timeout: int = 20
    """Seconds without a sign of life after which a process counts as lost."""

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
                f"without {' and '.join(missing)} a process cannot find the others: give "
                "--hosts.coordinator=HOST:PORT --hosts.processes=N --hosts.process=0..N-1, or none"
            )
        if self.coordinator and not re.fullmatch(r".+:[0-9]{1,5}", self.coordinator):
            raise InputError(f"--hosts.coordinator={self.coordinator}: expected HOST:PORT")
        if self.processes and not 0 <= (self.process or 0) < self.processes:
            raise InputError(f"--hosts.process={self.process}: expected 0 to {self.processes - 1}")


def join(
    config: HostsConfig, stop: threading.Event, aborts: liveness.Aborts
) -> liveness.Peers | None:
    """Connect with the other processes.

    Args:
        config: The flags.
        stop: Set when a signal asks a process of the run to stop.
        aborts: Gets the answers to aborts in JAX's runtime.

    Returns:
        The other processes; None if neither flags nor a launcher tell of any.

    Raises:
        InputError: The flags, or the launcher's settings, are unusable for JAX.
    """
    if config.processes == 1:
        return None
    place = f"process {config.process} of {config.processes}, coordinator {config.coordinator}"
    if config.coordinator is None:
        if (place := launcher()) is None:
            return None
    _initialize(config, place, aborts)
    client, process, processes, address = distributed_state()
    lost = PeerLost.exit_code, liveness.lost_line([0], processes)
    aborts.answer(lambda: None if liveness.answers(address) else lost)
    return liveness.Peers(client, process, processes, stop, config.lost_timeout, aborts)


def _initialize(config: HostsConfig, place: str, aborts: liveness.Aborts) -> None:
    """Connect JAX's runtime; end this process if the others do not come in time."""
    import jax

    # Without these the runtime would abort every process when one is lost, and take over SIGTERM.
    jax.config.update("jax_enable_recoverability", True)
    jax.config.update("jax_enable_preemption_service", False)

    def late() -> None:
        os.write(
            2,
            f"error: the processes of this run did not all start within {config.start_timeout} s "
            f"({place}); start all of them, or raise --hosts.start-timeout\n".encode(),
        )
        liveness.leave(PeerLost.exit_code)

    aborts.answer(
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
        aborts.ignore()
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"this process could not join the run ({place}): {reason}") from error
    finally:
        timer.cancel()


def launcher() -> str | None:
    """Return the launcher that JAX recognises, if it started more than one process.

    Raises:
        InputError: The launcher's settings are unusable for JAX.
    """
    name = ""
    try:
        for known in launchers():
            name = known.name
            # A pod outside an indexed Job is a run of its own; JAX would look for its Job.
            in_job = name != "K8s" or "JOB_COMPLETION_INDEX" in os.environ
            if not known.only_by_name and in_job and known.started_this():
                return name if known.process_count() > 1 else None
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
