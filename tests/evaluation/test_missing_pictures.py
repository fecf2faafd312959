"""The curve of missing pictures: whose pictures are hidden, and what the report shows."""

import numpy as np
import pytest

from mufin_jax.evaluation.missing_pictures import hide_pictures
from mufin_jax.report import data_panels
from mufin_jax.runtime.errors import InputError
from mufin_jax.stages.evaluate import EvaluateConfig


def test_points_with_a_title_lose_their_pictures_and_more_of_them_at_larger_shares(dataset):
    side, before = dataset.train, set()
    titled = {i for i in range(len(side)) if side.text[i] >= 0 and len(side.images_of(i))}
    for share in (0.0, 0.3, 0.6, 1.0):
        hidden, count = hide_pictures(side, share)
        lost = set()
        for i in range(len(side)):
            if np.array_equal(hidden.images_of(i), side.images_of(i)):
                continue
            assert not len(hidden.images_of(i))
            lost.add(i)
        assert len(lost) == count and before <= lost <= titled
        before = lost
        assert hidden.ids is side.ids and hidden.text is side.text
        if share in (0, 1):
            assert lost == (titled if share else set())


def test_shares_outside_the_unit_interval_are_rejected():
    with pytest.raises(InputError, match=r"missing_pictures=1\.5: expected shares from 0 to 1"):
        EvaluateConfig(missing_pictures=(0.5, 1.5))


def test_the_report_draws_the_curve():
    rows = [{"MUFIN": {"P@1": v, "R@10": v + 9}} for v in (40.0, 20.0)]
    metrics = {
        "missing_pictures": [
            {"share": share, "points": points, "rows": row}
            for share, points, row in zip((0.0, 1.0), (0, 7), rows, strict=True)
        ]
    }
    panel = data_panels.missing_pictures(metrics)
    (table,) = panel.tables.values()
    assert table[1] == {"share": 1.0, "points": 7, "MUFIN: P@1": 20.0, "MUFIN: R@10": 29.0}
    figure = panel.draw()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["MUFIN: P@1"]) == [40, 20] and len(lines) == 2
