"""The page: every panel on one HTML file that loads nothing, runs nothing and can be mailed.

jinja2 escapes whatever it is given; a policy in the page's head forbids scripts and all loading.
"""

import base64
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
        panel: what it says.
        image: the data URI of its figure; "" where it has none, or lays its pictures out itself.
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
        """The files beside the page that hold it, too."""
        drawn = [f"{self.panel.name}.{kind}" for kind in ("png", "svg")] if self.panel.draw else []
        return drawn + [f"{name}.csv" for name in self.panel.tables]


def render_page(
    name: str, metrics: Mapping[str, Any], panels: Sequence[Shown], facts: Mapping[str, Any]
) -> bytes:
    """Return the page.

    Args:
        name: of the experiment.
        metrics: what metrics.json holds.
        panels: in their order.
        facts: what `facts.run_facts` returned.
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
    text = template.render(name=name, metrics=metrics, keys=keys, panels=panels, facts=facts)
    return text.encode("utf-8", "replace")


def headline(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures that the page begins with, and what each says; those that there are."""
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
    """A value as a table of the page shows it: a dash for none, two decimals, three for shares.

    A text is printable, on one line.
    """
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:.3f}" if column == "AUC" or " with " in column else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def data_uri(content: bytes, kind: str) -> str:
    """The content of a file as the text that stands in a page instead of its name."""
    return f"data:{kind};base64," + base64.b64encode(content).decode()
