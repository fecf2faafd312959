"""What a predictor is made of, loaded from the folder of a run."""

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from mufin_jax.data.dataset import Dataset
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import load_model
from mufin_jax.prediction.config import PredictConfig, check_finished, measured_with
from mufin_jax.prediction.label_cache import LabelCache
from mufin_jax.prediction.part_files import load_ranking
from mufin_jax.prediction.part_ranking import PartRanking
from mufin_jax.prediction.versions import Versions
from mufin_jax.retrieval.index import LabelIndex
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.run_folder import use_compile_cache
from mufin_jax.runtime.storage.files import MANIFEST, load_sealed
from mufin_jax.runtime.surroundings import check_precision

log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """The arguments of a `Predictor`, in their order."""

    model: Mufin
    index: LabelIndex
    cache: LabelCache
    dataset: Dataset
    config: PredictConfig
    ranking: PartRanking | None = None
    versions: Versions | None = None


def load_built(
    folder: Path, model: Mufin, dataset: Dataset, config: PredictConfig | None = None
) -> Loaded:
    """Load what `build_predictor` wrote; see `Predictor.load_parts`."""
    config = config or PredictConfig(**load_sealed(folder / "predictor.json"))
    index = LabelIndex.load(folder / "index", model.mesh)
    cache = LabelCache.load(folder / "labels", model.cross_attention, model.mesh)
    return Loaded(model, index, cache, dataset, config)


def load_run(
    workdir: Path,
    mesh: Mesh | None,
    config: PredictConfig | None,
    every_part: bool,
    catalogue: bool,
) -> Loaded:
    """Load the predictor of a run; see `Predictor.load`."""
    folder = workdir / "finetune" / "predictor"
    if config is not None and not isinstance(config, PredictConfig):
        raise InputError(f"config: found {type(config).__name__}; expected a PredictConfig")
    check_finished(workdir)
    if os.access(workdir, os.W_OK):
        use_compile_cache(workdir)
    check_precision()
    model = load_model(workdir / "finetune" / "model", mesh or make_mesh())
    dataset = Dataset.load(workdir / "prepare", to_answer=True)
    found = load_built(folder, model, dataset, config or measured_with(workdir))
    if (workdir / "select" / "done.json").exists():
        whole = Dataset.load(workdir / "prepare", hold_out=False, to_answer=True)
        selected, heads = workdir / "select", model.heads()
        found = found._replace(
            ranking=load_ranking(selected, whole, heads, found.cache, every_part)
        )
    base = hashlib.sha256((folder / "labels" / MANIFEST).read_bytes()).hexdigest()
    ids = dataset.train.ids  # their content: an export packs the file in another way
    points = hashlib.sha256(ids.offsets.tobytes() + ids.blob.tobytes()).hexdigest()
    versions = Versions(workdir / "catalogue", base, points)
    if catalogue:
        return found._replace(versions=versions)
    if versions.folder.exists():
        log.info("%s: the labels of training answer, without the changes since", versions.folder)
    return found
