"""A run ends cleanly on a signal, and with one line and a code on an error that users can fix."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from processes import next_line, python

from mufin_jax.runtime import signals
from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.exit import main_guard

_STEPS = """
import sys, time
from mufin_jax.runtime.errors import Stopped
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.signals import stop_requested
def main():
    print("ready", flush=True)
    while not (stop_requested() and sys.argv[1] == "polls"):
        time.sleep(0.01)
    raise Stopped("step 5 is saved; run the same command to resume")
sys.exit(main_guard(main))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_that_polls_with_code_75(number):
    with python(_STEPS, "polls") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(number)
        errors = process.communicate(timeout=10)[1]
    assert process.returncode == 75
    assert (
        errors.splitlines()[-1].startswith("error: step 5 is saved") and "Traceback" not in errors
    )


def test_a_second_signal_ends_a_run_at_once():
    with python(_STEPS, "does not poll") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert next_line(process.stderr) == "\n" and "once more" in next_line(process.stderr)
        assert process.poll() is None
        time.sleep(1.1 * signals.ONE_REQUEST)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_two_signals_at_almost_the_same_time_are_one_request():
    with python(_STEPS, "polls") as process:
        assert next_line(process.stdout) == "ready\n"
        os.kill(process.pid, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)  # as a terminal and `timeout` may do together
        process.send_signal(signal.SIGTERM)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(10) == 75


def test_a_run_whose_stderr_nobody_reads_ends_with_its_code():
    with python(_STEPS, "polls") as process:
        assert next_line(process.stdout) == "ready\n"
        assert process.stderr is not None
        process.stderr.close()  # as if a `tee` after it had got the Ctrl-C first
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 75


_FORKS = """
import multiprocessing, os, sys, time
from mufin_jax.runtime.exit import main_guard
def main():
    if os.fork() == 0:
        os.close(1), os.close(2)
        time.sleep(20)
        os._exit(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(abs, [-1, 2]), flush=True)
    time.sleep(1)
sys.exit(main_guard(main))
"""


def test_forked_processes_neither_stop_a_run_nor_delay_its_end():
    with python(_FORKS) as process:
        out, errors = process.communicate(timeout=15)
    assert (process.returncode, out, errors) == (0, "[1, 2]\n", "")


_SIGNALS_A_CHILD = """
import os, signal, sys, time
if sys.argv[1] == "at once":  # before the package's own hook, which comes later
    os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.signals import stop_requested
def main():
    child = os.fork()
    if child == 0:
        os.write(1, b"forked\\n")
        for _ in range(100):
            time.sleep(0.05)
        os._exit(0)
    if sys.argv[1] == "later":
        assert sys.stdin.readline() == "forked\\n"
        os.kill(child, signal.SIGTERM)
    ended = os.waitpid(child, 0)[1]
    time.sleep(0.2)  # in which a thread of this process would learn of the signal
    print(os.waitstatus_to_exitcode(ended), stop_requested(), flush=True)
sys.exit(main_guard(main))
"""


@pytest.mark.parametrize("moment", ["at once", "later"])
def test_a_signal_to_a_forked_process_ends_it_and_does_not_stop_the_run(moment):
    process = subprocess.Popen(
        [sys.executable, "-c", _SIGNALS_A_CHILD, moment], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        if moment == "later":
            assert next_line(process.stdout) == "forked\n"
        out, errors = process.communicate("forked\n", timeout=60)
    assert (process.returncode, out) == (0, f"{-signal.SIGTERM} False\n")
    assert "stopping" not in errors


# Nested functions of functions are traced and lowered at once, but compile to 4,096 copies.
_COMPILES = """
import sys
import jax, jax.numpy as jnp
from mufin_jax.runtime import signals
from mufin_jax.runtime.exit import main_guard
def repeated(function):
    def eight_times(x):
        for _ in range(8):
            x = function(x)
        return x
    return jax.jit(eight_times)
def main():
    function = jax.jit(lambda x: jnp.sin(x) @ jnp.outer(x, x))
    for _ in range(4):
        function = repeated(function)
    lowered = function.lower(jnp.ones(2))
    signals.PATIENCE = float(sys.argv[1])
    if sys.argv[2] == "unsaved":
        signals.unsaved.set()
    print("ready", flush=True)
    lowered.compile()  # one native call, which takes minutes
sys.exit(main_guard(main))
"""


@pytest.mark.rotates("compiling", every=2)
def test_a_run_that_compiles_ends_within_15_seconds_of_a_signal():
    with python(_COMPILES, str(signals.PATIENCE), "saved") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=15)[1]
    assert process.returncode == 75
    assert errors.splitlines()[-1].startswith("error: stopped by a signal")


@pytest.mark.rotates("compiling", every=2)
def test_a_run_with_unsaved_steps_may_finish_compiling_unless_a_second_signal_comes():
    with python(_COMPILES, "1", "unsaved") as process:
        assert next_line(process.stdout) == "ready\n"
        process.send_signal(signal.SIGINT)
        assert next_line(process.stderr) == "\n" and "once more" in next_line(process.stderr)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(4)
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == -signal.SIGINT


def test_a_request_to_stop_does_not_outlive_its_run():
    before = signal.getsignal(signal.SIGTERM)
    with signals.signals_stop_gently():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.stop_requested()
        with signals.signals_stop_gently():
            pass
        with pytest.raises(Stopped, match="retrieve"):  # the request stays until the outer run ends
            signals.check_stop("retrieve")
    assert not signals.stop_requested() and signal.getsignal(signal.SIGTERM) is before


def test_a_command_outside_the_main_thread_leaves_signals_unchanged():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main_guard(lambda: None)))
    thread.start()
    thread.join()
    assert codes == [0]


def fail(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a.txt, row 3: no id\nwanted"), 2, "error: a.txt, row 3: no id wanted\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "/no/x"), 74, "error: /no/x: No space"),
    ],
)  # fmt: skip
def test_an_error_that_users_can_fix_is_one_line_and_a_code(error, code, line, capsys):
    assert main_guard(fail(error)) == code
    errors = capsys.readouterr().err
    assert errors.startswith(line) and errors.count("\n") == (1 if line else 0)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main_guard(lambda: 1 / 0)


def test_a_reader_that_closes_its_pipe_early_is_no_error():
    code = "import sys; from mufin_jax.runtime.exit import main_guard\n" \
        "sys.exit(main_guard(lambda: [print('x' * 999) for _ in range(9999)]))"  # fmt: skip
    with python(code) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 141 and process.stderr.read() == ""
