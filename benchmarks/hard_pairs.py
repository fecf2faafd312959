"""Hard examples of the miniature catalogue: which pairs would Module I's hard mining train on?

    python -m experiments.amazon --stage=all --workdir=RUN
    python benchmarks/hard_pairs.py RUN

Table 4's row "no hard positives, no hard negatives" needs hard positives that are worth learning
and hard negatives that are wrong. The program that makes the miniature knows why every pair is
relevant. Both can therefore be counted, by the vectors of a run's finished Module I.

A positive pair is *plain* if the datapoint and the label both have a title and a picture and share
one theme and style, which shows that they belong together. Other positives miss a modality, or come
from a scene or from noise. A negative is *unlucky* if datapoint and label share one theme and
style: only the draw made it a negative. "ratio" in the last line, which is JSON, is the share of
hard positives that are not plain over the same share of all positives.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Int

from mufin_jax.data.dataset import Dataset, Side, training_pairs
from mufin_jax.data.loader import Loader
from mufin_jax.data.synthetic.catalogue_world import NUM_STYLES
from mufin_jax.model.saved import load_model
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.storage.npy import load_arrays
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.training import mining
from mufin_jax.training.refresh import Refreshes

BATCHES, LABELS = 60, 64
"""Batches whose negatives are counted, and the labels of each: the preset's."""


def main() -> None:
    """Count, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="workdir of a run on the miniature catalogue")
    run = parser.parse_args().run
    mesh, dataset = make_mesh(jax.devices()[:1]), Dataset.load(run / "prepare")
    group = {"train": groups(run, "train"), "label": groups(run, "label")}
    for side, kept in (("train", dataset.train), ("label", dataset.labels)):
        if len(group[side]) != len(kept):
            raise InputError(
                f"{run}: preparation kept {len(kept):,} of {len(group[side]):,} {side} items "
                "that truth.npz counts; expected a run on the miniature catalogue as it is made"
            )
    model, loader = load_model(run / "pretrain" / "model", mesh), Loader(dataset, "both", mesh)
    paper = PretrainConfig()
    with tempfile.TemporaryDirectory(prefix="hard-pairs-") as folder:
        z, x = Refreshes(Path(folder)).at(1, lambda: model, loader, 0)
        points_of, related = (pairs.T.tocsr() for pairs in training_pairs(dataset.train))

        pairs = points_of.tocoo()
        hard = (z[pairs.row] * x[pairs.col]).sum(1) <= paper.hard_limit
        plain = (complete(dataset.labels)[pairs.row] & complete(dataset.train)[pairs.col]) & (
            group["label"][pairs.row] == group["train"][pairs.col]
        )

        rng, unlucky = np.random.default_rng(0), []
        usable = np.flatnonzero(np.diff(points_of.indptr))
        for _ in range(BATCHES):
            labels = rng.choice(usable, LABELS, replace=False)
            points, real = mining.draw_positives(points_of, labels, paper.positives, rng)
            points = np.unique(points[real])  # drawn for several labels, a point is one negative
            similarities = np.where(
                related[labels][:, points].toarray(), -2, z[labels] @ x[points].T
            )
            hardest = np.argsort(-similarities, axis=1)[:, : paper.negatives]
            unlucky.append(group["train"][points[hardest]] == group["label"][labels][:, None])
    result = {
        "name": "hard_pairs",
        "device": str(mesh.devices.flat[0].platform),
        "ratio": float((~plain)[hard].mean() / (~plain).mean()),
        "positives": len(plain),
        "hard positives, %": 100 * float(hard.mean()),
        "not plain, % of hard positives": 100 * float((~plain)[hard].mean()),
        "not plain, % of all positives": 100 * float((~plain).mean()),
        "unlucky, % of the three hardest negatives": 100 * float(np.concatenate(unlucky).mean()),
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


def groups(run: Path, side: str) -> Int[np.ndarray, " items"]:
    """Return theme and style of each item as one number."""
    truth = load_arrays(run / "miniature" / "truth.npz")
    return truth[f"{side}_theme"] * NUM_STYLES + truth[f"{side}_hue"] // 2


def complete(side: Side) -> Bool[np.ndarray, " items"]:
    """Return which items have a title and a picture."""
    return (side.text >= 0) & (np.diff(side.image_offsets) > 0)


if __name__ == "__main__":
    sys.exit(main_guard(main))
