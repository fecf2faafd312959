"""Both losses, against values computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mufin_jax.training.losses import cosine_margin_loss, hinge_loss, softmax_loss

# Two labels, five datapoints. Label 0 has the positives 0 and 1 and may use 2, 3 and 4 as
# negatives. Label 1 has the positive 3 and may use only 0: 1 and 2 are relevant to it,
# and 4 is padding.
SIMILARITIES = jnp.array([[0.5, 0.1, 0.4, 0.6, -0.9], [0.25, 0.9, 0.9, 0.3, 0.9]])
POSITIVES = jnp.array([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]], bool)
NEGATIVES = jnp.array([[0, 0, 1, 1, 1], [1, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize(
    "hardest, expected",
    [
        # label 0, negative 3: .6 - .5 + .2 = .3 and .6 - .1 + .2 = .7
        # label 1, negative 0: .25 - .3 + .2 = .15
        (1, [1.0, 0.15]),
        # label 0, and negative 2: .4 - .5 + .2 = .1 and .4 - .1 + .2 = .5
        (2, [1.6, 0.15]),
        # label 0, and negative 4: -.9 - .5 + .2 < 0 and -.9 - .1 + .2 < 0
        (3, [1.6, 0.15]),
    ],
)
def test_the_hinge_loss_is_the_one_computed_by_hand(hardest, expected):
    actual = hinge_loss(SIMILARITIES, POSITIVES, NEGATIVES, hardest, margin=0.2)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_the_gradient_of_the_hinge_counts_the_active_pairs():
    gradient = jax.grad(lambda s: hinge_loss(s, POSITIVES, NEGATIVES, 2, 0.2).sum())(SIMILARITIES)
    # Label 0: both positives with negatives 2 and 3; label 1: positive 3 with negative 0.
    np.testing.assert_array_equal(gradient, [[-2, -2, 2, 2, 0], [1, 0, 0, -1, 0]])


@pytest.mark.parametrize("value", [-0.3, 0.0, 1.0])
def test_equal_similarities_cost_positives_times_negatives_times_margin(value):
    similarities = jnp.full((2, 7), value)
    positives = jnp.arange(7)[None] < jnp.array([[2], [1]])
    loss = hinge_loss(similarities, positives, ~positives, hardest=3, margin=0.2)
    np.testing.assert_allclose(loss, [2 * 3 * 0.2, 1 * 3 * 0.2], rtol=1e-6)


def test_a_label_without_positives_or_negatives_costs_nothing_and_pulls_nothing():
    none = jnp.zeros_like(POSITIVES)
    for positives, negatives in ((POSITIVES, none), (none, NEGATIVES), (none, none)):

        def total(similarities, positives=positives, negatives=negatives):
            return hinge_loss(similarities, positives, negatives).sum()

        loss, gradient = jax.value_and_grad(total)(SIMILARITIES)
        assert loss == 0 and not np.any(gradient)  # NaN would count as any


def test_nan_similarities_are_not_dropped_from_a_loss():
    # Hinges of NaN once counted as places that hold no negative, and cost nothing.
    similarities = jnp.array([[0.5, jnp.nan, 0.1], [jnp.nan] * 3])
    positives = jnp.array([[True, False, False]] * 2)
    for loss in (hinge_loss, cosine_margin_loss, softmax_loss):
        assert jnp.isnan(loss(similarities, positives, ~positives)).all(), loss.__name__


def test_the_cosine_loss_is_the_one_computed_by_hand():
    similarities = jnp.array([[0.9, -0.2, 0.8, 0.4, 0.6], [0.1, 0.7, 0.55, 0.99, -1.0]])
    positives = jnp.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)
    negatives = jnp.array([[0, 0, 1, 1, 0], [0, 0, 1, 0, 1]], bool)
    # 0: (1 - .9) + (1 + .2) + [.8 - .5] + [.4 - .5]_+ = .1 + 1.2 + .3 + 0; the last is padding
    # 1: (1 - .1) + [.55 - .5] + [-1 - .5]_+ = .9 + .05 + 0; the second and fourth are padding
    actual = cosine_margin_loss(similarities, positives, negatives, margin=0.5)
    np.testing.assert_allclose(actual, [1.6, 0.95], atol=1e-6)
    # A lower margin lets the .4 count: 1.3 + [.8 - .1] + [.4 - .1] = 2.3; .9 + [.55 - .1] = 1.35
    actual = cosine_margin_loss(similarities, positives, negatives, margin=0.1)
    np.testing.assert_allclose(actual, [2.3, 1.35], atol=1e-6)


def test_the_cosine_loss_pulls_positives_and_pushes_only_negatives_beyond_the_margin():
    similarities = jnp.array([[0.9, 0.8, 0.4, 0.6]])
    positives, negatives = jnp.array([[1, 0, 0, 0]], bool), jnp.array([[0, 1, 1, 0]], bool)

    def total(similarities, negatives):
        return cosine_margin_loss(similarities, positives, negatives).sum()

    np.testing.assert_array_equal(jax.grad(total)(similarities, negatives), [[-1, 1, 0, 0]])
    none = jnp.zeros_like(negatives)
    np.testing.assert_array_equal(jax.grad(total)(similarities, none), [[-1, 0, 0, 0]])


def test_the_softmax_loss_is_as_worked_out_by_hand():
    # At temperature 0.1 label 0 has the logits 5, 1, 4, 6, -9; its negatives are 2, 3 and 4.
    others = np.exp(4) + np.exp(6) + np.exp(-9)
    each = [-np.log(np.exp(p) / (np.exp(p) + others)) for p in (5, 1)]
    # Label 1 has the positive 3 (logit 3) and the negative 0 (logit 2.5); the others play no part.
    alone = -np.log(np.exp(3) / (np.exp(3) + np.exp(2.5)))
    actual = softmax_loss(SIMILARITIES, POSITIVES, NEGATIVES, temperature=0.1)
    np.testing.assert_allclose(actual, [np.mean(each), alone], rtol=1e-5)


def test_the_gradient_of_the_softmax_is_the_share_of_each_negative():
    gradient = jax.grad(lambda s: softmax_loss(s, POSITIVES, NEGATIVES, 0.1).sum())(SIMILARITIES)
    expected, logits = np.zeros((2, 5)), np.array(SIMILARITIES) / 0.1
    for label, positives, negatives in ((0, [0, 1], [2, 3, 4]), (1, [3], [0])):
        for p in positives:
            shares = np.exp(logits[label, [p, *negatives]])
            shares /= shares.sum()
            expected[label, p] += (shares[0] - 1) / 0.1 / len(positives)
            expected[label, negatives] += shares[1:] / 0.1 / len(positives)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_equal_similarities_cost_the_logarithm_of_the_number_of_items():
    positives = jnp.arange(7)[None] < jnp.array([[2], [1]])
    loss = softmax_loss(jnp.full((2, 7), 0.4), positives, ~positives)
    np.testing.assert_allclose(loss, np.log([6, 7]), rtol=1e-6)


def test_the_softmax_of_an_anchor_without_positives_or_negatives_is_zero_and_pulls_nothing():
    none = jnp.zeros_like(POSITIVES)
    for positives, negatives in ((POSITIVES, none), (none, NEGATIVES), (none, none)):

        def total(similarities, positives=positives, negatives=negatives):
            return softmax_loss(similarities, positives, negatives).sum()

        loss, gradient = jax.value_and_grad(total)(SIMILARITIES)
        assert loss == 0 and not np.any(gradient)
