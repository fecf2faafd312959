"""Showing a finished run: the paper's tables and figures, and the page that holds them.

The `*_panels.py` files make panels, `figures.py` draws, `page.py` lays out the page.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.report.page import Shown, render_page
    from mufin_jax.report.panel import Missing, Panel, panel_or_reason, to_csv
    from mufin_jax.report.style import house_style

__all__ = ["Missing", "Panel", "Shown", "house_style", "panel_or_reason", "render_page", "to_csv"]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "page": ["Shown", "render_page"],
        "panel": ["Missing", "Panel", "panel_or_reason", "to_csv"],
        "style": ["house_style"],
    },
)
