"""The command `mufin`, also as `python -m mufin_jax`.

`mufin train` has the presets of `experiments.amazon`.
"""

import sys

from mufin_jax.commands.app import main as run_command


def _train(arguments: list[str]) -> int:
    """Run `mufin train`, which is `python -m experiments.amazon` by another name."""
    from mufin_jax.pipeline.cli import main as train
    from mufin_jax.pipeline.presets import presets

    return train(presets(), arguments, prog="mufin train")


def main() -> int:
    """Run what the command line says and return the exit code."""
    return run_command(sys.argv[1:], {"train": _train})


if __name__ == "__main__":
    sys.exit(main())
