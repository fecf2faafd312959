"""A user's own losses and samplers: what they are given, where they act, and how they are known."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minute import MINUTE

from mufin_jax.data.loader import Loader
from mufin_jax.pipeline.named_settings import with_settings
from mufin_jax.pipeline.stage_table import STAGES
from mufin_jax.runtime.errors import InputError
from mufin_jax.training import finetune_step, losses, own, pretrain_step
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.pretrain_batches import Batches
from mufin_jax.training.pretrain_config import PretrainConfig


@dataclasses.dataclass
class Pairs:
    """What a loss reads of a batch: two anchors and three others."""

    positives: jax.Array
    negatives: jax.Array
    others: jax.Array


def pairs() -> Pairs:
    rows = ([[1, 0, 0], [0, 1, 1]], [[0, 1, 1], [1, 0, 0]], [[0, 1], [1, 1]])
    return Pairs(*(jnp.array(some, bool) for some in rows))


SIMILARITIES = jnp.array([[0.3, -0.2, 0.5], [0.1, 0.7, -0.4]])


def softmax(similarities, positives, negatives):
    return losses.softmax_loss(similarities, positives, negatives, 0.2)


def hardest(similarities, positives, negatives):
    """The margin to the hardest negative, as a notebook may have it."""
    near = jnp.where(negatives, similarities, -1).max(1)
    far = jnp.where(positives, similarities, 1).min(1)
    return jnp.where(positives.any(1), jnp.maximum(near - far + 0.2, 0), 0)


@pytest.mark.parametrize("both_ways", [True, False])
def test_an_own_loss_takes_the_place_of_the_softmax_in_module_1(both_ways):
    plain = PretrainConfig(loss="softmax", temperature=0.2, both_ways=both_ways)

    def value(config):
        return inspect.unwrap(pretrain_step._softmax)(config, {}, SIMILARITIES, pairs())

    same = dataclasses.replace(plain, own_loss=own.register(softmax))
    other = dataclasses.replace(plain, own_loss=own.register(hardest))
    assert value(same) == value(plain)
    one_way = hardest(SIMILARITIES, pairs().positives, pairs().negatives).mean()
    back = hardest(SIMILARITIES.T, pairs().positives.T, pairs().negatives.T).mean()
    wanted = (one_way + back) / 2 if both_ways else one_way
    np.testing.assert_allclose(value(other), wanted, rtol=1e-6)


def test_an_own_loss_takes_the_place_of_the_softmax_in_module_4():
    plain, batch = FinetuneConfig(loss="softmax", temperature=0.2), pairs()
    others = jnp.array([[0.2, 0.6], [0.4, -0.1]])

    def value(config):
        return inspect.unwrap(finetune_step._softmax)(config, SIMILARITIES, others, batch)

    same = dataclasses.replace(plain, own_loss=own.register(softmax))
    np.testing.assert_array_equal(value(same), value(plain))
    other = value(dataclasses.replace(plain, own_loss=own.register(hardest)))
    np.testing.assert_allclose(other, [0.5 + 0.2 - 0.3 + 0.1, 0.4 + 0.4 + 0.2], rtol=1e-6)


def test_an_own_sampler_gives_the_order_of_an_epoch(dataset):
    seen = []

    def backwards(items, vectors, rng):
        seen.append((len(items), vectors is None, type(rng)))
        return items[::-1]

    config = PretrainConfig(batch_size=4, own_sampler=own.register(backwards))
    make = Batches(config, dataset, Loader(dataset, "both", devices=1), 0)
    assert make._items(0).tolist() == make.usable[::-1][:4].tolist()
    assert config.mines and seen[0] == (len(make.usable), True, np.random.Generator)


def test_what_a_sampler_must_not_return_is_told(dataset):
    for wrong in (lambda items, *_: items[1:], lambda items, *_: items + 99):
        config = PretrainConfig(batch_size=4, own_sampler=own.register(wrong))
        with pytest.raises(
            InputError, match=r"^the sampler .*<lambda> returned int64 .*: expected"
        ):
            Batches(config, dataset, Loader(dataset, "both", devices=1), 0)


def test_functions_are_settings_and_a_run_notices_another_one():
    def margin(width):
        return lambda similarities, positives, negatives: similarities.sum(1) * width

    found = with_settings(MINUTE, {"pretrain.loss": hardest, "finetune": {"loss": softmax}})
    assert (found.pretrain.loss, found.finetune.loss) == ("softmax", "softmax")
    recorded = [
        STAGES["pretrain"].settings(with_settings(MINUTE, {"pretrain.loss": loss}))["own_loss"]
        for loss in (hardest, margin(0.1), margin(0.2), margin(0.2), functools.partial(softmax))
    ]
    assert recorded[0].startswith("hardest@") and len(set(recorded)) == 4
    ordered = with_settings(MINUTE, {"pretrain.batches": lambda items, *_: items})
    assert ordered.pretrain.own_sampler and ordered.pretrain.batches == "uniform"
    assert STAGES["pretrain"].settings(MINUTE)["own_loss"] is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"own_loss": "mine@12"}, "^pretrain.own_loss='mine@12': expected a function of this"),
        ({"own_loss": softmax, "loss": "hinge"}, "^pretrain.loss=hinge with a loss of one's own"),
        (
            {"own_loss": softmax, "loss": "softmax", "learn_temperature": True},
            "^pretrain.learn_temperature with a loss of one's own: only the softmax",
        ),
    ],
)
def test_an_own_loss_that_cannot_act_is_rejected(settings, message):
    settings = {name: own.register(v) if callable(v) else v for name, v in settings.items()}
    with pytest.raises(InputError, match=message):
        PretrainConfig(**settings)
