"""What is printed of a run's metrics: its rows, the floors, the ceiling and the paper's rows.

A second, narrow table has a few metrics of all, of warm and of cold test points.
"""

from typing import Any

from mufin_jax.evaluation import outfits
from mufin_jax.evaluation.rankings import METRICS
from mufin_jax.evaluation.tables import MM_AMAZON_LABELS, PAPER_TABLE_2, table
from mufin_jax.evaluation.warm_cold import columns_by_kind, explanation

MODULE_1 = "Module I alone (P-I-bag)"
"""The row of Module II's shortlists."""
PAPER_MIX = "the paper's mix of c and a"
"""The row of the paper's scores, in a run whose score has parts."""
CONTENT = "content alone (without g and sg)"
"""The row of the mix of the parts that look at titles and pictures."""

NOTHING = "there are no test points: there is nothing to evaluate"


def summary(result: dict[str, Any]) -> str:
    """Return the table of a run.

    Args:
        result: what `metrics.json` holds.
    """
    if not result.get("points", 1):
        return NOTHING
    rows = {name.replace("_", " "): values for name, values in result["rows"].items()}
    answers = "questions" in result
    metric = "FITB" if answers else "P@1"
    if result["ceiling"] is not None:
        rows["ceiling: all attributes known"] = {metric: result["ceiling"]}
    lines = _of_answers(result, rows) if answers else _of_labels(result, rows)
    if "refit" in result:
        lines.append("a refit: trained on all training points, with weights fitted before")
    return "\n".join(lines + _advice(result["rows"], metric))


def _of_labels(result: dict[str, Any], rows: dict[str, dict[str, float]]) -> list[str]:
    if result["labels"] == MM_AMAZON_LABELS:
        for name, values in PAPER_TABLE_2.items():
            rows[f"{name}, as published"] = {metric: value for metric, value in values.items()}
    without = result["points_without_positive"]
    kinds = {name.replace("_", " "): row for name, row in columns_by_kind(result).items()}
    warm_and_cold = ["", table(kinds, list(next(iter(kinds.values()))))] if kinds else []
    if told := explanation(result):
        warm_and_cold.append(told)
    some, every = f"{without} of them have no relevant label", "all of them have a relevant label"
    return [
        table(rows, METRICS),
        f"{result['points']} test points, {some if without else every} after overlap filtering; "
        f"{result['ms_per_point']:.2f} ms a point in batches, "
        f"{result['ms_per_point_single']:.2f} ms alone",
        *warm_and_cold,
    ]


def _of_answers(result: dict[str, Any], rows: dict[str, dict[str, float]]) -> list[str]:
    if result["questions"] == outfits.POLYVORE_QUESTIONS:
        published = outfits.PAPER_FITB.items()
        rows |= {f"{name}, as published": {"FITB": value} for name, value in published}
    return [
        table(rows, outfits.OUTFIT_METRICS),
        f"{result['questions']} questions, {result['questions_unseen']} of them without an "
        f"item that occurs in training; {result['outfits']} outfits to be judged",
    ]


def _advice(rows: dict[str, dict[str, float]], metric: str) -> list[str]:
    """Return what to try if Module IV lowers the metric."""
    whole, alone = (rows.get(name, {}).get(metric) for name in ("MUFIN", MODULE_1))
    if whole is None or alone is None or whole >= alone or PAPER_MIX in rows:
        return []
    return [
        f"Module IV lowers {metric}: give it more steps (--finetune.epochs) and, on a small "
        "catalogue, negatives from longer lists (--retrieve.shortlist, --finetune.negatives-from)"
    ]
