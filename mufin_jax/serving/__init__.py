"""A server of a finished run: requests over HTTP in, ranked labels out.

`server.py` starts it. One thread (`engine.py`) owns the predictor; requests wait for it in a
bounded queue.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.serving.config import ServeConfig
    from mufin_jax.serving.urls import PictureUrls

__all__ = ["PictureUrls", "ServeConfig"]
__getattr__, __dir__ = lazy_face(__name__, {"config": ["ServeConfig"], "urls": ["PictureUrls"]})
