"""Options that do nothing by themselves: a flag that changes no result is a mistake of its user.

Only what a command changes counts. A preset may well hold a temperature for a loss that a command
replaces.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mufin_jax.pipeline.experiment import ABOUT, Experiment
from mufin_jax.runtime.errors import InputError


class Rule(NamedTuple):
    """What some options need to do anything.

    Attributes:
        options: their paths in the experiment; * stands for any text.
        works: whether they do anything in an experiment.
        needs: the flag that makes them work, or why nothing does.
    """

    options: tuple[str, ...]
    works: Callable[[Experiment], bool]
    needs: str


def _seen(kind: str) -> Callable[[Experiment], bool]:
    """Return whether the model sees a kind of content: "text" or "images"."""
    return lambda e: e.model.modalities in ("both", "joint", kind)


def _validated(stage: str) -> Callable[[Experiment], bool]:
    return lambda e: getattr(e, stage).validate.every > 0


def _trains_on_pixels(e: Experiment) -> bool:
    """Return whether Module I trains all of an image encoder."""
    option = e.pretrain.optimizer.image_encoder
    whole = option == "all" or (option == "auto" and e.model.image_checkpoint is None)
    return whole and e.prepare.image_vectors is None and _seen("images")(e)


def _searches(*backends: str) -> Callable[[Experiment], bool]:
    return lambda e: e.retrieve.index.backend in ("auto", *backends)


RULES = (
    Rule(("start.*",), lambda e: e.start_from is not None, "--from"),
    Rule(("miniature.*",), lambda e: e.data is None, "no --data, which has sizes of its own"),
    Rule(
        ("prepare.[!v]*", "prepare.vocab_size"),
        lambda e: e.data is not None or not e.miniature.PREPARED,
        "--data: these built-in data are prepared as they are made",
    ),
    Rule(
        ("prepare.columns", "prepare.images", "prepare.keep"),
        lambda e: e.data is not None,
        "--data",
    ),
    Rule(("prepare.beam_options",), lambda e: bool(e.prepare.beam_runner), "--prepare.beam-runner"),
    Rule(
        ("prepare.tokenizer", "prepare.prompt", "prepare.vocab_size", "prepare.max_tokens"),
        lambda e: e.prepare.text_vectors is None,
        "no --prepare.text-vectors: no title is tokenized",
    ),
    Rule(
        ("prepare.vocab_size",),
        lambda e: not (e.prepare.tokenizer or (e.model.text_checkpoint and _seen("text")(e))),
        "no --prepare.tokenizer and no --model.text-checkpoint, which bring their vocabulary",
    ),
    Rule(
        ("prepare.image_size", "prepare.fit", "prepare.resample", "prepare.mean", "prepare.std",
         "prepare.image_array_gb", "prepare.max_bytes", "prepare.max_pixels",
         "prepare.missing_rows"),
        lambda e: e.prepare.image_vectors is None,
        "no --prepare.image-vectors: no picture is read",
    ),
    Rule(
        ("prepare.image_size", "prepare.fit", "prepare.resample", "prepare.mean", "prepare.std"),
        lambda e: e.model.image_checkpoint is None,
        "no --model.image-checkpoint, which brings its own preprocessing",
    ),
    Rule(("model.image_checkpoint", "model.image.*"), _seen("images"), "--model.modalities=both"),
    Rule(("model.text_checkpoint", "model.text.*"), _seen("text"), "--model.modalities=both"),
    Rule(("model.label_images",), _seen("images"), "--model.modalities=both"),
    Rule(("model.reduce_hidden",), lambda e: e.model.reduce == "hidden", "--model.reduce=hidden"),
    Rule(
        ("*.optimizer.reduce", "*.optimizer.reduce_rate"),
        lambda e: e.model.reduce != "max_pool",
        "--model.reduce=linear or hidden: max-pooling has no weights",
    ),
    Rule(
        ("*.modality_dropout",), lambda e: e.model.modalities == "both", "--model.modalities=both"
    ),
    Rule(("pretrain.*",), lambda e: e.pretrain.epochs > 0, "--pretrain.epochs above 0"),
    Rule(
        ("pretrain.both_ways",), lambda e: e.pretrain.loss == "softmax", "--pretrain.loss=softmax"
    ),
    Rule(
        ("pretrain.temperature",),
        lambda e: e.pretrain.loss == "softmax" and e.pretrain.own_loss is None,
        "--pretrain.loss=softmax",
    ),
    Rule(
        ("pretrain.teacher_weight",),
        lambda e: e.pretrain.teacher is not None,
        "--pretrain.teacher",
    ),
    Rule(
        ("pretrain.crop",),
        _trains_on_pixels,
        "an image encoder that trains on pixels: --pretrain.optimizer.image-encoder=all",
    ),
    Rule(
        ("pretrain.negatives", "pretrain.hard_negatives", "pretrain.margin"),
        lambda e: e.pretrain.loss == "hinge",
        "--pretrain.loss=hinge",
    ),
    Rule(
        ("pretrain.cluster_size",),
        lambda e: e.pretrain.batches == "clustered",
        "--pretrain.batches=clustered",
    ),
    Rule(
        ("pretrain.refresh_epochs",),
        lambda e: e.pretrain.mines,
        "--pretrain.hard-limit below 1, --pretrain.batches=clustered or --pretrain.mined-negatives",
    ),
    Rule(
        ("pretrain.optimizer.table_rate",),
        lambda e: False,
        "--finetune.optimizer.table-rate instead: Module I has no label table",
    ),
    Rule(("pretrain.validate.*",), _validated("pretrain"), "--pretrain.validate.every"),
    Rule(("finetune.validate.*",), _validated("finetune"), "--finetune.validate.every"),
    Rule(
        ("finetune.validate.labels",),
        lambda e: False,
        "--pretrain.validate.labels instead: Module IV ranks the labels of shortlists",
    ),
    Rule(
        ("finetune.margin",), lambda e: e.finetune.loss == "cosine", "--finetune.loss=cosine"
    ),
    Rule(
        ("finetune.temperature",),
        lambda e: e.finetune.loss == "softmax" and e.finetune.own_loss is None,
        "--finetune.loss=softmax",
    ),
    Rule(
        ("initialize.eta", "initialize.table.*", "finetune.optimizer.table_rate"),
        lambda e: e.finetune.classifiers != "labels",
        "--finetune.classifiers=table or sum: there is no label table",
    ),
    Rule(
        ("initialize.alpha",),
        lambda e: e.finetune.classifiers == "table",
        "--finetune.classifiers=table",
    ),
    Rule(
        ("retrieve.index.leaves_searched", "retrieve.index.entries_searched",
         "retrieve.index.reorder", "retrieve.index.threads"),
        _searches("scann"),
        "--retrieve.index.backend=scann",
    ),
    Rule(
        ("retrieve.index.over_fetch",),
        _searches("sharded", "sharded_approx"),
        "--retrieve.index.backend=sharded",
    ),
    Rule(
        ("select.candidates", "select.points", "select.part.*"),
        lambda e: bool(e.select.parts),
        "--select.parts",
    ),
    Rule(
        ("select.part.neighbours", "select.part.vote_temperature"),
        lambda e: "v" in e.select.parts,
        "the part v in --select.parts",
    ),
    Rule(
        ("select.part.stand_ins", "select.part.stand_in_temperature"),
        lambda e: "sg" in e.select.parts,
        "the part sg in --select.parts",
    ),
    Rule(
        ("select.part.title_neighbours",),
        lambda e: "tv" in e.select.parts,
        "the part tv in --select.parts",
    ),
    Rule(("report.points", "report.vectors"), lambda e: e.report.figures, "--report.figures"),
)  # fmt: skip
"""Every option that needs another one, from the first stage to the last."""


def reject_idle_options(experiment: Experiment, preset: Experiment) -> None:
    """Reject an option that a command changes, and that does nothing in its experiment.

    Args:
        experiment: what the command runs.
        preset: what it would run without any option.

    Raises:
        InputError: with the flag, and the flag that it needs.
    """
    changed = changed_options(experiment, preset)
    for rule in RULES:
        for path, value in changed.items():
            if not any(fnmatch.fnmatchcase(path, pattern) for pattern in rule.options):
                continue
            if path.endswith((".epochs", ".every")) or rule.works(experiment):
                continue
            raise InputError(f"{flag_of(path, value)} does nothing here: it needs {rule.needs}")


def changed_options(experiment: Experiment, preset: Experiment) -> dict[str, Any]:
    """Return the options that differ from those of a preset, with their values, by their paths."""
    before = dict(options_of(preset))
    return {n: value for n, value in options_of(experiment) if value != before.get(n, ...)}


def options_of(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every option with its path and its value; of the kind of an encoder, all options.

    Args:
        config: an experiment, or one of its parts.
        prefix: in front of each path, such as "model.".
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from options_of(value, f"{prefix}{field.name}.")
        elif prefix or field.name not in ABOUT:
            yield prefix + field.name, value


def flag_of(path: str, value: Any) -> str:
    """Return an option as its user writes it."""
    *groups, name = path.replace("_", "-").split(".")
    if isinstance(value, bool):
        return "--" + ".".join([*groups, name if value else f"no-{name}"])
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"--{'.'.join([*groups, name])}={shown}"
