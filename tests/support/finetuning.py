"""Module IV on the minute data set: settings, shortlists, batches."""

import numpy as np
from small import SIZES

from mufin_jax.data.loader import Loader
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.training.finetune_batches import Batches, FinetuneConfig
from mufin_jax.training.optimizer import OptimizerConfig

CONFIG = FinetuneConfig(
    batch_size=8,
    negatives=3,
    margin=-0.5,  # with this, negatives push in a random model, too
    optimizer=OptimizerConfig(text_encoder="frozen", table_rate=0.05, warmup=0),
)
L = SIZES["label"]
TABLE = 1024
"""Rows of the label table; padding has larger numbers."""


def shortlists(seed=0) -> Shortlist:
    """Make a shortlist of nine random labels for each training point, with two places empty."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(L)[:11] for _ in range(SIZES["train"])]).astype(np.int32)
    labels[:, 9:] = -1
    return Shortlist(labels, np.zeros(labels.shape, np.float32))


def batches(dataset, config=CONFIG, devices=8, seed=0, lists=None):
    loader = Loader(dataset, "both", devices=devices)
    return Batches(config, dataset, loader, (lists or shortlists()).labels, seed)
