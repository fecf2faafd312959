"""Presets that begin with checkpoints run end to end, with fewer epochs and tiny checkpoints.

The networks of the published tables are too large for a test. The tiny ones are random and have
the same file formats.
"""

import json
import math
import shutil
import string
from pathlib import Path

import jax
import minute
import numpy as np
import pytest
import small
from places import GOLDEN
from safetensors import numpy as safetensors

from experiments import amazon, polyvore
from mufin_jax.encoders.pretrained import load_image_encoder, load_text_encoder
from mufin_jax.model.saved import load_model
from mufin_jax.runtime.distributed.mesh import make_mesh

EXPERIMENTS = Path(amazon.__file__).parent
CATALOGUE = ("--miniature.labels=30", "--miniature.points=80", "--miniature.test-points=24")
OUTFITS = ("--miniature.outfits=12", "--miniature.test-outfits=8", "--miniature.themes=2")
# So few steps show that Module IV learns only with a higher rate.
BRIEF = ("--finetune.epochs=10", "--finetune.optimizer.rate=1e-2", "--finetune.fit.log-every=1")

TABLE_2 = [
    ("paper", "vit", "distilbert", {"image", "text"}),
    ("clip", "clip", "clip", {"image", "text"}),
    ("clip-frozen", "clip", "clip", set()),
    ("visualbert", "resnet_basic", "bert", {"text"}),
    ("visualbert", "resnet_basic", "visual_bert", {"text"}),
    ("visualbert-frozen", "resnet_basic", "visual_bert", set()),
    ("siamesexml", None, "distilbert", {"text"}),
]
"""Preset of amazon, its checkpoints of images and of texts, and which of the two trains."""

TABLE_3 = [("paper", "vit"), ("resnet18", "resnet_basic")]
"""Preset of polyvore, and the checkpoint of images."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of checkpoints, named by their architecture; those of texts have a tokenizer."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("vit", "distilbert", "clip", "resnet_basic", "visual_bert", "bert"):
        shutil.copytree(GOLDEN / name, folder / name)
    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{i}" for i in letters)]
    for name in ("distilbert", "visual_bert", "bert"):
        (folder / name / "vocab.txt").write_text("\n".join(words) + "\n")
    # They read vectors of the ResNet, which are 12 wide.
    for name in ("visual_bert", "bert"):
        config = folder / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"visual_embedding_dim": 12}))
    weights = folder / "visual_bert" / "model.safetensors"
    tensors = safetensors.load_file(weights)
    (projection,) = (name for name in tensors if name.endswith("visual_projection.weight"))
    tensors[projection] = np.ascontiguousarray(tensors[projection][:, :12])
    safetensors.save_file(tensors, weights)
    return folder


def finish(experiment, preset, checkpoints, image, text, data, workdir, cache):
    """Run a preset with these checkpoints; return its metrics, and the encoders that trained."""
    named = {kind: checkpoints / name for kind, name in (("image", image), ("text", text)) if name}
    # If VisualBERT is frozen, Module I has nothing to train, and the preset has no epoch of it.
    fewer = [] if preset == "visualbert-frozen" else ["--pretrain.epochs=20"]
    minute.finish(
        workdir, f"--preset={preset}", *data, *fewer, *BRIEF,
        "--prepare.max-tokens=11", "--report.no-figures",
        *(f"--model.{kind}-checkpoint={folder}" for kind, folder in named.items()),
        cache=cache, script=str(EXPERIMENTS / f"{experiment}.py"),
    )  # fmt: skip
    trained = load_model(workdir / "finetune" / "model", make_mesh(jax.devices()[:1]))
    joint = preset.startswith("visualbert")
    loaders = {
        "image": load_image_encoder, "text": lambda folder: load_text_encoder(folder, joint)
    }  # fmt: skip
    moved = set()
    for kind, folder in named.items():
        before = small.weights(loaders[kind](folder))
        after = small.weights(getattr(trained, f"{kind}_encoder"))
        assert before.keys() == after.keys()
        if any((before[path] != value).any() for path, value in after.items()):
            moved.add(kind)
    return minute.metrics(workdir), moved


@pytest.mark.slow
@pytest.mark.rotates("presets", every=9)
@pytest.mark.parametrize(
    ("preset", "image", "text", "trains"),
    TABLE_2,
)
def test_a_preset_of_table_2_runs_and_trains_the_parts_it_names(
    preset, image, text, trains, checkpoints, compiled, tmp_path
):
    metrics, moved = finish(
        "amazon", preset, checkpoints, image, text, CATALOGUE, tmp_path / "run", compiled
    )
    assert moved == trains
    assert all(math.isfinite(metrics[name]) for name in ("P@1", "P@5", "nDCG@5", "R@10"))
    minute.assert_learned(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.rotates("presets", every=9)
@pytest.mark.parametrize(("preset", "image"), TABLE_3)
def test_a_preset_of_table_3_runs(preset, image, checkpoints, compiled, tmp_path):
    metrics, moved = finish(
        "polyvore", preset, checkpoints, image, "distilbert", OUTFITS, tmp_path / "run", compiled
    )
    assert moved == {"image", "text"}
    assert 0 < metrics["FITB"] <= 100
    minute.assert_learned(tmp_path / "run")


def test_all_presets_that_name_a_checkpoint_are_run_here():
    for experiment, runs in ((amazon, TABLE_2), (polyvore, TABLE_3)):
        named = {
            name
            for name, preset in experiment.PRESETS.items()
            if preset.model.image_checkpoint or preset.model.text_checkpoint
        }
        assert named == {preset for preset, *_ in runs}
