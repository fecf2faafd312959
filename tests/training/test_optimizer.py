"""Claims about which parts train, at which rate, and what decays."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small import weights

from mufin_jax.runtime.errors import InputError
from mufin_jax.training.optimizer import OptimizerConfig, by_part, schedule, trains

PARTS = (
    *("image_encoder", "text_encoder", "image_reduce", "text_reduce"),
    *("self_attention", "cross_attention"),
)


def params(value: float = 1.0) -> dict:
    return {part: {"kernel": jnp.full((2, 3), value), "bias": jnp.ones(3)} for part in PARTS}


def first_update(config: OptimizerConfig, gradient: float = 1.0) -> dict:
    """What the first step at the full rate adds to weights of one."""
    optimizer = by_part(dataclasses.replace(config, warmup=0), steps=100)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params())
    return optimizer.update(gradients, optimizer.init(params()), params())[0]


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine():
    rate = schedule(0.4, warmup=10, steps=110)
    assert [float(rate(i)) for i in (0, 5, 10)] == pytest.approx([0, 0.2, 0.4])
    assert float(rate(60)) == pytest.approx(0.2)  # half-way down
    assert float(rate(35)) == pytest.approx(0.2 * (1 + np.cos(np.pi / 4)))
    assert float(rate(110)) == pytest.approx(0, abs=1e-9)


def test_warmup_takes_at_most_half_of_all_steps():
    rate = schedule(1.0, warmup=1000, steps=20)
    assert float(rate(10)) == pytest.approx(1) and float(rate(20)) == pytest.approx(0, abs=1e-9)
    assert float(schedule(1.0, warmup=1000, steps=1)(0)) == 1


def test_every_part_learns_at_its_own_rate():
    config = OptimizerConfig(rate=0.1, encoder_rate=0.01, attention_rate=0.2, weight_decay=0.0)
    update = first_update(config)
    rates = dict.fromkeys(PARTS, 0.01) | dict.fromkeys(PARTS[-2:], 0.2)
    for part in PARTS:  # Adam's first step is the rate itself
        np.testing.assert_allclose(update[part]["kernel"], -rates[part], rtol=1e-5)
    plain = first_update(OptimizerConfig(rate=0.1, weight_decay=0.0))
    for leaf in jax.tree.leaves(plain):
        np.testing.assert_allclose(leaf, -0.1, rtol=1e-5)


def test_weight_decay_spares_biases_and_norms():
    update = first_update(OptimizerConfig(rate=0.1, weight_decay=0.5), gradient=0.0)
    for part in PARTS:
        np.testing.assert_allclose(update[part]["kernel"], -0.1 * 0.5, rtol=1e-6)
        assert not update[part]["bias"].any()


def test_gradients_are_clipped_by_the_norm_over_all_parts():
    config = OptimizerConfig(rate=0.1, weight_decay=0.0, clip=1e-9)
    # So small a norm that Adam's eps of 1e-8 holds the step back; without clipping it is the rate.
    count = sum(leaf.size for leaf in jax.tree.leaves(params()))
    small = 1e-9 / count**0.5
    for leaf in jax.tree.leaves(first_update(config, gradient=7.0)):
        np.testing.assert_allclose(leaf, -0.1 * small / (small + 1e-8), rtol=1e-3)


def split(model, cross=True, **modes) -> tuple[set[str], set[str]]:
    config = OptimizerConfig(**modes)
    _, train, frozen = nnx.split(model, trains(config, model.depths(), cross), ...)
    named = (nnx.to_flat_state(state) for state in (train, frozen))
    return tuple({"/".join(map(str, path)) for path, _ in flat} for flat in named)


def test_last_trains_only_the_last_block_and_the_final_norm(model):
    train, frozen = split(model, image_encoder="last", text_encoder="frozen")
    images = {name for name in train if name.startswith("image_encoder")}
    assert {name.split("/")[1] for name in images} == {"blocks", "norm"}
    assert {name.split("/")[2] for name in images if "/blocks/" in name} == {"1"}
    assert len(images) == sum(name.startswith("image_encoder/blocks/0") for name in frozen) + 2
    assert all(not name.startswith("text_encoder") for name in train)


def test_full_trains_everything_and_frozen_nothing(model):
    train, frozen = split(model, image_encoder="full", text_encoder="full")
    assert not frozen and train == set(weights(model))
    train, _ = split(model, image_encoder="frozen", text_encoder="frozen")
    assert {name.split("/")[0] for name in train} == {"self_attention", "cross_attention"}


def test_cross_attention_trains_only_in_stages_that_use_it(model):
    train, frozen = split(model, cross=False)
    assert not any(name.startswith("cross") for name in train)
    assert any(name.startswith("cross") for name in frozen)


def test_the_optimizer_takes_the_parts_of_a_model(model):
    _, train, _ = nnx.split(model, trains(OptimizerConfig(), model.depths(), True), ...)
    train = nnx.to_pure_dict(train)
    state = jax.eval_shape(by_part(OptimizerConfig(), 10).init, train)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * optax.tree.size(train)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"rate": 0.0}, {"encoder_rate": -1.0}, {"table_rate": float("nan")}, {"warmup": -1}),
        *({"weight_decay": 1.0}, {"clip": -0.1}, {"attention_rate": float("inf")}),
    ],
)
def test_rates_that_cannot_train_are_rejected(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        OptimizerConfig(**wrong)
