"""Claims about the curves of training in the report."""

import json

from mufin_jax.report import figures, tables


def test_curves_show_the_cosine_of_negatives_by_its_new_and_its_old_name(tmp_path):
    lines = [{"step": 20, "loss": 2.0, "cosine": 0.5}, {"step": 40, "loss": 1.0}]
    lines[1]["negative_cosine"] = 0.25
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 60, "lo')
    rows = tables.curve(tmp_path)
    found = tables.curve_table({"Module I": rows})
    assert [row["negative_cosine"] for row in found] == [0.5, 0.25]
    assert all("cosine" not in row for row in found)
    _, axis = figures.curves({"Module I": rows}).axes
    assert axis.lines[0].get_ydata().tolist() == [0.5, 0.25]
    assert axis.get_title(loc="left") == "Module I: cosine of negatives"
