"""The minute experiment with rows of table 4 beside it, to be started, killed and resumed."""

import sys

import minute

from experiments.ablations import Ablations
from mufin_jax.pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(minute.PRESETS, kind=Ablations))
