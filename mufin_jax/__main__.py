"""The command `mufin`, also as `python -m mufin_jax`.

The only file of the library that knows the experiments: `mufin train` has their presets.
"""

import sys

from mufin_jax.commands.app import main as run_command


def _train(arguments: list[str]) -> int:
    """Run `mufin train`, which is `python -m experiments.amazon` by another name."""
    from experiments.amazon import PRESETS
    from mufin_jax.pipeline.cli import main as train

    return train(PRESETS, arguments, prog="mufin train")


def main() -> int:
    """Run what the command line says and return the exit code."""
    return run_command(sys.argv[1:], {"train": _train})


if __name__ == "__main__":
    sys.exit(main())
