"""A finished run as a folder that answers alone: small, sealed, to be moved anywhere.

`folder.py` puts it together and moves it into place; each other file writes one part of it.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.export.folder import check_export, export_run

__all__ = ["check_export", "export_run"]
__getattr__, __dir__ = lazy_face(__name__, {"folder": ["check_export", "export_run"]})
