"""Every message of the argument parser becomes one line that names the flag."""

import dataclasses

import pytest
import tyro

from experiments.amazon import PRESETS
from mufin_jax.pipeline.cli import parse
from mufin_jax.pipeline.cli_messages import one_line
from mufin_jax.runtime.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--pretrain.epoch=3"],
         "unrecognized option --pretrain.epoch; did you mean --pretrain.epochs?"),
        (["--heads=2", "--nonsense=3"],
         "unrecognized option --heads; did you mean --model.heads or --model.image.heads or "
         "--model.text.heads?"),
        (["--evaluate.predict.mix=1"],  # its name until version 0.1.0
         "unrecognized option --evaluate.predict.mix; did you mean --predict.mix?"),
        (["--nonsense=3"], "unrecognized option --nonsense; see --help"),
        (["--finetune.drop-best=true"],
         "unexpected argument 'true': options are given as --name=value, switches as --name or "
         "--no-name; see --help"),
        (["--pretrain.epochs=x"], "--pretrain.epochs: 'x' is not a whole number; see --help"),
        (["--num-points=x"], "--num-points: 'x' is not a whole number; see --help"),
        (["--finetune.margin=x"], "--finetune.margin: 'x' is not a number; see --help"),
        (["--stage=train"],
         "--stage=train: expected one of prepare, pretrain, retrieve, initialize, finetune, "
         "select, evaluate, report, all"),
        (["--prepare.filter=all"], "--prepare.filter=all: expected one of given, self, reciprocal"),
        (["--pretrain.epochs"], "--pretrain.epochs: expected a value after it; see --help"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_answered_in_one_line(arguments, line):
    with pytest.raises(InputError) as error:
        parse(PRESETS, arguments)
    assert str(error.value) == line


@dataclasses.dataclass(frozen=True)
class Pair:
    size: tuple[int, int] = (1, 2)


def test_the_error_for_a_flag_of_two_values_gives_their_number(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Pair, args=["--size"])
    line = one_line(capsys.readouterr().err, [])
    assert line == "--size: expected 2 values after it; see --help"


def test_messages_in_ascii_boxes_are_read_too():
    message = """
+- Missing argument ---------------------------------------+
| Missing value for argument '--seed'. Expected 1 values. |
+----------------------------------------------------------+
"""
    assert one_line(message, []) == "--seed: expected a value after it; see --help"


def test_an_unknown_message_is_printed_unchanged():
    assert one_line("╭─ New ─╮\n│ Something else │\n╰────╯\n", []) == "New Something else"


@pytest.mark.parametrize(
    ("given", "frozen"),
    [
        ("--model.text-checkpoint=minilm", True),
        ("--prepare.image-vectors=v", True),
        ("--model.text-checkpoint=None", False),
        ("--seed=1", False),
    ],
)
def test_data_with_checkpoints_or_ready_vectors_freeze_the_encoders(given, frozen):
    for preset in ([], ["--preset=catalogue"]):
        found = parse(PRESETS, ["--data=shop", given, *preset]).experiment
        assert found.name == ("catalogue-frozen" if frozen else "catalogue")
        assert (found.model.reduce == "hidden") == frozen
    assert parse(PRESETS, ["--data=shop", given, "--preset=paper"]).experiment.name != found.name


def test_ready_vectors_are_frozen_as_checkpoints_are():
    arguments = ["--data=shop", "--prepare.image-vectors=v"]
    found = parse(PRESETS, arguments).experiment.resolved().pretrain.optimizer
    assert (found.image_encoder, found.text_encoder) == ("frozen", "full")
