"""The page: every panel in one HTML file that loads nothing, runs nothing and can be mailed.

jinja2 escapes all its input. A policy in the page's head forbids scripts and loading.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mufin_jax.report.panel import Panel
from mufin_jax.report.thumbnails import printable


@dataclasses.dataclass(frozen=True)
class Shown:
    """A panel with its drawing.

    Attributes:
        panel: the panel.
        image: the data URI of its figure; "" if it has none or lays out its pictures itself.
    """

    panel: Panel
    image: str = ""

    @property
    def table(self) -> Sequence[Mapping[str, Any]]:
        """The rows of its table on the page."""
        return self.panel.tables[self.panel.shown] if self.panel.shown else ()

    @property
    def label(self) -> str:
        """Its name in the table of contents."""
        return self.panel.title.partition(": ")[0]

    @property
    def files(self) -> list[str]:
        """The files next to the page that also contain it."""
        drawn = [f"{self.panel.name}.{kind}" for kind in ("png", "svg")] if self.panel.draw else []
        return drawn + [f"{name}.csv" for name in self.panel.tables]


def render_page(
    name: str,
    metrics: Mapping[str, Any],
    panels: Sequence[Shown],
    facts: Mapping[str, Any] | None,
    about: str = "",
) -> bytes:
    """Return the page.

    Args:
        name: of the experiment, or of the runs that are compared.
        metrics: the content of metrics.json.
        panels: in their order.
        facts: the result of `run_facts`; None for several runs.
        about: what the page compares, in a sentence; "" for the page of a run.
    """
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    template = environment.get_template("page.html")
    keys = headline(metrics)
    text = template.render(
        name=name, metrics=metrics, keys=keys, panels=panels, facts=facts, about=about
    )
    return text.encode("utf-8", "replace")


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures at the top of the page and their meanings, as far as they exist."""
    ceiling = metrics.get("ceiling")
    best = "" if ceiling is None else f"; at best {ceiling:.2f}"
    known = [
        ("FITB", "{:.2f}%", "of the questions are answered right"),
        ("P@1", "{:.2f}%", f"of the labels ranked first are right (P@1{best})"),
        ("P@5", "{:.2f}%", "of the first five (P@5)"),
        ("R@10", "{:.2f}%", "of the right labels are among the first ten (R@10)"),
        ("questions", "{:,}", "questions"),
        ("points", "{:,}", "test points"),
        ("ms_per_point", "{:.2f} ms", "a point in batches"),
    ]
    found = [(metrics.get(key), form, said) for key, form, said in known]
    return [(form.format(value), said) for value, form, said in found if value is not None]


def number(value: Any, column: str = "") -> str:
    """Return a value for a table of the page: a dash for None, two decimals, three for shares.

    A text becomes printable, on one line.
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.3f}" if column == "AUC" or " with " in column else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))
