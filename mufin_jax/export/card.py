"""The model card of an export, `README.md`: filled from what the run recorded and measured."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mufin_jax.evaluation.summary import NOTHING, summary
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.run_folder import environment
from mufin_jax.runtime.storage.files import load_json, replacing

README = "README.md"
_CHECKPOINTS = ("image_checkpoint", "text_checkpoint")
_METRICS = ("P@1", "P@5", "nDCG@5", "PSP@5", "R@10", "FITB", "AUC")
"""The metrics of the card's front matter, in percent but for AUC."""


def save_card(run: Path, predictor: Predictor, folder: Path, title: str) -> None:
    """Write the card of an export.

    Args:
        run: the folder of the run; of an export, the card is copied.
        predictor: loaded from it.
        folder: of the new export.
        title: the heading.
    """
    if not (run / "run.json").is_file() and (run / README).is_file():
        text = (run / README).read_text("utf-8")
    else:
        text = card(run, predictor, title)
    with replacing(folder / README) as file:
        file.write(text.encode("utf-8", "replace"))


def card(run: Path, predictor: Predictor, title: str) -> str:
    """Return the text of the card."""
    from huggingface_hub import ModelCardData

    experiment = load_json(run / "run.json")["experiment"] if (run / "run.json").is_file() else {}
    path = run / "evaluate" / "metrics.json"
    metrics = load_json(path) if path.is_file() else None
    bases = _bases(experiment.get("model", {}))
    data = ModelCardData(
        library_name="mufin_jax",
        tags=["jax", "recommendation", "extreme-classification", "multi-modal", "mufin"],
        base_model=[name for name in bases if not Path(name).exists()] or None,
        model_name=title,
        eval_results=_results(metrics, _data_name(experiment)) or None,
        ignore_metadata_errors=True,
    )
    parts = [_about(predictor, title), _loading(predictor), _made_of(predictor, experiment)]
    parts += [_measured(metrics), _weights(predictor), _licences(bases), _CITATION]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


_CITATION = """\
## The method

MUFIN: Mittal et al., Multi-modal Extreme Classification, CVPR 2022. This model was trained with
mufin_jax, an implementation of it in JAX."""


def _about(predictor: Predictor, title: str) -> str:
    kinds = []
    kinds += ["titles"] if predictor.loader.descriptors.sees_texts else []
    kinds += ["pictures"] if predictor.loader.descriptors.sees_images else []
    labels = int(predictor.catalogue.recommended.sum())
    return (
        f"# {title}\n\nThis model ranks {labels:,} labels for an item, by the item's "
        f"{' and '.join(kinds)}. Other labels can be added to it without training. It knows no "
        "other language or kind of product than its training data had."
    )


def _loading(predictor: Predictor) -> str:
    dataset, item = predictor.dataset, []
    if predictor.loader.descriptors.sees_texts:
        words = '"title": "wall shelf, oak"'
        item.append(words if dataset.text_vectors is None else '"text_vector": vector')
    if predictor.loader.descriptors.sees_images:
        shown = '"images": ["shelf.jpg"]'
        item.append(shown if dataset.image_vectors is None else '"image_vectors": vectors')
    return f"""\
## How to use it

```python
import mufin_jax as mufin

predictor = mufin.Predictor.load("DIR")  # this folder, downloaded
for label in predictor.predict([{{{", ".join(item)}}}], k=10)[0]:
    print(label.id, label.title, label.score)
```

`labels/` holds the labels' ids, titles and vectors for other programs."""


def _made_of(predictor: Predictor, experiment: Mapping[str, Any]) -> str:
    """Return the table of data and settings."""
    prepare, manifest = experiment.get("prepare", {}), predictor.dataset.manifest
    counts, config = manifest.get("counts", {}), predictor.config
    rows = {
        "data": _data_name(experiment),
        "training points, training pairs": _numbers(counts, "train", "train_relevance"),
        "test points, test pairs": _numbers(counts, "test", "test_relevance"),
        "labels of training": f"{counts.get('label', len(predictor.catalogue.base.ids)):,}",
        "split": prepare.get("split", "given"),
        "overlap filter": manifest.get("filter", "given"),
        "recipe, seed": f"{experiment.get('name', '?')}, {experiment.get('seed', '?')}",
        "width D": predictor.model.dim,
        "length of shortlists": config.shortlist,
        "software": ", ".join(f"{name} {found}" for name, found in _versions()),
    }
    return _table("## Data and settings", ("what", "value"), rows.items())


def _numbers(counts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{counts[name]:,}" if name in counts else "?" for name in names)


def _versions() -> Iterator[tuple[str, str]]:
    found = environment()["versions"]
    return ((name, found[name]) for name in ("mufin_jax", "jax", "flax") if name in found)


def _measured(metrics: Mapping[str, Any] | None) -> str:
    """Return the section of the metrics, with floors and ceiling next to them."""
    if metrics is None or not metrics.get("points", 1):
        return f"## Metrics\n\nNot measured: {NOTHING if metrics else 'the run was not evaluated'}."
    told = summary(dict(metrics))
    return (
        "## Metrics\n\nOn the test points, in percent (AUC as it is). Rows below the model's own "
        f"are parts of it and floors, which need no training.\n\n```\n{told}\n```"
    )


def _weights(predictor: Predictor) -> str:
    """Return the table of the parts of a score with their weights."""
    if predictor.ranking is None:
        mix = predictor.config.mix
        return (
            f"## The score\n\n{mix:g} c + {1 - mix:g} a: the classifier's score, and the largest "
            "cosine of the item with an entry of the label."
        )
    mix = predictor.ranking.mix
    rows = (
        (name, f"{mix.warm.parts.get(name, 0):g}", f"{mix.cold.parts.get(name, 0):g}")
        for name in mix.names
    )
    return _table(
        "## The score\n\nA sum of parts. Known products are labels with training pairs.",
        ("part", "weight for known products", "weight for all others"), rows,
    )  # fmt: skip


def _licences(bases: Mapping[str, str]) -> str:
    lines = [
        f"- Encoder from the checkpoint `{Path(name).name if Path(name).exists() else name}`: "
        f"licence {licence}."
        for name, licence in bases.items()
    ]
    return "\n".join([
        "## Licences", "",
        *(lines or ["- The encoders were trained from random weights."]),
        "- Titles and ids of the labels come from the training data, whose licence applies.",
    ])  # fmt: skip


def _bases(model: Mapping[str, Any]) -> dict[str, str]:
    """Return the checkpoints that the encoders began with, and the licence of each."""
    names = [model[field] for field in _CHECKPOINTS if model.get(field)]
    return {str(name): _licence(str(name)) for name in names}


def _licence(name: str) -> str:
    """Return the licence that a checkpoint's own card names, if the card is on this machine."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    path: object = Path(name) / README
    if not Path(name).is_dir():
        path = None
        with contextlib.suppress(ValueError):  # a name that the hub cannot have
            path = try_to_load_from_cache(name, README)
    if isinstance(path, str | Path) and Path(path).is_file():
        with contextlib.suppress(Exception):  # of many types; a card may hold anything
            found = ModelCard.load(path, ignore_metadata_errors=True).data.get("license")
            if isinstance(found, str) and found:
                return found
    return "unknown here; see its own page"


def _data_name(experiment: Mapping[str, Any]) -> str:
    """Return the name of the data, without the place where they were."""
    given = experiment.get("data")
    return Path(given).name if given else "built-in, made up"


def _results(metrics: Mapping[str, Any] | None, data: str) -> list:
    """Return the metrics for the front matter."""
    from huggingface_hub import EvalResult

    row = (metrics or {}).get("rows", {}).get("MUFIN", {})
    return [
        EvalResult("recommendation", _plain(data), data, name, value, metric_name=name)
        for name in _METRICS
        if isinstance(value := row.get(name), int | float)
    ]


def _plain(name: str) -> str:
    return re.sub(r"\W+", "-", name).strip("-").lower() or "unknown"


def _table(heading: str, names: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return heading + "\n\n" + "\n".join(lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
