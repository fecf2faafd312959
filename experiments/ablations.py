"""Table 4 of the paper: MUFIN without one of its parts at a time, on Amazon or any data.

    python -m experiments.ablations                                 the built-in miniature, all rows
    python -m experiments.ablations --data=DIR --workdir=runs/table4
    python -m experiments.ablations --rows=alpha_1,p_i_bag --seeds=0
    python -m experiments.ablations --recipe [--data=DIR]           the recipe's levers instead

Rows that differ in Module IV alone share Modules I and II: of the nine runs of a seed, three train
Module I and six Module IV; of the preset `paper`, four and seven. The paper's figures are of
MM-AmazonTitles-300K, one seed. With --recipe the rows are those of recipe_ablations.py.
"""

import dataclasses
import sys

from experiments import recipe_ablations
from experiments.amazon_miniature import MINIATURE
from experiments.amazon_paper import PAPER
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.comparison import COLUMNS, Comparison, Row


def _published(*values: float) -> dict[str, float]:
    return dict(zip(COLUMNS, values, strict=True))


TABLE_4 = {
    "mufin": Row({}, _published(52.30, 34.76, 50.46, 50.63)),
    # Positives of Module I drawn among all, not among those with a cosine of 0.9 at most.
    "no_pos": Row({"pretrain": {"hard_limit": 1.0}}, _published(50.35, 33.71, 48.91, 49.19)),
    # Besides, three random negatives; the preset `miniature` has all of the batch in their place.
    "no_pos_neg": Row(
        {"pretrain": {"hard_limit": 1.0, "hard_negatives": False, "negatives": 3}},
        _published(49.69, 33.33, 47.90, 48.76),
    ),
    # Module I alone, by similarities a; bags and centroids in the index, or one vector a label.
    "p_i_bag": Row({}, _published(42.72, 28.80, 42.03, 44.49), shortlists_alone=True),
    "p_i_vec": Row(
        {"retrieve": {"pooled": True}},
        _published(41.71, 28.26, 41.31, 44.20),
        shortlists_alone=True,
    ),
    "concat": Row({"model": {"cross_attention": "concat"}}, _published(49.61, 32.89, 47.87, 47.97)),
    "no_self_attention": Row(
        {"model": {"self_attention": "none"}}, _published(49.98, 33.16, 48.11, 48.11)
    ),
    "no_cross_attention": Row(
        {"model": {"cross_attention": "none"}}, _published(50.22, 33.87, 49.03, 49.68)
    ),
    "alpha_1": Row({"finetune": {"classifiers": "labels"}}, _published(49.25, 33.19, 48.53, 49.87)),
}


@dataclasses.dataclass(frozen=True)
class Ablations(Comparison):
    """Run the rows of table 4, or with --recipe those of the recipe; finished runs are skipped."""

    TABLE = TABLE_4


PRESETS = {
    "miniature": dataclasses.replace(
        MINIATURE,
        name="ablations-miniature",
        cost="three seeds: some 80 minutes on two CPU cores",
        expected="on the built-in catalogue, seeds 0, 1 and 2: MUFIN P@1 57.33 ± 1.09, P-I-bag "
        "-9.28 ± 0.92, P-I-vec -8.22 ± 0.67, alpha = 1 -5.39 ± 2.94; the other rows within the "
        "scatter of the seeds (docs/results.md)",
    ),
    "paper": dataclasses.replace(
        PAPER,
        name="ablations",
        cost="not measured: four runs of Module I and seven of Module IV a seed",
        expected="the paper reports on MM-AmazonTitles-300K, one seed (table 4): P@1 52.30, "
        "without a part 41.71 to 50.35; not measured here",
    ),
}

if __name__ == "__main__":
    if "--recipe" in sys.argv[1:]:
        sys.exit(main(recipe_ablations.PRESETS, kind=recipe_ablations.RecipeAblations))
    sys.exit(main(PRESETS, kind=Ablations))
