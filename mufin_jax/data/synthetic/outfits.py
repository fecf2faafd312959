"""Miniature outfits: generated data in the form of Polyvore Outfits, with a known ceiling.

An outfit has a theme, which titles show, and a style (two neighbouring hues), which pictures show.
Its items are of different kinds and all of its theme and style, except for a few that stray. A
question has three wrong answers of the right answer's kind: one has only the outfit's theme, one
only its style, one neither. So titles alone, or pictures alone, leave two answers. Items of
training and test are disjoint. The same configuration gives the same bytes.

OUT contains polyvore_item_metadata.json, images/<item_id>.jpg, disjoint/{train,test}.json,
disjoint/fill_in_blank_test.json, disjoint/compatibility_test.txt, miniature.json, and, written
last, ceiling.json. `python -m experiments.polyvore --stage=prepare` writes them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mufin_jax.data.synthetic import draw
from mufin_jax.data.synthetic import titles as titles_module
from mufin_jax.data.synthetic.addresses import generator_of
from mufin_jax.data.synthetic.catalogue import claim
from mufin_jax.data.synthetic.outfits_world import Outfit, Shelf, make_shelf
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.disk import disk_errors, filling
from mufin_jax.runtime.storage.files import discard

NUM_BRANDS = 40


@dataclass(frozen=True)
class OutfitsConfig:
    """What to generate. The defaults take seconds and some MB."""

    PREPARED: ClassVar[bool] = False  # `write` makes a raw catalogue

    seed: int = 0
    """Address of all randomness."""
    outfits: int = 1000
    """Training outfits; leaving out each of their items makes a datapoint."""
    test_outfits: int = 400
    """Test outfits; each makes one question."""
    themes: int = 20
    """Themes; with 4 styles and 10 kinds they make the sorts of items."""
    copies: int = 1
    """Items of each sort, in training and in test. All copies of a missing item suit the outfit,
    but only one is its label: with many copies, a model cannot learn which."""
    picture: int = 48
    """Side of a drawn picture in pixels."""
    stray: float = 0.06
    """Share of the items that do not have their outfit's theme and style."""
    theme_word: float = 0.96
    """Share of the titles that name their theme."""
    kind_word: float = 0.5
    """Share of the titles that name their kind."""
    hue_word: float = 0.1
    """Share of the titles that name their hue."""
    no_text: float = 0.03
    """Share of the items without a title."""

    def write(self, out: Path) -> None:
        """Write the raw catalogue into the folder `out`; see `write_outfits`."""
        write_outfits(self, out)

    def __post_init__(self) -> None:
        """Reject impossible sizes and shares with the name of the field."""
        least = {
            "seed": 0,
            "outfits": 2,
            "test_outfits": 2,
            "themes": 2,
            "copies": 1,
            "picture": 16,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(
                    f"miniature: {name}={getattr(self, name)}, expected at least {low}; raise it"
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float and not 0 <= value <= 1:
                raise InputError(f"miniature: {field.name}={value}, expected a share in [0, 1]")


def write_outfits(config: OutfitsConfig, out: Path) -> None:
    """Write the outfits of `config` into the folder `out`, over any interrupted attempt.

    Raises:
        InputError: if `out` contains anything else than outfits of the same configuration.
        DiskError: if the folder cannot be written.
    """
    with disk_errors(out):
        claim(out, json.dumps(asdict(config), indent=1) + "\n")
    with filling(out, partial(discard, out)):
        (out / "disjoint").mkdir(exist_ok=True)
        shelves = {
            split: make_shelf(
                config.themes,
                config.copies,
                config.stray,
                first,
                generator_of(config.seed, split, "items"),
                generator_of(config.seed, split, "outfits"),
            )
            for split, first in (("train", 100_000_000), ("test", 200_000_000))
        }
        _write_items(config, shelves, out)
        outfits = {"train": config.outfits, "test": config.test_outfits}
        made = {name: list(shelves[name].outfits(count)) for name, count in outfits.items()}
        for name, some in made.items():
            entries = [_entry(shelves[name], *one) for one in enumerate(some)]
            _dump(out / "disjoint" / f"{name}.json", entries)
        asked = _write_questions(shelves["test"], made["test"], out / "disjoint")
        _write_judged(shelves["test"], made["test"], out / "disjoint")
        best = {"FITB": round(100 * float(np.mean(asked)), 2), "explanation": _CEILING}
        _dump(out / "ceiling.json", best)


_CEILING = (
    "Expected accuracy of a reader who knows every item's attributes and how questions are made."
    " A right answer of the outfit's theme and style is found; one that strays shares what it has"
    " of them with one wrong answer, and is found in one case of two."
)


def _titles(config: OutfitsConfig, shelf: Shelf, rng: np.random.Generator) -> Iterator[str]:
    brands = [titles_module.invented_word(number).capitalize() for number in range(NUM_BRANDS)]
    sorts = zip(shelf.theme.tolist(), shelf.kind.tolist(), shelf.hue.tolist(), strict=True)
    for theme, kind, hue in sorts:
        nouns = titles_module.KINDS[kind]
        words = [
            (config.theme_word, titles_module.theme_words(theme)[rng.integers(4)]),
            (config.kind_word, nouns[rng.integers(len(nouns))]),
            (config.hue_word, titles_module.HUES[hue]),
            (1.0, brands[rng.integers(NUM_BRANDS)]),
        ]
        kept = [word for share, word in words if rng.random() < share]
        yield " ".join(rng.permutation(kept)) if rng.random() >= config.no_text else ""


def _write_items(config: OutfitsConfig, shelves: dict[str, Shelf], out: Path) -> None:
    metadata: dict[str, Any] = {}
    (out / "images").mkdir(exist_ok=True)
    for split, shelf in shelves.items():
        titles = _titles(config, shelf, generator_of(config.seed, split, "titles"))
        rng = generator_of(config.seed, split, "pictures")
        for number, title in enumerate(until_stopped(titles, "prepare")):
            kind = int(shelf.kind[number])
            look = draw.Look(kind, int(shelf.hue[number]), int(shelf.texture[number]))
            picture = draw.draw_picture(look, None, config.picture, rng)
            name = f"{shelf.id(number)}.jpg"
            picture.save(out / "images" / name, "JPEG", quality=90, subsampling=0)
            metadata[shelf.id(number)] = {
                "title": title,
                "url_name": title.lower(),
                "semantic_category": draw.SHAPES[kind],
            }
    _dump(out / "polyvore_item_metadata.json", metadata)


def _entry(shelf: Shelf, row: int, outfit: Outfit) -> dict[str, Any]:
    items = [
        {"item_id": shelf.id(item), "index": index}
        for index, (item, _) in enumerate(outfit.items, 1)
    ]
    return {"set_id": _set_id(row), "items": items}


def _names(shelf: Shelf, outfits: list[Outfit]) -> dict[tuple[int, ...], list[tuple[str, int]]]:
    """Return, by sort and by kind, the names of all items of outfits, and the items."""
    names: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for row, outfit in enumerate(outfits):
        for place, (item, _) in enumerate(outfit.items, 1):
            sort = int(shelf.theme[item]), int(shelf.style[item]), int(shelf.kind[item])
            for key in (sort, sort[-1:], ()):
                names.setdefault(key, []).append((f"{_set_id(row)}_{place}", item))
    return names


def _write_questions(shelf: Shelf, outfits: list[Outfit], folder: Path) -> list[float]:
    """Write one question for each outfit; return the chances that full knowledge answers it."""
    rng, names = shelf.rng, _names(shelf, outfits)
    questions, chances = [], []
    for row, outfit in enumerate(outfits):
        own = [f"{_set_id(row)}_{place}" for place in range(1, len(outfit.items) + 1)]
        blank = int(rng.integers(len(own)))
        item, strays = outfit.items[blank]
        kind, taken, wrong = int(shelf.kind[item]), {item}, []
        for sort in shelf.near(outfit.theme, outfit.style):
            for key in ((*sort, kind), (kind,), ()):  # small test sets lack some sorts
                free = [n for n in names.get(key, ()) if n[0] not in own and n[1] not in taken]
                if free:
                    name, other = free[rng.integers(len(free))]
                    taken.add(other)
                    wrong.append(name)
                    break
        answers = [own[blank], *wrong]
        questions.append(
            {
                "question": own[:blank] + own[blank + 1 :],
                "answers": [answers[place] for place in rng.permutation(len(answers))],
                "blank_position": blank + 1,
            }
        )
        chances.append(0.5 if strays else 1.0)
    _dump(folder / "fill_in_blank_test.json", questions)
    return chances


def _write_judged(shelf: Shelf, outfits: list[Outfit], folder: Path) -> None:
    """Write each outfit, and as many random combinations of the same kinds."""
    names, lines = _names(shelf, outfits), []
    for row, outfit in enumerate(outfits):
        own = [f"{_set_id(row)}_{place}" for place in range(1, len(outfit.items) + 1)]
        known = [names[(int(shelf.kind[item]),)] for item, _ in outfit.items]
        thrown = [some[shelf.rng.integers(len(some))][0] for some in known]
        lines += [" ".join(["1", *own]), " ".join(["0", *thrown])]
    text = "".join(f"{line}\n" for line in lines)
    (folder / "compatibility_test.txt").write_text(text, encoding="utf-8")


def _set_id(row: int) -> str:
    return str(10_000_000 + row)


def _dump(path: Path, found: Any) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
