"""The addresses of random draws: every draw of a run has one of its own.

An address is the seed, what the draw is for, and numbers such as the step. So a resumed run draws
what it would have drawn, and no two draws of a run share their bits. Built-in data has addresses of
its own (`data/synthetic/`), and the label table rounds by a key of its own.
"""

import enum

import jax
import numpy as np


class Draw(enum.IntEnum):
    """What is drawn; numbers are never used again, and 0 is not used."""

    ENCODERS = 1
    """Initial weights of the model."""
    PRETRAIN_ORDER = 2
    """Order of the items of an epoch of Module I."""
    PRETRAIN_BATCH = 3
    """Positives, mined and random items of a step of Module I."""
    PRETRAIN_NEGATIVES = 4
    """Random in place of hard negatives of a step of Module I."""
    PRETRAIN_MODALITIES = 5
    """Modality dropout of a step of Module I."""
    PRETRAIN_DROPOUT = 6
    """Dropout of a step of Module I."""
    ETA = 7
    """Free vectors of the label table."""
    CROSS_ATTENTION = 8
    """Initial weights of A_C."""
    FINETUNE_ORDER = 9
    """Order of the points of an epoch of Module IV."""
    FINETUNE_BATCH = 10
    """Positives and negatives of a step of Module IV."""
    FINETUNE_MODALITIES = 11
    """Modality dropout of a step of Module IV."""
    PROTOTYPES = 12
    """Initial weights of the block of label prototypes."""
    VALIDATION_POINTS = 13
    """Validation points that choose the best step."""
    VALIDATION_LABELS = 14
    """Labels that these points rank."""
    SELECT_POINTS = 15
    """Validation points that choose the weights of the parts."""
    REPORT = 16
    """What the report shows."""
    SELECT_SAMPLES = 17
    """Samples of validation points, whose weights are averaged."""
    PRETRAIN_CROPS = 18
    """Crops of the pictures of a step of Module I."""
    BOOTSTRAP = 19
    """Test points of a sample, when runs are compared."""


def sequence(seed: int, draw: Draw, *numbers: int) -> np.random.SeedSequence:
    """Return numpy's seed of an address.

    The numbers are a spawn key, because numpy fills a plain list of words up with zeros: it does
    not tell [seed, 3] and [seed, 3, 0] apart.

    Args:
        seed: of the run.
        draw: what is drawn.
        numbers: such as the step; always as many for one kind of draw.
    """
    return np.random.SeedSequence(seed, spawn_key=(int(draw), *map(int, numbers)))


def generator(seed: int, draw: Draw, *numbers: int) -> np.random.Generator:
    """Return numpy's generator of an address; the arguments are those of `sequence`."""
    return np.random.default_rng(sequence(seed, draw, *numbers))


def key(seed: int, draw: Draw) -> jax.Array:
    """Return JAX's key of an address; steps and rows are folded into it."""
    return jax.random.fold_in(jax.random.key(seed), int(draw))
