"""What answers are made of, copied from a run: model, index, label cache, parts, catalogue."""

import shutil
from collections.abc import Container
from pathlib import Path

from mufin_jax.data.dataset import Dataset
from mufin_jax.export.prepared import save_prepared
from mufin_jax.prediction.part_files import FILES
from mufin_jax.prediction.parts import PartName
from mufin_jax.prediction.predictor import Predictor
from mufin_jax.runtime.storage.files import load_sealed, save_sealed

_LENT: tuple[PartName, ...] = ("v", "g", "sg", "tv")
"""Parts of which labels of training lend added labels a share."""
_MEASURED = ("done.json", "settings.json", "metrics.json")


def save_answers(run: Path, predictor: Predictor, folder: Path) -> None:
    """Write all that `Predictor.load` reads, in the layout of a run.

    Args:
        run: the folder of a finished run.
        predictor: loaded from it, which has verified its files.
        folder: of the export.
    """
    dataset = Dataset.load(run / "prepare", hold_out=False, to_answer=True)
    save_prepared(dataset, folder / "prepare", pairs=predictor.ranking is not None)
    _copy_folder(run / "finetune" / "model", folder / "finetune" / "model")
    _copy_folder(run / "finetune" / "predictor", folder / "finetune" / "predictor")
    _copy(run / "finetune", folder / "finetune", "done.json")
    if predictor.ranking is not None:
        _save_parts(run / "select", folder / "select", predictor.ranking.parts)
    if (run / "evaluate" / "done.json").exists():
        _copy(run / "evaluate", folder / "evaluate", *_MEASURED)
    _save_catalogue(predictor, folder / "catalogue")


def _save_parts(selected: Path, folder: Path, parts: Container[str]) -> None:
    """Copy the parts that have a weight."""
    _copy(selected, folder, "mixes.json", "done.json")
    facts = load_sealed(selected / "parts.json")
    names: list[PartName] = [name for name in facts["names"] if name in parts]
    save_sealed(folder / "parts.json", facts | {"names": names})
    copied = [name for part in names for name in FILES.get(part, ())]
    if any(name in parts for name in _LENT) and (selected / "z").exists():
        copied.append("z")  # labels that are added later are compared with z
    for name in dict.fromkeys(copied):
        _copy_folder(selected / name, folder / name)


def _save_catalogue(predictor: Predictor, folder: Path) -> None:
    """Copy the version of the catalogue that the predictor has loaded, and make it current."""
    number, versions = predictor.catalogue.version, predictor.versions
    if versions is None or number < 1:
        return
    target = folder / "versions" / str(number)
    versions.load(number, lambda version: _copy_folder(version, target))
    save_sealed(folder / "current", {"version": number})


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; unlike `shutil.copytree`, stop at the first error, and raise that one."""
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            shutil.copyfile(path, target / path.relative_to(source))


def _copy(source: Path, target: Path, *names: str) -> None:
    """Copy files that are there."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
