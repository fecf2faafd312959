"""The miniature catalogue: generated data in MM-AmazonTitles-300K's form, with a known ceiling.

Neither titles nor pictures suffice to rank its labels (the paper's figure 1). Only one descriptor
shows a scene's companion (figure 5). Label frequencies have a long tail. The same configuration
gives the same bytes. `python -m mufin_jax.data.synthetic.catalogue OUT --seed=1` writes one.

Besides the files of the Extreme Classification Repository, OUT contains
    ceiling.json     the best reachable P@1 in percent; written last: it marks a complete folder
    categories.txt   the category of each label, a line each
    truth.npz        {label,train,test}_{theme,kind,hue,texture,companion,pictures,has_text},
                     {train,test}_label (the label that a datapoint is, or -1), label_popularity
    miniature.json   the configuration
With `pictures="vectors"`, instead of images/ (split: trn, tst, lbl)
    <split>_embs_imgs_64.npy  float32 (images, 64): one vector a picture
    <split>_imgs_64_map.npy   int64 (items, most pictures): rows of the former, padded with -1
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from scipy.sparse import csr_matrix

from mufin_jax.data.synthetic import titles as titles_module
from mufin_jax.data.synthetic.addresses import generator_of
from mufin_jax.data.synthetic.catalogue_pictures import write_images, write_vectors
from mufin_jax.data.synthetic.catalogue_world import LABELS_PER_THEME, World, make_world
from mufin_jax.runtime.errors import InputError, MufinError
from mufin_jax.runtime.printing import print_everything
from mufin_jax.runtime.storage.disk import disk_errors, filling
from mufin_jax.runtime.storage.files import discard

MOST_LABELS = 5_000_000  # with more, the invented words of the themes would repeat


@dataclass(frozen=True)
class MiniatureConfig:
    """What to generate. The defaults take seconds and a few tens of MB."""

    PREPARED: ClassVar[bool] = False  # `write` makes a raw catalogue

    seed: int = 0
    """Address of all randomness."""
    points: int = 3000
    """Datapoints of the training set."""
    test_points: int = 600
    """Datapoints of the test set."""
    labels: int = 1000
    """Labels; a theme has about 50 of them, so 1000 labels give the twenty categories."""
    picture: int = 64
    """Side of a drawn picture in pixels."""
    pictures: Literal["drawn", "vectors"] = "drawn"
    """Drawn JPEGs, or ready image vectors, for catalogues too large to draw."""
    theme_word: float = 0.96
    """Share of the titles that name their theme."""
    kind_word: float = 0.5
    """Share of the titles that name their kind."""
    hue_word: float = 0.15
    """Share of the titles that name their hue."""
    no_text: float = 0.05
    """Share of the products without a title."""
    no_pictures: float = 0.06
    """Share of the products without pictures; they all have a title."""
    scenes: float = 0.35
    """Share of the products with pictures that also have a scene."""
    overlap: float = 0.15
    """Share of the datapoints that are also labels (at most all labels, each once)."""
    noise: float = 0.02
    """Share of the relevant pairs that are noise."""
    long_titles: float = 0.01
    """Share of the titles that are much longer than what an encoder reads."""
    other_scripts: float = 0.01
    """Share of the titles with a Greek, Russian or Japanese word."""

    @property
    def num_themes(self) -> int:
        """The number of themes: one for each 50 labels."""
        return max(1, self.labels // LABELS_PER_THEME)

    def write(self, out: Path) -> None:
        """Write the raw catalogue into the folder `out`; see `write_miniature`."""
        write_miniature(self, out)

    def __post_init__(self) -> None:
        """Reject impossible sizes and shares with the name of the field."""
        least = {"seed": 0, "points": 1, "test_points": 1, "labels": 24, "picture": 16}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"miniature: {name}={getattr(self, name)}, expected at least {low}; raise it"
                )
        if self.labels > MOST_LABELS:
            raise InputError(f"miniature: labels={self.labels}, expected at most {MOST_LABELS}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise InputError(f"miniature: {field.name}={value}, expected a share in [0, 1]")
        if self.no_text + self.no_pictures > 1:
            raise InputError(
                f"miniature: no_text={self.no_text} and no_pictures={self.no_pictures} exceed 1"
                " together; lower one, since every product has a title or a picture"
            )
        if self.pictures not in ("drawn", "vectors"):
            raise InputError(f"miniature: pictures={self.pictures!r}, expected drawn or vectors")


def write_miniature(config: MiniatureConfig, out: Path) -> None:
    """Write the catalogue of `config` into the folder `out`, over any interrupted attempt.

    Raises:
        InputError: if `out` contains anything else than a catalogue of the same configuration.
        DiskError: if the folder cannot be written.
    """
    record = json.dumps(asdict(config), indent=1) + "\n"
    with disk_errors(out):
        claim(out, record)
    with filling(out, partial(discard, out)):
        world = make_world(config, generator_of(config.seed, "world"))
        relevance = {
            "train": world.draw(world.train, generator_of(config.seed, "train"), cover=True),
            "test": world.draw(world.test, generator_of(config.seed, "test"), cover=False),
        }
        _write_relations(world, relevance, out)
        uids = _uids(len(world.theme))
        _write_text(config, world, uids, out)
        if config.pictures == "drawn":
            write_images(world, uids, config.picture, partial(generator_of, config.seed), out)
        else:
            write_vectors(world, partial(generator_of, config.seed), out)
        best = {"P@1": round(world.ceiling(), 2), "explanation": _CEILING}
        part = out / "ceiling.json.part"
        part.write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")
        part.replace(out / "ceiling.json")


_CEILING = (
    "Expected P@1 of a reader who knows every product's attributes and how likely each pair was,"
    " but not how the draws fell: the mean over test datapoints of the likeliest label's chance,"
    " overlap filter applied. Titles and pictures that leave attributes out keep it out of reach."
)


def claim(out: Path, record: str) -> None:
    """Take a folder for the configuration `record`.

    Raises:
        InputError: if the folder contains something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    marker = out / "miniature.json"
    found = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else None
    # An attempt can end before the file is complete.
    interrupted = found is not None and record.startswith(found)
    if not interrupted and any(out.iterdir()):
        what = "a miniature catalogue of another configuration" if found else "other files"
        raise InputError(f"{out}: holds {what}, expected an empty folder; give another folder")
    (out / "ceiling.json").unlink(missing_ok=True)
    marker.write_text(record, encoding="utf-8")


def _write_relations(world: World, relevance: dict[str, csr_matrix], out: Path) -> None:
    for split, short in (("train", "trn"), ("test", "tst")):
        products, matrix = world.splits[split], relevance[split]
        with (out / f"{short}_X_Y.txt").open("w", encoding="utf-8", newline="\n") as file:
            file.write(f"{len(products)} {world.num_labels}\n")
            for start, end in pairwise(map(int, matrix.indptr)):
                labels = matrix.indices[start:end].tolist()
                file.write(" ".join(f"{label}:1" for label in labels) + "\n")
        rows = np.flatnonzero(products < world.num_labels)
        pairs = zip(rows.tolist(), products[rows].tolist(), strict=True)
        _write_lines(out / f"filter_labels_{split}.txt", (f"{row} {c}" for row, c in pairs))
    names = titles_module.CATEGORIES
    themes = world.theme[: world.num_labels].tolist()
    _write_lines(out / "categories.txt", (names[theme % len(names)] for theme in themes))

    truth = {"label_popularity": world.popularity}
    for split, products in world.splits.items():
        for name in ("theme", "kind", "hue", "texture", "companion", "pictures", "has_text"):
            truth[f"{split}_{name}"] = getattr(world, name)[products]
        if split != "label":
            truth[f"{split}_label"] = np.where(products < world.num_labels, products, -1)
    np.savez_compressed(out / "truth.npz", **truth)  # pyright: ignore[reportArgumentType]


def _uids(total: int) -> list[str]:
    """Return an invented ASIN for each product; a few products have two, joined by a comma."""
    numbers = (n * 1_234_567_890_121 % 36**8 for n in range(1, total + 1))
    asins = ["B0" + np.base_repr(number, 36).zfill(8) for number in numbers]
    for product in range(7, total, 50):
        asins[product] += ",X" + asins[product][1:]
    return asins


def _write_text(config: MiniatureConfig, world: World, uids: list[str], out: Path) -> None:
    titles = titles_module.titles(config, world, generator_of(config.seed, "titles"))
    lines = [f"{uid}->{title}" for uid, title in zip(uids, titles, strict=True)]
    (out / "raw_data").mkdir(exist_ok=True)
    for split, products in world.splits.items():
        _write_lines(out / "raw_data" / f"{split}.raw.txt", (lines[p] for p in products))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def main() -> None:
    """Run the command line: a folder, and every field of the configuration as an option."""
    import tyro

    def write(
        out: Annotated[Path, tyro.conf.Positional],
        config: tyro.conf.OmitArgPrefixes[MiniatureConfig] = MiniatureConfig(),
    ) -> None:
        """Write a miniature catalogue in the form of MM-AmazonTitles-300K.

        Args:
            out: the folder to write, new or empty.
            config: what to generate.
        """
        write_miniature(config, out)

    print_everything()
    try:
        tyro.cli(write, prog="python -m mufin_jax.data.synthetic.catalogue")
    except MufinError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
