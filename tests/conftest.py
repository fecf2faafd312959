"""Set-up of all tests: eight virtual devices, strict JAX, data sets that may be absent."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import minute
import programs
import pytest
from filelock import FileLock
from rotation import pytest_report_header, todays

__all__ = ["pytest_report_header"]  # pytest finds it here

# Most of the tests' time is compiling, and their claims hold without optimization, too. Processes
# that tests start inherit this. JAX_DISABLE_MOST_OPTIMIZATIONS=0 tests the code that users run.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):  # XLA ends the process if it does not know a flag
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()

# Both must precede the first array: the backend counts its devices once.
jax.config.update("jax_num_cpu_devices", 8)
# The library writes out the axes of (b, d) + (d,): a forgotten axis fails instead of broadcasting.
jax.config.update("jax_numpy_rank_promotion", "raise")

WHOLE_RUNS = ("runtime", "pipeline")
"""Folders of long tests. They run first; short tests at the end use all processes better."""


@pytest.hookimpl(tryfirst=True)  # the rotation counts all collected tests, before -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other days, and tell --dist=loadgroup which tests belong together."""
    items[:], later = todays(items)
    if later:
        config.hook.pytest_deselected(items=later)
    items.sort(key=lambda item: item.path.parent.name not in WHOLE_RUNS)
    for item in items:
        if not item.get_closest_marker("apart") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function: `shared_data("name")` finds a data set, or skips the test without it."""

    def find(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.is_dir():
            pytest.skip(f"no data set at {path}")
        return path

    return find


@pytest.fixture(autouse=True)
def same_logging() -> Iterator[None]:
    """Undo what a command of a test sets for the whole process: log handlers and levels."""
    loggers = [logging.getLogger(name) for name in (None, "mufin_jax", "experiments")]
    before = [(list(one.handlers), one.level) for one in loggers]
    yield
    for one, (handlers, level) in zip(loggers, before, strict=True):
        one.handlers[:] = handlers
        one.setLevel(level)


# Imported where needed: the package's signatures are checked only if it is imported after
# pytest_configure.


@pytest.fixture(scope="session")
def mesh():
    """The mesh over all eight devices."""
    from mufin_jax.runtime.distributed.mesh import make_mesh

    return make_mesh()


@pytest.fixture(scope="session")
def one_device():
    """The mesh over the first device."""
    from mufin_jax.runtime.distributed.mesh import make_mesh

    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The minute data set of small.py, opened."""
    from small import prepared_folder

    from mufin_jax.data.dataset import Dataset

    return Dataset.load(prepared_folder(tmp_path_factory.mktemp("small")))


@pytest.fixture(scope="session")
def model(dataset, mesh):
    """A random model over eight devices; tests must not change it."""
    from small import new_model

    return new_model(dataset, mesh)


@pytest.fixture
def compilations():
    """The names of the functions compiled, or read from a cache, since the test began."""
    names: list[str] = []

    def note(event: str, _: float, fun_name: str = "", **__: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Iterator[Path]:
    """The folder of compiled programs for processes that tests start; see programs.py."""
    with programs.begun_with_kept(tmp_path_factory.mktemp("compiled")) as folder:
        yield folder


@pytest.fixture(scope="session", autouse=True)
def own_programs(tmp_path_factory) -> Iterator[None]:
    """Keep what this process compiles, apart from processes that tests may kill."""
    if programs.kept() is None or jax.config.values["jax_compilation_cache_dir"] is not None:
        yield
        return
    with programs.begun_with_kept(tmp_path_factory.mktemp("own-programs")) as folder:
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
        # As in minute.environment: otherwise programs of another folder would not be found.
        jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        yield


@pytest.fixture(scope="session")
def minute_run(tmp_path_factory, compiled) -> Path:
    """The folder of a finished run of the minute experiment on one device; do not change it.

    With several processes of pytest-xdist, the first makes the run, and each has its own copy.
    """
    workdir = tmp_path_factory.mktemp("minute") / "run"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        minute.finish(workdir, cache=compiled)
        return workdir
    shared = tmp_path_factory.getbasetemp().parent / "minute"
    with FileLock(f"{shared}.lock"):
        if not (shared / "whole").exists():
            shutil.rmtree(shared, ignore_errors=True)  # a process may have failed
            minute.finish(shared / "run", cache=compiled)
            (shared / "whole").touch()
    shutil.copytree(shared / "run", workdir)
    return workdir
