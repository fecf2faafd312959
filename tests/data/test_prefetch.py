"""Batches are made ahead of use, in their order, and an error in one reaches the loop."""

import threading
import time

import numpy as np
import pytest
from small import SIZES

from mufin_jax.data.loader import Loader, prefetch


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_made_ahead_equal_those_of_direct_calls_in_order(dataset, threads):
    loader = Loader(dataset)

    def make(step):
        rows = np.random.default_rng([5, step]).permutation(SIZES["train"])[:6]
        time.sleep(0.01 * (step % 3))  # later ones are done earlier
        return step, loader.batch([(dataset.train, rows)])

    steps = list(prefetch(make, 3, 12, threads))
    assert [step for step, _ in steps] == list(range(3, 12))
    for step, (pool, (bags,)) in steps:
        _, (direct, (direct_bags,)) = make(step)
        np.testing.assert_array_equal(pool.texts.tokens, direct.texts.tokens)
        np.testing.assert_array_equal(pool.images.rows, direct.images.rows)
        np.testing.assert_array_equal(bags.slots, direct_bags.slots)
        np.testing.assert_array_equal(bags.mask, direct_bags.mask)


def test_batches_are_made_ahead_of_use_by_other_threads():
    made = []
    steps = prefetch(lambda step: made.append((step, threading.get_ident())) or step, 0, 6, 2)
    assert next(steps) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 3 and threading.get_ident() not in {thread for _, thread in made}
    assert list(steps) == [1, 2, 3, 4, 5]


def test_without_threads_a_batch_is_made_when_it_is_used():
    made = []
    steps = prefetch(lambda step: made.append((step, threading.get_ident())) or step, 0, 6, 0)
    assert [next(steps), next(steps)] == [0, 1]
    assert made == [(0, threading.get_ident()), (1, threading.get_ident())]


def test_an_error_in_a_batch_reaches_the_loop():
    def make(step):
        if step == 2:
            raise FileNotFoundError("gone")
        return step

    steps = prefetch(make, 0, 5)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(FileNotFoundError, match="gone"):
        next(steps)


def test_an_empty_range_gives_no_batches():
    assert list(prefetch(lambda step: 1 / 0, 4, 4)) == []
