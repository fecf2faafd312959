"""The minute experiment and rows of table 4, for tests that start, kill and resume it."""

import sys

import minute

from experiments.ablations import Ablations
from mufin_jax.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(minute.PRESETS, kind=Ablations))
