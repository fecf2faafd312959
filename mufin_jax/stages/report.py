"""The paper's tables and figures of one run: tables 1 and 6, figures 1, 3, 4, 5, 6 and 8.

Reads: a prepared folder, Module II's `test/` (unless the test points are questions), Module IV's
predictor, and the files of `evaluate`. Writes NAME.csv, NAME.png and NAME.svg of each, and last
`index.html`, one page with all of them. All random choices follow from the seed: the same run gives
the same CSV files. The stage writes to `part/` and moves the files when all are complete. After an
interruption the stage starts from scratch, which takes a minute.
"""

import dataclasses
import functools
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int

from mufin_jax.data.dataset import Dataset
from mufin_jax.evaluation.rankings import Scored, drop
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.report import answer_panels, data_panels, vector_panels
from mufin_jax.report.page import Shown, render_page
from mufin_jax.report.panel import Panel, panel_or_reason, to_csv
from mufin_jax.report.run_facts import run_facts
from mufin_jax.report.sample import Asked
from mufin_jax.report.style import house_style
from mufin_jax.report.tables import overlap
from mufin_jax.report.thumbnails import data_uri
from mufin_jax.report.tsne import MOST
from mufin_jax.retrieval.shortlist import Shortlist
from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.logs import progress
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.disk import disk_errors, filling
from mufin_jax.runtime.storage.files import damaged, discard, load_json, replacing, sync
from mufin_jax.stages.context import StageContext

PAGE = "index.html"
MOST_SHOWN = 60
"""The most queries of figure 8, which has a row for each."""
LONGEST = 20
"""The places of a ranking that are kept: R@10 needs ten."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the report shows.

    Attributes:
        figures: draw the figures. Without them the page has only the tables, and no model is
            loaded.
        points: the most test points that the model predicts again (figures 1 and 5).
        shown: number of queries of figure 8, at most 60.
        vectors: number of vectors in a t-SNE, at most 2000.
    """

    figures: bool = True
    points: int = 2000
    shown: int = 6
    vectors: int = 1000

    def __post_init__(self) -> None:
        """Reject a report without content, and maps that would take hours."""
        if self.points < 1 or self.shown < 1:
            raise InputError(
                f"report.points={self.points}, report.shown={self.shown}: expected at least 1; "
                "--report.no-figures leaves the figures out"
            )
        if self.shown > MOST_SHOWN:
            raise InputError(f"report.shown={self.shown}: expected at most {MOST_SHOWN}")
        if not 1 <= self.vectors <= MOST:
            raise InputError(f"report.vectors={self.vectors}: expected 1 to {MOST}")


def report(config: ReportConfig, context: StageContext) -> None:
    """Write the report of a finished run.

    Raises:
        InputError: if something that an earlier stage wrote cannot be read.
        DiskError: if the disk does not take the files.
        Stopped: after a signal.
    """
    panels = _panels(config, context)
    write = functools.partial(_write, panels, context.workdir, context.out)
    processes.once("the report is written", write)


def _panels(config: ReportConfig, context: StageContext) -> list[Panel]:
    """Return every panel in the page's order; all processes run the model together."""
    dataset, workdir, seed = Dataset.load(context.prepared), context.workdir, context.seed
    builtin = not isinstance(context.source, Path)
    truth = context.invented / "truth.npz" if builtin else None
    scored = _scored(_labels(workdir / "evaluate" / "test.npz"), dataset)
    rankings = {"MUFIN": scored}
    if dataset.questions is None:  # for questions, MUFIN ranks the given answers
        module_1 = Shortlist.load(workdir / "retrieve" / "test").labels
        rankings["Module I alone"] = _scored(module_1, dataset)
    metrics = load_json(workdir / "evaluate" / "metrics.json")
    makers: list[tuple[str, str, Callable[[], Panel]]] = [
        ("results", "Results", lambda: data_panels.results(metrics)),
        ("table1", "Table 1: the data", lambda: data_panels.data(dataset)),
        ("curves", "Training", lambda: data_panels.training(workdir)),
        ("figure3", "Table 6 and figure 3: by category",
         lambda: data_panels.categories(dataset, rankings)),
        ("figure4", "Figure 4: frequent and rare labels",
         lambda: data_panels.popularity(dataset, rankings)),
    ]  # fmt: skip
    if config.figures:
        predictor = Predictor.load(workdir, context.mesh, context.predict, catalogue=False)
        asked = Asked(dataset, predictor, scored, config.points, config.vectors, seed)
        makers[3:3] = [
            ("figure1", "Figure 1: what each modality finds",
             lambda: answer_panels.modalities(asked)),
            ("figure8", "Figure 8: predictions",
             lambda: answer_panels.predictions(dataset, scored, config.shown, seed)),
        ]  # fmt: skip
        makers += [
            ("figure5_heat_map", "Figure 5: cross-attention",
             lambda: vector_panels.heat_maps(asked, truth)),
            ("figure5_map", "Figure 5: embeddings that adapt to a label",
             lambda: vector_panels.adapted(asked)),
            ("figure6", "Figure 6: classifiers",
             lambda: vector_panels.classifiers(dataset, workdir, config.vectors, seed)),
        ]  # fmt: skip
    if not len(dataset.test):  # only what shows no test point is left
        makers = [maker for maker in makers if maker[0] in ("table1", "curves", "figure6")]
    elif dataset.questions is None:
        makers[1:1] = [
            ("warm_cold", data_panels.WARM_AND_COLD, lambda: data_panels.warm_and_cold(metrics))
        ]
    if "missing_pictures" in metrics:
        makers.append(
            ("missing_pictures", data_panels.MISSING_PICTURES,
             lambda: data_panels.missing_pictures(metrics))
        )  # fmt: skip
    bar = progress(iterable=makers, desc="report", unit="panel", leave=False)
    panels = [panel_or_reason(*maker) for maker in until_stopped(bar, "report")]
    if config.figures:
        return panels
    return [dataclasses.replace(panel, draw=None) for panel in panels]


def _labels(path: Path) -> Int[np.ndarray, "b k"]:
    """Read the ranked labels, or given answers, that `evaluate` wrote, without their scores."""
    if not path.exists():
        raise InputError(
            f"{path} is missing (older versions wrote none for outfits): make it again by "
            "--redo=evaluate"
        )
    with damaged(f"{path} cannot be read ({{reason}}): make it again by --redo=evaluate"):
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["labels"]


def _scored(ranking: Int[np.ndarray, "b k"], dataset: Dataset) -> Scored:
    """Return a ranking after overlap filtering, as long as the longest panel needs."""
    found = drop(np.asarray(ranking), dataset.test.pairs, overlap(dataset))
    return found._replace(ranking=found.ranking[:, :LONGEST].copy())


def _write(panels: list[Panel], workdir: Path, out: Path) -> None:
    """Draw and write all files; the page appears last."""
    part = out / "part"
    discard(part)
    with disk_errors(out):
        part.mkdir(parents=True)
    with filling(part, functools.partial(discard, part)):
        shown, drawn = [], progress(iterable=panels, desc="draw", unit="panel", leave=False)
        for panel in until_stopped(drawn, "report"):
            for name, rows in panel.tables.items():
                (part / f"{name}.csv").write_bytes(to_csv(rows))
            shown.append(Shown(panel, _draw(panel, part)))
        recorded = load_json(workdir / "run.json") if (workdir / "run.json").exists() else {}
        name = recorded.get("experiment", {}).get("name", workdir.name)
        metrics = load_json(workdir / "evaluate" / "metrics.json")
        with replacing(part / PAGE) as file:
            file.write(render_page(name, metrics, shown, run_facts(recorded)))
        made = sorted(path.name for path in part.iterdir())
        for file_name in [*(name for name in made if name != PAGE), PAGE]:
            os.replace(part / file_name, out / file_name)
        shutil.rmtree(part)
        sync(out)


def _draw(panel: Panel, folder: Path) -> str:
    """Write a figure as PNG and SVG, and return its address for the page.

    The page shows figures of lines and bars as SVG, which is sharp at any size. It shows figures
    with a thousand marks or with pictures as PNG. Queries have a layout of their own on the page:
    their address is empty, as is that of a panel without a figure.
    """
    if panel.draw is None:
        return ""
    with house_style():
        figure = panel.draw()
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png")
        figure.savefig(svg, format="svg", metadata={"Date": None})
    (folder / f"{panel.name}.png").write_bytes(png.getvalue())
    (folder / f"{panel.name}.svg").write_bytes(svg.getvalue())
    if panel.answers:
        return ""
    if len(svg.getvalue()) < 200_000:
        return data_uri(svg.getvalue(), "image/svg+xml")
    return data_uri(png.getvalue(), "image/png")
