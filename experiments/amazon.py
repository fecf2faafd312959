"""MM-AmazonTitles-300K: product-to-product recommendation by titles and pictures (paper, table 2).

    python -m experiments.amazon --stage=all                the built-in miniature, minutes on a CPU
    python -m experiments.amazon --stage=all --data=DIR     a catalogue of your own
    python -m experiments.amazon --stage=all --data=DIR --preset=paper   the paper
    python -m experiments.amazon --stage=all --preset=siamesexml-miniature

Each preset has a file, or shares one with its variants; `--help` prints its cost and the score to
expect.
"""

import sys

from experiments.amazon_catalogue import CATALOGUE, FROZEN
from experiments.amazon_clip import CLIP, CLIP_FROZEN
from experiments.amazon_miniature import MINIATURE
from experiments.amazon_paper import PAPER
from experiments.amazon_visualbert import VISUALBERT, VISUALBERT_FROZEN, VISUALBERT_MINIATURE
from experiments.siamesexml import SIAMESEXML, SIAMESEXML_MINIATURE
from mufin_jax.pipeline.cli import main

PRESETS = {
    "miniature": MINIATURE,
    "catalogue": CATALOGUE,
    "catalogue-frozen": FROZEN,
    "paper": PAPER,
    "clip": CLIP,
    "clip-frozen": CLIP_FROZEN,
    "visualbert": VISUALBERT,
    "visualbert-frozen": VISUALBERT_FROZEN,
    "visualbert-miniature": VISUALBERT_MINIATURE,
    "siamesexml": SIAMESEXML,
    "siamesexml-miniature": SIAMESEXML_MINIATURE,
}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
