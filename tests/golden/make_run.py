"""Make the folder of a run in the format of this version, for later versions to read.

Run it once, from the root of the repository, when a version is released:
    python tests/golden/make_run.py
`runs/<version>/` holds the files of a minute run that a predictor needs, and `answers.json`:
queries with their first ten labels and scores. A query is a title and the numbers of one-coloured
pictures. An existing folder is never made again: users of that version have such files.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))

import minute  # noqa: E402
from raw_folders import picture  # noqa: E402

from mufin_jax import Predictor, __version__  # noqa: E402

KEPT = ("prepare", "finetune/model", "finetune/predictor")
QUERIES = [("brass teapot", [3]), ("", [0, 17]), ("garden chair of oak", []), ("blue lamp", [40])]


def answers(workdir: Path) -> list[dict]:
    """Return the queries and the answers of a run."""
    predictor = Predictor.load(workdir)
    items = [{"title": title, "images": [*map(picture, shown)]} for title, shown in QUERIES]
    return [
        {
            "title": title,
            "pictures": shown,
            "labels": [label.id for label in found],
            "scores": [label.score for label in found],
        }
        for (title, shown), found in zip(QUERIES, predictor.predict(items, k=10), strict=True)
    ]


def main() -> None:
    """Write the folder of this version."""
    out = HERE / "runs" / __version__
    if out.exists():
        sys.exit(f"{out} exists: the folder of a released version is never changed")
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Path(scratch) / "run"
        flags = ("--prepare.no-records", "--miniature.points=40")
        minute.finish(workdir, *flags, cache=Path(scratch) / "compiled")
        for name in KEPT:
            shutil.copytree(workdir / name, out / name)
        (out / "answers.json").write_text(json.dumps(answers(workdir), indent=1) + "\n")


if __name__ == "__main__":
    main()
