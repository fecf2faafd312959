"""Write a label table as this version writes it, for later versions to read.

Run it once, from the root of the repository:
    python tests/golden/make_table.py
An existing table is never made again: users of that version have such files.
"""

import sys
from pathlib import Path

import jax

from mufin_jax.model.label_table import initialize, save_table
from mufin_jax.runtime.distributed.mesh import make_mesh

OUT = Path(__file__).parent / "table"
LABELS, DIM = 5, 3

if __name__ == "__main__":
    if OUT.exists():
        sys.exit(f"{OUT} is there: it is never changed")
    save_table(initialize(jax.random.key(0), LABELS, DIM, make_mesh(jax.devices()[:1])), OUT)
