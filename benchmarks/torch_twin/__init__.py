"""MUFIN in PyTorch, in today's usual style: the other side of the comparisons.

The encoders are the models of `transformers`; everything else is plain torch. The numbers are those
of mufin_jax (benchmarks/parity.py shows this), so a comparison of the two measures only speed.
Dropout is off on both sides: mufin_jax has none.
"""

from transformers.utils import logging

logging.disable_progress_bar()  # a benchmark's output is for its figures
