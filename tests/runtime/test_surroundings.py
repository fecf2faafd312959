"""Where the package cannot compute, it says so in one line."""

import os
import subprocess
import sys


def last_line(code, **environment):
    """The last line on stderr, and the exit code, of a Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True
    )
    return done.stderr.splitlines()[-1], done.returncode


def test_windows_is_rejected_when_the_package_is_imported():
    line, code = last_line("import sys; sys.platform = 'win32'; import mufin_jax")
    assert line.startswith("ImportError: mufin_jax runs on Linux and macOS; on Windows") and code


def test_a_run_with_64_bits_is_rejected_before_it_writes(tmp_path):
    """A command would write float64 where others read float32."""
    code = "import sys; from experiments import amazon; sys.exit(amazon.main(amazon.PRESETS,"
    code += f"['--workdir={tmp_path}/run', '--stage=prepare']))"
    line, code = last_line(code, JAX_ENABLE_X64="1")
    assert line.startswith("error: jax_enable_x64 is on, and mufin_jax computes in float32")
    assert code == 2 and not (tmp_path / "run").exists()
