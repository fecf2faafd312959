"""The networks of the paper: the item encoder, the heads A_S and A_C, and the label table.

`mufin.py` joins encoder and heads to one model, `label_table.py` has the classifiers' parameters,
and `saved.py` makes, saves and loads models.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.model.config import ModelConfig
    from mufin_jax.model.heads import Embedding, Heads
    from mufin_jax.model.item_encoder import ItemEncoder
    from mufin_jax.model.label_table import LabelTable, TableConfig, load_table, save_table
    from mufin_jax.model.mufin import Mufin
    from mufin_jax.model.saved import load_model, new_loader, new_model, save_model

__all__ = [
    "Embedding",
    "Heads",
    "ItemEncoder",
    "LabelTable",
    "ModelConfig",
    "Mufin",
    "TableConfig",
    "load_model",
    "load_table",
    "new_loader",
    "new_model",
    "save_model",
    "save_table",
]
__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "config": ["ModelConfig"],
        "heads": ["Embedding", "Heads"],
        "item_encoder": ["ItemEncoder"],
        "label_table": ["LabelTable", "TableConfig", "load_table", "save_table"],
        "mufin": ["Mufin"],
        "saved": ["load_model", "new_loader", "new_model", "save_model"],
    },
)
