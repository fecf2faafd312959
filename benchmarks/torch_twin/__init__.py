"""MUFIN in PyTorch, as its users would write it today: the other side of the comparisons.

The encoders are the models of `transformers`; everything else is plain torch. The numbers are those
of mufin_jax (benchmarks/parity.py proves it), so a comparison of the two is one of speed alone.
Dropout is off on both sides: mufin_jax has none.
"""

from transformers.utils import logging

logging.disable_progress_bar()  # a benchmark's output is for its figures
