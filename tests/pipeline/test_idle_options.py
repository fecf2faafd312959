"""An option that does nothing without another one is rejected, with both flags."""

import dataclasses
import fnmatch
from pathlib import Path

import pytest

from experiments.amazon import PRESETS
from mufin_jax.data.synthetic.ads import AdsConfig
from mufin_jax.pipeline import cli
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.pipeline.idle_options import RULES, options_of, reject_idle_options
from mufin_jax.runtime.errors import InputError


def replaced(config, **values):
    """Return a config with values at paths such as pretrain__loss."""
    for path, value in values.items():
        first, _, rest = path.partition("__")
        inner = replaced(getattr(config, first), **{rest: value}) if rest else value
        config = dataclasses.replace(config, **{first: inner})
    return config


IDLE = [
    ({"start__steps": 0.5}, "--start.steps=0.5", "--from"),
    ({"pretrain__temperature": 0.2}, "--pretrain.temperature=0.2", "--pretrain.loss=softmax"),
    ({"pretrain__both_ways": False}, "--pretrain.no-both-ways", "--pretrain.loss=softmax"),
    ({"pretrain__loss": "softmax", "pretrain__margin": 0.3}, "margin=0.3", "--pretrain.loss=hinge"),
    ({"pretrain__loss": "softmax", "pretrain__negatives": 5}, "negatives=5", "=hinge"),
    ({"pretrain__cluster_size": 8}, "--pretrain.cluster-size=8", "--pretrain.batches=clustered"),
    ({"pretrain__hard_limit": 1.0, "pretrain__refresh_epochs": 9}, "epochs=9", "hard-limit below"),
    ({"pretrain__epochs": 0, "pretrain__batch_size": 9}, "batch-size=9", "--pretrain.epochs above"),
    ({"pretrain__validate__points": 9}, "points=9", "--pretrain.validate.every"),
    ({"pretrain__optimizer__table_rate": 0.1}, "table-rate=0.1", "has no label table"),
    ({"pretrain__optimizer__reduce": "frozen"}, "reduce=frozen", "--model.reduce=linear"),
    ({"finetune__validate__points": 9}, "points=9", "--finetune.validate.every"),
    ({"finetune__validate__every": 5, "finetune__validate__labels": 9}, "labels=9", "shortlists"),
    ({"finetune__temperature": 0.2}, "temperature=0.2", "--finetune.loss=softmax"),
    ({"finetune__loss": "softmax", "finetune__margin": 0.1}, "margin=0.1", "=cosine"),
    ({"finetune__optimizer__reduce_rate": 0.1}, "reduce-rate=0.1", "--model.reduce=linear"),
    ({"finetune__classifiers": "labels", "initialize__alpha": 0.1}, "alpha=0.1", "=table"),
    ({"finetune__classifiers": "sum", "initialize__alpha": 0.1}, "alpha=0.1", "=table"),
    ({"finetune__classifiers": "labels", "initialize__table__dtype": "bfloat16"}, "dtype", "sum"),
    ({"finetune__modality_dropout": 0.1, "model__modalities": "text"}, "dropout=0.1", "=both"),
    ({"model__label_images": False, "model__modalities": "text"}, "no-label-images", "=both"),
    ({"model__reduce_hidden": 99}, "reduce-hidden=99", "--model.reduce=hidden"),
    ({"model__image_checkpoint": "x", "model__modalities": "text"}, "checkpoint=x", "=both"),
    ({"model__image_checkpoint": "x", "prepare__image_size": 64}, "size=64", "preprocessing"),
    ({"prepare__tokenizer": "x", "prepare__vocab_size": 99}, "vocab-size=99", "tokenizer"),
    ({"prepare__text_vectors": "x", "prepare__max_tokens": 9}, "max-tokens=9", "text-vectors"),
    ({"prepare__image_vectors": "x", "prepare__max_pixels": 9}, "pixels=9", "image-vectors"),
    ({"prepare__columns": ("id=sku",)}, "--prepare.columns=id=sku", "--data"),
    ({"prepare__images": Path("p")}, "--prepare.images=p", "--data"),
    ({"miniature": AdsConfig(), "prepare__max_tokens": 9}, "max-tokens=9", "as they are made"),
    ({"prepare__beam_options": ("a=b",)}, "--prepare.beam-options=a=b", "--prepare.beam-runner"),
    ({"data": Path("d"), "miniature__labels": 99}, "--miniature.labels=99", "no --data"),
    ({"retrieve__index__backend": "exact", "retrieve__index__reorder": 9}, "reorder=9", "=scann"),
    ({"retrieve__index__backend": "scann", "retrieve__index__over_fetch": 9}, "fetch=9", "sharded"),
    ({"select__candidates": 9}, "--select.candidates=9", "--select.parts"),
    ({"select__parts": ("z",), "select__part__neighbours": 9}, "neighbours=9", "the part v"),
    ({"select__parts": ("z",), "select__part__stand_ins": 9}, "stand-ins=9", "the part sg"),
    ({"select__parts": ("t",), "select__part__title_neighbours": 9}, "bours=9", "the part tv"),
    ({"pretrain__optimizer__image_encoder": "last", "pretrain__crop": 0.3}, "crop=0.3", "=all"),
    ({"prepare__image_vectors": "v", "pretrain__crop": 0.3}, "crop=0.3", "on pixels"),
    ({"pretrain__teacher_weight": 0.5}, "--pretrain.teacher-weight=0.5", "--pretrain.teacher"),
    ({"report__figures": False, "report__points": 9}, "--report.points=9", "--report.figures"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "flag", "needed"), IDLE)
def test_an_option_that_does_nothing_is_rejected_with_the_flag_that_it_needs(values, flag, needed):
    with pytest.raises(InputError) as caught:
        reject_idle_options(replaced(Experiment(), **values), Experiment())
    line = str(caught.value)
    first, _, second = line.partition(" does nothing here: it needs ")
    assert flag in first and needed in second and "\n" not in line


@pytest.mark.parametrize(
    "values",
    [
        {"pretrain__temperature": 0.2, "pretrain__loss": "softmax"},
        {"pretrain__margin": 0.3, "finetune__margin": 0.3},
        {"pretrain__epochs": 0},
        {"finetune__classifiers": "sum", "initialize__eta": "zero"},
        {"retrieve__index__over_fetch": 9, "retrieve__index__reorder": 9},
        {"select__parts": ("v", "sg"), "select__part__neighbours": 9},
        {"data": Path("d"), "prepare__columns": ("id=sku",), "prepare__image_size": 64},
    ],
)
def test_options_that_work_together_pass(values):
    reject_idle_options(replaced(Experiment(), **values), Experiment())


def test_a_preset_may_hold_an_option_of_what_a_command_replaces():
    """Its user has not asked for it."""
    preset = replaced(Experiment(), pretrain__loss="softmax", pretrain__temperature=0.2)
    reject_idle_options(replaced(preset, pretrain__loss="hinge"), preset)


def test_every_rule_is_about_options_that_exist_and_has_a_case_here():
    known = [path for path, _ in options_of(Experiment())]
    for rule in RULES:
        for pattern in rule.options:
            assert fnmatch.filter(known, pattern), pattern
        cases = [values for values, _, needed in IDLE if needed in rule.needs]
        assert cases, rule.needs


def test_the_command_line_rejects_them():
    with pytest.raises(InputError, match=r"^--select\.points=9 does nothing here: it needs --sel"):
        cli.parse(PRESETS, ["--select.points=9"])
    command = cli.parse(PRESETS, ["--pretrain.loss=softmax", "--pretrain.temperature=0.2"])
    assert command.experiment.pretrain.temperature == 0.2
