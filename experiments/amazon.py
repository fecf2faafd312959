"""MM-AmazonTitles-300K: product-to-product recommendation by titles and pictures (paper, table 2).

    python -m experiments.amazon --stage=all                the built-in miniature, minutes on a CPU
    python -m experiments.amazon --stage=all --data=DIR     the data set, as published
    python -m experiments.amazon --stage=all --preset=siamesexml-miniature

The paper reports P@1 52.30, P@5 34.76, nDCG@5 50.46 and R@10 50.63 (table 2). Module I at the
preset `paper` is 182 TFLOP a step, 296 steps an epoch, 200 epochs; Module IV 178 TFLOP a step,
2,934 steps an epoch, 20 epochs: about 15 hours together on one accelerator that sustains
400 TFLOP/s.

The presets `siamesexml` and `siamesexml-miniature` are the row SiameseXML of the table, which the
paper reports at P@1 48.64, P@5 32.99, nDCG@5 47.46 and R@10 47.72: titles alone through the same
text encoder, no attention, one vector a label in the index, and classifiers w = unit(z + eta).
"""

import dataclasses
import sys
from typing import Any

from mufin_jax.data.preparation.prepare import PrepareConfig
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.encoders.distilbert import DistilBertConfig
from mufin_jax.encoders.visual_bert import VisualBertConfig
from mufin_jax.encoders.vit import ViTConfig
from mufin_jax.model.config import ModelConfig
from mufin_jax.pipeline.cli import main
from mufin_jax.pipeline.experiment import Experiment
from mufin_jax.stages.finetune import FinetuneConfig
from mufin_jax.stages.pretrain import PretrainConfig
from mufin_jax.training.loop import FitConfig
from mufin_jax.training.optimizer import OptimizerConfig

# Table 5 and appendix D of the paper. Its encoders are google/vit-base-patch32-224-in21k and
# msmarco-distilbert-base-v4; name their folders to start from other weights.
PAPER = Experiment(
    name="amazon",
    model=ModelConfig(
        image_checkpoint="google/vit-base-patch32-224-in21k",
        text_checkpoint="sentence-transformers/msmarco-distilbert-base-v4",
    ),
)

# CLIP + MUFIN (table 2: P@1 40.49, P@5 27.38): CLIP's two encoders in MUFIN's pipeline, trained as
# MUFIN's are; and frozen (appendix C.1), so that A_S, A_C and the table alone train.
_CLIP = "openai/clip-vit-base-patch32"
CLIP = dataclasses.replace(
    PAPER, name="amazon-clip", model=ModelConfig(image_checkpoint=_CLIP, text_checkpoint=_CLIP)
)


def training(base: Experiment, name: str, **modes: str) -> Experiment:
    """Return an experiment whose encoders train as the modes of `OptimizerConfig` say."""
    stages = {
        stage: dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, **modes))
        for stage, config in (("pretrain", base.pretrain), ("finetune", base.finetune))
    }
    return dataclasses.replace(base, name=name, **stages)


_FROZEN = {"image_encoder": "frozen", "text_encoder": "frozen"}
CLIP_FROZEN = training(CLIP, "amazon-clip-frozen", **_FROZEN)


def visualbert(base: Experiment, name: str, **model: Any) -> Experiment:
    """Return VisualBERT + MUFIN with the rest of an experiment (paper, App. C.1).

    An item has one vector: no A_S, shortlists by that vector, A_C on it.

    Args:
        base: sizes and rates.
        name: of the experiment.
        model: fields of its `ModelConfig`: which encoders.
    """
    joint = {"modalities": "joint", "self_attention": "none", **model}
    return dataclasses.replace(
        base,
        name=name,
        model=dataclasses.replace(base.model, **joint),
        retrieve=dataclasses.replace(base.retrieve, pooled=True),
    )


# VisualBERT + MUFIN (table 2: P@1 49.11, P@5 32.35). Its pictures are vectors that do not train, as
# VisualBERT has them. Module I at 1,024 labels reads 3,072 items at once: blocks are computed again
# by the backward pass, or their tokens would take hundreds of gigabytes.
VISUALBERT = training(
    visualbert(
        PAPER,
        "amazon-visualbert",
        image_checkpoint="microsoft/resnet-101",
        text_checkpoint="google-bert/bert-large-uncased",
        text=dataclasses.replace(VisualBertConfig.large(), layers="scan", remat=True),
    ),
    "amazon-visualbert",
    image_encoder="frozen",
)
# Frozen (appendix C.1), nothing is left for Module I to train: there is no A_S.
VISUALBERT_FROZEN = training(VISUALBERT, "amazon-visualbert-frozen", **_FROZEN)
VISUALBERT_FROZEN = dataclasses.replace(
    VISUALBERT_FROZEN, pretrain=dataclasses.replace(VISUALBERT_FROZEN.pretrain, epochs=0)
)

# Sizes at which all stages take minutes on two cores, with encoders trained from scratch.
_RATES = OptimizerConfig(rate=3e-3, warmup=60, image_encoder="full", text_encoder="full")
_FIT = FitConfig(log_every=20, checkpoint_every=200, checkpoint_seconds=15.0)
MINIATURE = Experiment(
    name="amazon-miniature",
    miniature=MiniatureConfig(points=6000),
    prepare=PrepareConfig(image_size=32, max_tokens=16, vocab_size=4096),
    model=ModelConfig(
        dim=64,
        image=dataclasses.replace(ViTConfig.miniature(), depth=1),
        text=dataclasses.replace(DistilBertConfig.miniature(vocab=4096), depth=1),
    ),
    # From random initialisation the three hardest negatives and a margin of 0.2 pull everything
    # together, and positives with a low cosine are those that miss a modality: all negatives of the
    # batch, a wider margin and uniform positives leave the plateau within some hundred steps.
    pretrain=PretrainConfig(
        epochs=45, batch_size=64, negatives=128, margin=0.5, hard_limit=1.0,
        optimizer=_RATES, fit=_FIT,
    ),
    finetune=FinetuneConfig(
        epochs=5, batch_size=64, optimizer=dataclasses.replace(_RATES, table_rate=2e-2), fit=_FIT
    ),
)  # fmt: skip


def siamesexml(base: Experiment, name: str) -> Experiment:
    """Return SiameseXML with the sizes and rates of an experiment (paper, App. C)."""
    model = dataclasses.replace(
        base.model, modalities="text", self_attention="none", cross_attention="none",
        image_checkpoint=None,
    )  # fmt: skip
    return dataclasses.replace(
        base,
        name=name,
        model=model,
        retrieve=dataclasses.replace(base.retrieve, pooled=True),
        finetune=dataclasses.replace(base.finetune, classifiers="sum"),
    )


VISUALBERT_MINIATURE = visualbert(
    MINIATURE,
    "visualbert-miniature",
    text=dataclasses.replace(VisualBertConfig.miniature(vocab=4096), depth=1),
)
# Module IV teaches these encoders most of what they know, so that the labels which they retrieve
# in the end are not those of Module I's lists. Negatives come from all of a small catalogue: on
# 3,000 points and 25 epochs P@1 is 40.2, of lists of 100 21.8 (docs/results.md).
VISUALBERT_MINIATURE = dataclasses.replace(
    VISUALBERT_MINIATURE,
    retrieve=dataclasses.replace(VISUALBERT_MINIATURE.retrieve, shortlist=1000),
    finetune=dataclasses.replace(VISUALBERT_MINIATURE.finetune, negatives_from=1000),
)

PRESETS = {
    "miniature": MINIATURE,
    "paper": PAPER,
    "clip": CLIP,
    "clip-frozen": CLIP_FROZEN,
    "visualbert": VISUALBERT,
    "visualbert-frozen": VISUALBERT_FROZEN,
    "visualbert-miniature": VISUALBERT_MINIATURE,
    "siamesexml": siamesexml(PAPER, "siamesexml"),
    "siamesexml-miniature": siamesexml(MINIATURE, "siamesexml-miniature"),
}

if __name__ == "__main__":
    sys.exit(main(PRESETS))
