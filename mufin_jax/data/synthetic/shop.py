"""A made-up shop: products in a CSV with photos, and the changes of the next day.

Its products are the labels of a miniature catalogue (catalogue_world.py): a title tells the theme,
a photo the look, and a product goes with others of its theme and style. A folder contains

    products.csv   id, title, images, related, category, price: a row a product
    photos/        a JPEG a photo
    new.csv        products that come the next day, in the same columns
    gone.txt       the ids of products that go, one a line
    tomorrow.csv   the products of the next day: with the new ones, without those that go
"""

import csv
import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_matrix
from tqdm import tqdm

from mufin_jax.data.synthetic import draw
from mufin_jax.data.synthetic import titles as titles_module
from mufin_jax.data.synthetic.addresses import generator_of
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.data.synthetic.catalogue_world import World, make_world
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.signals import until_stopped
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.paths import settle_paths

COLUMNS = ("id", "title", "images", "related", "category", "price")
_FEWEST = 24
_JPEG_QUALITY = 85


@dataclasses.dataclass(frozen=True)
class ShopConfig:
    """Write a made-up shop, to try the commands on."""

    to: Path
    """The folder of the shop, new or empty."""
    products: int = 3000
    """Products of products.csv."""
    new: int = 50
    """Products of new.csv."""
    gone: int = 30
    """Products of gone.txt."""
    picture: int = 96
    """Side of a photo in pixels."""
    seed: int = 0
    """The same seed makes the same shop."""

    def __post_init__(self) -> None:
        """Reject sizes that make no shop."""
        settle_paths(self, fields=["to"])
        least = {"products": _FEWEST, "new": 0, "gone": 0, "picture": 16, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"--{name}={getattr(self, name)}: expected at least {low}")
        if self.gone > self.products - _FEWEST:
            raise InputError(
                f"--gone={self.gone}: expected at most {self.products - _FEWEST}, which leaves "
                f"{_FEWEST} of {self.products} products"
            )


def write_shop(config: ShopConfig) -> None:
    """Write a shop.

    Raises:
        InputError: if the folder holds anything.
        DiskError: if it cannot be written.
        Stopped: after a signal.
    """
    out = config.to
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: expected a new or an empty folder; give another one")
        (out / "photos").mkdir(parents=True, exist_ok=True)
        rows = _Rows(config)
        today = np.arange(config.products)
        new = np.arange(config.products, config.products + config.new)
        rng = generator_of(config.seed, "gone")
        gone = np.sort(rng.choice(config.products, config.gone, replace=False))
        tomorrow = np.concatenate([np.setdiff1d(today, gone), new])
        rows.draw_photos(out)
        rows.write(out / "products.csv", today, today)
        rows.write(out / "new.csv", new, np.setdiff1d(today, gone))
        rows.write(out / "tomorrow.csv", tomorrow, tomorrow)
        (out / "gone.txt").write_text("".join(f"{rows.ids[one]}\n" for one in gone))


class _Rows:
    """The rows of all products, today's and new ones.

    Args:
        config: the shop.
    """

    def __init__(self, config: ShopConfig):
        count = config.products + config.new
        sizes = MiniatureConfig(
            seed=config.seed,
            labels=count,
            points=1,
            test_points=1,
            picture=config.picture,
        )
        self.config, self._rng = config, partial(generator_of, config.seed)
        self.world: World = make_world(sizes, self._rng("world"))
        self.ids = [f"P{number:05}" for number in range(1, count + 1)]
        titles = titles_module.titles(sizes, self.world, self._rng("titles"))
        self.titles = [title for title, _ in zip(titles, self.ids, strict=False)]
        self.related: csr_matrix = self.world.draw(
            np.arange(count), self._rng("related"), cover=True
        )
        self.prices = np.exp(self._rng("prices").normal(3, 0.8, count)).round(2)

    def draw_photos(self, out: Path) -> None:
        """Draw each product's photos."""
        world = self.world
        looks = [
            draw.Look(*look)
            for look in zip(
                world.kind.tolist(), world.hue.tolist(), world.texture.tolist(), strict=True
            )
        ]
        products = tqdm(range(len(self.ids)), "photos", unit=" products", disable=None)
        for product in until_stopped(products, "the photos"):
            own = self._rng("pictures", product)
            for number, name in enumerate(self._photos(product)):
                scene = number == world.pictures[product]
                companion = looks[world.companion[product]] if scene else None
                picture = draw.draw_picture(looks[product], companion, self.config.picture, own)
                picture.save(out / name, "JPEG", quality=_JPEG_QUALITY)

    def write(
        self, path: Path, products: Int[np.ndarray, " p"], others: Int[np.ndarray, " o"]
    ) -> None:
        """Write the rows of products, whose relations are those to some others."""
        known = np.zeros(len(self.ids), bool)
        known[others] = True
        categories = titles_module.CATEGORIES
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for product in products.tolist():
                related = self.related[product].indices
                writer.writerow(
                    [
                        self.ids[product],
                        self.titles[product],
                        "|".join(self._photos(product)),
                        "|".join(self.ids[one] for one in related[known[related]]),
                        categories[self.world.theme[product] % len(categories)],
                        f"{self.prices[product]:.2f}",
                    ]
                )

    def _photos(self, product: int) -> list[str]:
        """Return the paths of a product's photos in the shop's folder."""
        count = int(self.world.num_pictures[product])
        return [f"photos/{self.ids[product]}-{number}.jpg" for number in range(1, count + 1)]
