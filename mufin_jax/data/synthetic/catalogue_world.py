"""The world behind the miniature catalogue: the products, and which are bought together.

A product has a theme (only titles show it), a kind, a hue and a texture (only pictures show them
reliably). The labels of a datapoint have its theme *and* style (style = hue // 2, two neighbouring
hues). Popular labels are more likely, and most of all the one kind that is the accessory of the
datapoint's kind. Some products have a scene: one more picture with a companion in the background,
a label of the same theme but mostly of another style. Labels that look like the companion are
relevant too, and only that one descriptor shows it (the paper's figure 5). Every pair is one
Bernoulli draw of known probability, so the best reachable P@1 is known.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix

from mufin_jax.runtime.blocks import cut

NUM_KINDS, NUM_HUES, NUM_STYLES, NUM_TEXTURES = 10, 8, 4, 4
LABELS_PER_THEME = 50

# One cycle through all kinds: no kind is its own accessory, and no two are each other's.
ACCESSORY = (np.arange(NUM_KINDS) + 3) % NUM_KINDS

SAME_STYLE = 0.78  # times the label's popularity
ACCESSORY_ODDS = 0.92
COMPANION_ODDS = 0.94
OUTSHONE = 0.9  # factor for all other labels if the datapoint has a scene
COMPANION_OF_ANOTHER_STYLE = 0.8
PICTURES = (0.45, 0.35, 0.15, 0.05)  # odds of 1, 2, 3, 4 pictures that are not a scene

CHUNK = 1 << 15


@dataclass(frozen=True)
class World:
    """Every product's attributes; products 0 .. num_labels - 1 are the labels, in order.

    Attributes:
        num_labels, num_themes: how many there are.
        noise: share of the relevant pairs that are noise.
        theme, kind, hue, texture: of each product.
        companion: the label in the background of a product's scene, or -1.
        pictures: the number of pictures without the scene.
        has_text: whether the product has a title.
        popularity: of each label.
        labels_of_theme: the labels of each theme, padded with -1.
        train, test: product numbers of the datapoints; below `num_labels`, a datapoint is a label.
    """

    num_labels: int
    num_themes: int
    noise: float
    theme: Int[np.ndarray, " products"]
    kind: Int[np.ndarray, " products"]
    hue: Int[np.ndarray, " products"]
    texture: Int[np.ndarray, " products"]
    companion: Int[np.ndarray, " products"]
    pictures: Int[np.ndarray, " products"]
    has_text: Bool[np.ndarray, " products"]
    popularity: Float[np.ndarray, " labels"]
    labels_of_theme: Int[np.ndarray, "themes most"]  # padded with -1
    train: Int[np.ndarray, " points"]
    test: Int[np.ndarray, " test_points"]

    @property
    def group(self) -> Int[np.ndarray, " products"]:
        """The (theme, style) of a product as one number."""
        return self.theme * NUM_STYLES + self.hue // 2

    @property
    def num_pictures(self) -> Int[np.ndarray, " products"]:
        """The number of pictures of each product, including its scene."""
        return self.pictures + (self.companion >= 0)

    @property
    def splits(self) -> dict[str, Int[np.ndarray, " items"]]:
        """The product numbers of train, test and label, in the order of their files."""
        return {"train": self.train, "test": self.test, "label": np.arange(self.num_labels)}

    def odds(
        self, points: Int[np.ndarray, " b"]
    ) -> tuple[Int[np.ndarray, "b c"], Float[np.ndarray, "b c"], Float[np.ndarray, " b"]]:
        """Return the labels of each point's theme, their chances, and any other label's chance.

        A pair's draw is a Bernoulli with probability (1 - noise) times its chance or, independently
        of it, of the noise, which is equally likely for every label of the catalogue. Padding
        and the datapoint itself have chance 0.

        Args:
            points: product numbers.
        """
        labels, mine = self.labels_of_theme[self.theme[points]], points[:, None]
        p = SAME_STYLE * self.popularity[labels]
        p = np.where(self.kind[labels] == ACCESSORY[self.kind[mine]], ACCESSORY_ODDS, p)
        p = np.where(self.hue[labels] // 2 == self.hue[mine] // 2, p, 0)
        companion = self.companion[mine]
        alike = self.kind[labels] == self.kind[companion]
        alike &= self.hue[labels] == self.hue[companion]
        p = np.where(companion >= 0, np.where(alike, COMPANION_ODDS, p * OUTSHONE), p)
        possible = (labels >= 0) & (labels != mine)
        stray = self.noise * (p * possible).sum(1) / self.num_labels
        p = 1 - (1 - (1 - self.noise) * p) * (1 - stray[:, None])
        return labels, p * possible, stray

    def ceiling(self) -> float:
        """Return the best P@1 in percent of a reader who knows all attributes and chances.

        The reader does not know the draws. Datapoints without any label are drawn again, so
        chances are conditional on having a label.
        """
        total = 0.0
        for rows in cut(len(self.test), CHUNK):
            _, p, stray = self.odds(self.test[rows])
            others = self.num_labels - (p > 0).sum(1)
            nothing = np.exp(np.log1p(-p).sum(1) + others * np.log1p(-stray))
            total += float((p.max(1) / (1 - nothing)).sum())
        return 100 * total / len(self.test)

    def draw(
        self, points: Int[np.ndarray, " b"], rng: np.random.Generator, cover: bool
    ) -> csr_matrix:
        """Draw the relevance of all labels to `points` (product numbers): at least one for each.

        With `cover`, a label that no datapoint drew is given to one datapoint of its group.
        """
        pairs = []
        for part in cut(len(points), CHUNK):
            rows = np.arange(part.start, part.stop)
            while len(rows):
                labels, p, stray = self.odds(points[rows])
                at, which = np.nonzero(rng.random(p.shape) < p)
                astray = np.repeat(rows, rng.binomial(self.num_labels, stray))
                row = np.concatenate([rows[at], astray])
                wild = rng.integers(self.num_labels, size=len(astray))
                column = np.concatenate([labels[at, which], wild])
                other = points[row] != column
                pairs.append((row[other], column[other]))
                rows = np.setdiff1d(rows, row[other])
        row, column = (np.concatenate(side) for side in zip(*pairs, strict=True))
        if cover:
            unseen = np.setdiff1d(np.arange(self.num_labels), column)
            row = np.concatenate([row, self._someone_like(unseen, points, rng)])
            column = np.concatenate([column, unseen])
        shape = (len(points), self.num_labels)
        relevance = csr_matrix((np.ones(len(row), np.float32), (row, column)), shape)
        relevance.sum_duplicates()
        relevance.data[:] = 1
        return relevance

    def _someone_like(self, labels, points, rng) -> Int[np.ndarray, " c"]:
        """Return for each label a row of `points` of its group, else any; never itself."""
        order = np.argsort(self.group[points], kind="stable")
        groups = self.group[points][order]
        first = np.searchsorted(groups, self.group[labels], "left")
        count = np.searchsorted(groups, self.group[labels], "right") - first
        first, count = np.where(count > 1, first, 0), np.where(count > 1, count, len(order))
        chosen = rng.integers(count)
        itself = points[order[first + chosen]] == labels
        return order[first + np.where(itself, (chosen + 1) % count, chosen)]


def make_world(config, rng: np.random.Generator) -> World:
    """Draw every product of a `MiniatureConfig`; the same `rng` gives the same world."""
    from scipy.special import ndtri  # slow to load, and only generated data need it

    themes = config.num_themes
    groups = themes * NUM_STYLES
    # Datapoints prefer some groups (log-normal, with the same spread at every size). Together with
    # popularity this causes the long tail of label frequencies. Labels are distributed evenly.
    taste = np.exp(0.7 * ndtri((rng.permutation(groups) + 0.5) / groups))
    label_group = rng.permutation(np.arange(config.labels) % groups)

    same = min(round(config.overlap * (config.points + config.test_points)), config.labels)
    same_test = round(same * config.test_points / (config.points + config.test_points))
    keys = np.log(taste[label_group]) + rng.gumbel(size=config.labels)
    chosen = rng.permutation(np.argsort(-keys, kind="stable")[:same])
    fresh = config.points + config.test_points - same
    new = config.labels + np.arange(fresh)
    fresh_test = config.test_points - same_test
    test = rng.permutation(np.concatenate([chosen[:same_test], new[:fresh_test]]))
    train = rng.permutation(np.concatenate([chosen[same_test:], new[fresh_test:]]))

    point_group = np.searchsorted(np.cumsum(taste), rng.random(fresh) * taste.sum())
    group = np.concatenate([label_group, np.minimum(point_group, groups - 1)])
    theme, style = group // NUM_STYLES, group % NUM_STYLES
    total = len(group)
    hue = 2 * style + rng.integers(2, size=total)
    kind = rng.integers(NUM_KINDS, size=total)

    fate = rng.random(total)  # one draw for both: no product lacks both text and pictures
    has_text, has_pictures = fate >= config.no_text, fate < 1 - config.no_pictures
    pictures = has_pictures * (1 + rng.choice(len(PICTURES), size=total, p=PICTURES))

    order = np.argsort(theme[: config.labels], kind="stable")
    counts = np.bincount(theme[: config.labels], minlength=themes)
    slots = np.arange(counts.max())
    taken = slots < counts[:, None]
    labels_of_theme = np.full(taken.shape, -1)
    labels_of_theme[taken] = order

    scene = has_pictures & (rng.random(total) < config.scenes)
    companion = _companions(theme, hue, labels_of_theme, counts, rng)
    return World(
        num_labels=config.labels,
        num_themes=themes,
        noise=config.noise,
        theme=theme,
        kind=kind,
        hue=hue,
        texture=rng.integers(NUM_TEXTURES, size=total),
        companion=np.where(scene, companion, -1),
        pictures=pictures,
        has_text=has_text,
        popularity=0.05 + 0.85 * rng.beta(2, 0.6, size=config.labels),
        labels_of_theme=labels_of_theme,
        train=train,
        test=test,
    )


def _companions(theme, hue, labels_of_theme, counts, rng) -> Int[np.ndarray, " products"]:
    """Return a label of the same theme for each product, not itself, mostly of another style."""
    products = np.arange(len(theme))
    same_style = rng.random(len(theme)) > COMPANION_OF_ANOTHER_STYLE
    companion = np.full(len(theme), -1)
    todo = products
    while len(todo):
        guess = labels_of_theme[theme[todo], rng.integers(counts[theme[todo]])]
        fits = (hue[guess] // 2 == hue[todo] // 2) == same_style[todo]
        fits &= guess != todo
        companion[todo[fits]] = guess[fits]
        todo = todo[~fits]
    return companion
