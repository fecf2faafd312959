"""The time plan: what a step computes, and the line that says how long training takes."""

import dataclasses
import logging

import numpy as np
import pytest

from mufin_jax.data.validation import Validation
from mufin_jax.pipeline import time_plan
from mufin_jax.pipeline.time_plan import (
    EFFICIENCY,
    START_SECONDS,
    STEP_SECONDS,
    Costs,
    StagePlan,
    costs_of,
    in_words,
    log_time_plan,
    operations_a_second,
    plan_finetune,
    plan_pretrain,
)
from mufin_jax.training.early_stopping import ValidateConfig
from mufin_jax.training.finetune_batches import FinetuneConfig
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_config import PretrainConfig

FULL = OptimizerConfig(image_encoder="full", text_encoder="full")
FROZEN = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
PRETRAIN = PretrainConfig(epochs=100, batch_size=8, optimizer=FULL)
FINETUNE = FinetuneConfig(epochs=100, batch_size=8, optimizer=FULL)


@pytest.fixture(scope="module")
def costs(model, dataset):
    return costs_of(model, dataset)


def test_the_costs_are_two_operations_a_weight_and_position(costs, dataset):
    """Width 12, two attention blocks of ViT on 2 x 2 patches, one of DistilBERT on its tokens."""
    block = 4 * 12 * 12 + 2 * 12 * 10
    tokens = np.mean(dataset.text_lengths)
    assert costs.text == pytest.approx(2 * (block + 12 * 16) * tokens, rel=0.3)
    assert costs.image == pytest.approx(2 * 4 * (2 * block + 48 * 12), rel=0.2)
    assert costs.slot == 2 * 4 * 6 * 6
    assert costs.depths == (1, 2)


@pytest.mark.parametrize("config", [PRETRAIN, FINETUNE], ids=lambda config: type(config).__name__)
def test_what_trains_costs_three_passes_a_step_and_what_is_frozen_one_pass_in_all(
    config, costs, dataset
):
    plan = plan_pretrain if isinstance(config, PretrainConfig) else plan_finetune

    def of(**changes):
        return plan(dataclasses.replace(config, **changes), costs, dataset)

    whole, twice, frozen = of(), of(epochs=200), of(optimizer=FROZEN)
    assert twice.steps == 2 * whole.steps == 2 * frozen.steps
    assert twice.operations == pytest.approx(2 * whole.operations, rel=0.05)
    assert frozen.operations < 0.5 * whole.operations
    last = of(optimizer=dataclasses.replace(FROZEN, image_encoder="last"))
    assert frozen.operations < last.operations < whole.operations
    assert of(least_steps=5000).steps == 5000
    # Nothing is held out here, so nothing is validated.
    assert of(validate=ValidateConfig(every=1)) == whole


COSTS = Costs(text=1.0, image=1e3, slot=1e6, pair=1e9, depths=(2, 4))
"""Of sizes that do not meet in a sum."""


def of_side(side):
    """The mean texts and images of an item."""
    return (side.text >= 0).sum() / len(side), len(side.image_rows) / len(side)


def whole(side, items):
    texts, images = of_side(side)
    return items * (texts + 1e3 * images + 1e6 * (texts + images))


def distinct(side, draws):
    """Items of so many draws, each counted once."""
    return len(side) * (1 - np.exp(-draws / len(side)))


@pytest.mark.parametrize(
    ("text", "image", "passes"),
    [("full", "full", (3, 3)), ("last", "last", (3 / 2, 3 / 4)), ("frozen", "full", (0, 3))],
)
def test_a_step_and_a_stage_are_worked_out_by_hand(dataset, text, image, passes):
    optimizer = OptimizerConfig(text_encoder=text, image_encoder=image)
    i = dataclasses.replace(PRETRAIN, optimizer=optimizer)
    iv = dataclasses.replace(FINETUNE, optimizer=optimizer)
    labels, points = len(dataset.labels), len(dataset.train)
    plans = [plan_pretrain(i, COSTS, dataset), plan_finetune(iv, COSTS, dataset)]
    assert [plan.steps for plan in plans] == [100 * -(-labels // 8), 100 * -(-points // 8)]
    drawn = 8 * (iv.positives + iv.negatives)
    for plan, counts, pairs in zip(plans, ((8 * 2, 8), (8, drawn)), (0, drawn), strict=True):
        step = 3 * pairs * 1e9
        for side, draws in zip((dataset.train, dataset.labels), counts, strict=True):
            texts, images = of_side(side)
            step += distinct(side, draws) * (
                passes[0] * texts + passes[1] * 1e3 * images + 3e6 * (texts + images)
            )
        once = whole(dataset.train, points) + whole(dataset.labels, labels)
        assert plan.operations == pytest.approx(plan.steps * step + once, rel=1e-9)


def test_validations_embed_their_points_and_labels_before_the_first_step_and_after_the_last(
    dataset,
):
    pairs = dataset.train.pairs
    rows = np.arange(0, 20, 2)
    held = Validation(rows, np.zeros(10, bool), pairs[rows] * 0, pairs[rows])
    known = dataclasses.replace(dataset, validation=held)
    for plan, config in ((plan_pretrain, PRETRAIN), (plan_finetune, FINETUNE)):
        for options, points, labels in (({}, 10, 13), ({"points": 4, "labels": 5}, 4, 5)):
            validated = dataclasses.replace(config, validate=ValidateConfig(every=7, **options))
            found = plan(validated, COSTS, known)
            more = found.operations - plan(config, COSTS, known).operations
            once = whole(dataset.train, points) + whole(dataset.labels, labels)
            assert more == pytest.approx((found.steps // 7 + 2) * once, rel=1e-6)


def test_devices_other_than_a_cpus_add_up(monkeypatch):
    class Device:
        platform = "gpu"

    class Devices:
        local_devices, size = [Device()], 8

        __hash__ = object.__hash__

    clock = iter(range(1000))
    monkeypatch.setattr(time_plan.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(time_plan.jax, "device_put", lambda array, device: array[:1, :1])
    plain = time_plan.operations_a_second.__wrapped__
    wrapped = getattr(plain, "__wrapped__", plain)
    assert wrapped(Devices()) == 8 * 2 * 8192**3


def test_the_line_names_the_modules_their_steps_and_minutes():
    rate = 1e9
    plans = [
        StagePlan("Module I", 1500, (200 - START_SECONDS) * EFFICIENCY * rate),
        StagePlan("Module IV", 1000, 1.0),
    ]
    assert plans[1].seconds(rate) == START_SECONDS + 1000 * STEP_SECONDS
    assert in_words(plans, rate) == (
        "time plan: training takes about 4 min (Module I 3 min for 1,500 steps; Module IV 20 s for "
        "1,000 steps), within a factor of two; this machine multiplies at 1 GFLOP/s"
    )


@pytest.mark.parametrize(
    ("seconds", "words"), [(3.0, "10 s"), (64.0, "60 s"), (600.0, "10 min"), (9e3, "2.5 h")]
)
def test_a_duration_has_few_digits(seconds, words):
    assert time_plan._about(seconds) == words


def test_the_plan_is_logged_for_the_stages_ahead(model, dataset, mesh, caplog):
    with caplog.at_level(logging.INFO):
        log_time_plan(PRETRAIN, FINETUNE, model, dataset, mesh)
        log_time_plan(None, FINETUNE, model, dataset, mesh)
        log_time_plan(dataclasses.replace(PRETRAIN, epochs=0), None, model, dataset, mesh)
    first, second = caplog.messages
    assert "Module I " in first and "Module IV" in first
    assert "Module I " not in second and "Module IV" in second
    assert operations_a_second(mesh) > 1e8
