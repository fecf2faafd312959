"""Describe all items of a catalogue by checkpoints, and write ready vectors by item id.

    python -m mufin_jax.pipeline.embed --data=DIR --out=OUT --text-checkpoint=NAME
        --image-checkpoint=NAME

OUT/text/ and OUT/image/ are then values of --prepare.text-vectors and --prepare.image-vectors
(docs/data.md). The same command resumes: parts that are written stay.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import Int64

from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.data.manifest import MANIFEST
from mufin_jax.data.preparation.prepare import PrepareConfig, prepare
from mufin_jax.data.readers.named_vectors import IDS
from mufin_jax.encoders.pretrained import image_processing
from mufin_jax.model.config import Modalities, ModelConfig
from mufin_jax.model.embed_side import encode, pictures_a_call
from mufin_jax.model.mufin import Mufin
from mufin_jax.model.saved import new_loader, new_model
from mufin_jax.pipeline.checkpoints import check_checkpoints
from mufin_jax.pipeline.cli_messages import reject_empty
from mufin_jax.pipeline.old_runs import ADDED
from mufin_jax.pipeline.sources import as_named_now
from mufin_jax.runtime.blocks import cut
from mufin_jax.runtime.distributed.mesh import make_mesh
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.exit import main_guard
from mufin_jax.runtime.logs import progress, set_up_logging
from mufin_jax.runtime.run_folder import flatten
from mufin_jax.runtime.signals import check_stop
from mufin_jax.runtime.storage.files import jsonable, load_sealed, replacing, save_sealed
from mufin_jax.runtime.storage.npy import whole_npy
from mufin_jax.runtime.storage.paths import settle_paths
from mufin_jax.stages.prepare import with_tokenizer

_SETTINGS = "embed.json"
_BLOCK = 256
Kind = Literal["text", "image"]


@dataclasses.dataclass(frozen=True)
class EmbedConfig:
    """Write ready vectors of all items of a catalogue."""

    data: Path
    """The raw data folder, in any of the forms of docs/data.md but outfits."""
    out: Path
    """The folder that gets text/ and image/."""
    text_checkpoint: str | None = None
    """Describes titles: a folder or a hub name."""
    image_checkpoint: str | None = None
    """Describes pictures: a folder or a hub name."""
    prepare: PrepareConfig = dataclasses.field(default_factory=PrepareConfig)
    """How titles and pictures are prepared."""
    part: int = 16_384
    """Rows of a file."""

    def __post_init__(self) -> None:
        """Reject a command that would write nothing."""
        settle_paths(self, fields=["data", "out"])
        settle_paths(self, names=True, fields=["text_checkpoint", "image_checkpoint"])
        if not (self.text_checkpoint or self.image_checkpoint):
            raise InputError("no checkpoint: name --text-checkpoint or --image-checkpoint")
        if self.part < 1:
            raise InputError(f"part={self.part}: expected at least 1")

    @property
    def model(self) -> ModelConfig:
        """The model of these encoders."""
        modalities: Modalities = "both"
        if not (self.text_checkpoint and self.image_checkpoint):
            modalities = "text" if self.text_checkpoint else "images"
        return ModelConfig(
            modalities=modalities,
            text_checkpoint=self.text_checkpoint,
            image_checkpoint=self.image_checkpoint,
        )


def embed(config: EmbedConfig) -> None:
    """Prepare the catalogue in `out`, and write what the encoders make of its items.

    Raises:
        InputError: if the data or a checkpoint cannot be used, or `out` has other settings.
        DiskError: if a file cannot be written.
        Stopped: after a signal; the same call resumes.
    """
    dataset = _prepared(config)
    mesh = make_mesh()
    model = new_model(config.model, dataset, mesh, seed=0)
    loader = new_loader(model.config, dataset, mesh)
    kinds: tuple[tuple[Kind, str | None], ...] = (
        ("text", config.text_checkpoint),
        ("image", config.image_checkpoint),
    )
    for kind, named in kinds:
        if named is None:
            continue
        ids, rows = _mentions(dataset, kind)
        bar = progress(total=len(ids), desc=f"embed {kind}", unit="item")
        with bar:
            for number, part in enumerate(cut(len(ids), config.part)):
                file = config.out / kind / f"{number:05d}.npy"
                if not file.exists():
                    _write(file, ids[part], rows[part], model, loader, kind)
                bar.update(part.stop - part.start)


def _write(
    file: Path,
    ids: Sequence[str],
    rows: Int64[np.ndarray, " k"],
    model: Mufin,
    loader: Loader,
    kind: Kind,
) -> None:
    """Write one pair of files, the vectors last."""
    distinct, place = np.unique(rows, return_inverse=True)
    found = []
    size = pictures_a_call(model, loader, _BLOCK) if kind == "image" else _BLOCK
    for block in cut(len(distinct), size):
        check_stop("embed")
        found.append(encode(model, loader, kind, distinct[block]))
    vectors = np.concatenate(found)[place]
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file.with_name(file.stem + IDS)) as names:
        names.write("".join(f"{uid}\n" for uid in ids).encode("utf-8", "replace"))
    with whole_npy(file, vectors.shape[1:], rows=len(vectors)) as writer:
        writer.append(vectors.astype(np.float32))


def _prepared(config: EmbedConfig) -> Dataset:
    """Return the catalogue as the checkpoints read it, prepared in `out` unless it is there."""
    settings = jsonable({**dataclasses.asdict(config), "data": str(config.data.resolve())})
    settings.pop("out")
    path, folder = config.out / _SETTINGS, config.out / "prepare"
    if not path.exists():
        check_checkpoints(config.prepare, config.model)
        config.out.mkdir(parents=True, exist_ok=True)
        save_sealed(path, settings)
    elif changes := _changes(load_sealed(path), settings, folder):
        raise InputError(
            f"{config.out} was made with other settings ({'; '.join(changes)}): give those, delete "
            "it, or choose another --out"
        )
    if not (folder / MANIFEST).exists():
        image = config.image_checkpoint
        prepare(
            with_tokenizer(config.prepare, config.model), config.data, folder,
            image_processing(image) if image else None,
        )  # fmt: skip
    return Dataset.load(folder)


def _changes(recorded: dict[str, Any], settings: dict[str, Any], prepared: Path) -> list[str]:
    """Return what differs from recorded settings: those of older versions, and of moved data."""
    old, new = flatten(recorded), flatten(settings)
    old = {f"prepare.{name}": value for name, value in ADDED["prepare"].items()} | old
    old["data"] = as_named_now(prepared, "data", old["data"], new["data"])
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name, ...) != new.get(name, ...)
    ]


def _mentions(dataset: Dataset, kind: Kind) -> tuple[list[str], Int64[np.ndarray, " k"]]:
    """Return the id of each vector, and the number of its text or picture.

    An item of several sides counts where it is mentioned first.
    """
    ids: list[str] = []
    rows: list[int] = []
    known: set[str] = set()
    for side in (dataset.train, dataset.test, dataset.labels):
        if kind == "text" and side.text.ndim > 1:
            outfits = dataset.questions is not None
            found = (
                f"items{' of outfits' * outfits} have several {'titles' if outfits else 'texts'}"
            )
            raise InputError(f"{dataset.path}: {found}; ready vectors are of one")
        for item, uid in enumerate(side.ids):
            own = [int(side.text[item])] if kind == "text" else side.images_of(item).tolist()
            own = [row for row in own if row >= 0]
            if own and uid not in known:
                known.add(uid)
                ids += [uid] * len(own)
                rows += own
    return ids, np.array(rows, np.int64)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    set_up_logging()

    def begin() -> None:
        reject_empty(sys.argv[1:] if argv is None else argv, ["--prepare.prompt"])
        embed(tyro.cli(EmbedConfig, args=argv))

    return main_guard(begin)


if __name__ == "__main__":
    sys.exit(main())
