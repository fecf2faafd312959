"""The titles of miniature products: almost always the theme, less often the rest, and filler.

One or two of four synonyms name the theme. They share no letters: only purchases show that they
belong together. Brands and filler words carry no information. A few titles are very long or
continue in another script.
"""

from collections.abc import Iterator

import numpy as np

THEMES = {
    "nautical": "nautical anchor marine seafarer",
    "jungle": "jungle tropic rainforest liana",
    "desert": "desert dune oasis arid",
    "arctic": "arctic polar glacier frozen",
    "space": "space galaxy orbit cosmic",
    "medieval": "medieval knight castle heraldic",
    "pirate": "pirate buccaneer corsair plunder",
    "circus": "circus juggler acrobat bigtop",
    "western": "western cowboy prairie rodeo",
    "garden": "garden blossom botanical petal",
    "baking": "baking pastry whisk oven",
    "music": "music melody concert tune",
    "racing": "racing turbo speedway throttle",
    "fairy": "fairy enchanted magic pixie",
    "dinosaur": "dinosaur jurassic fossil raptor",
    "railway": "railway locomotive train steam",
    "harvest": "harvest autumn orchard pumpkin",
    "winter": "winter snowflake yuletide sleigh",
    "camping": "camping outdoor trail campfire",
    "robot": "robot android cyber mechanical",
}
CATEGORIES = tuple(THEMES)
KINDS = (
    ("plate", "saucer"),  # in the order of draw.SHAPES
    ("cushion", "box", "crate"),
    ("pennant", "wedge"),
    ("ornament", "badge", "star"),
    ("trivet", "cross"),
    ("wreath", "hoop", "bangle"),
    ("pendant", "sickle"),
    ("locket", "heart", "valentine"),
    ("timer", "hourglass"),
    ("ruler", "shelf", "plank"),
)
HUES = ("red", "orange", "yellow", "green", "turquoise", "blue", "violet", "pink")
OTHER_SCRIPTS = (
    *("θάλασσα", "κήπος", "χειμώνας", "δώρο", "καινούργιο"),
    *("подарок", "праздник", "новинка", "набор", "игрушка"),
    *("飾り", "おもちゃ", "手作り", "贈り物", "コレクション"),
)
NUM_BRANDS, NUM_FILLERS, LONG = 300, 600, 80

_CHUNK = 1 << 14
_CONSONANTS, _VOWELS = "bdfghjklmnprstvwz", "aeiou"


def invented_word(number: int) -> str:
    """Return one of 85**3 = 614,125 words of three syllables; numbers give distinct words."""
    syllables = len(_CONSONANTS) * len(_VOWELS)
    number = (number + 1) * 277_777 % syllables**3
    word = ""
    for _ in range(3):
        number, syllable = divmod(number, syllables)
        word += _CONSONANTS[syllable // 5] + _VOWELS[syllable % 5]
    return word


def theme_words(theme: int) -> list[str]:
    """Return the four synonyms of a theme; after the twenty of `THEMES` they are invented."""
    if theme < len(CATEGORIES):
        return THEMES[CATEGORIES[theme]].split()
    return [invented_word(NUM_BRANDS + NUM_FILLERS + 4 * theme + synonym) for synonym in range(4)]


def titles(config, world, rng: np.random.Generator) -> Iterator[str]:
    """Yield the title of every product of the `World`, in order; empty if it has no text."""
    brands = [invented_word(number).capitalize() for number in range(NUM_BRANDS)]
    fillers = [invented_word(NUM_BRANDS + number) for number in range(NUM_FILLERS)]
    brand_rank, filler_rank = _zipf(NUM_BRANDS), _zipf(NUM_FILLERS)
    for start in range(0, len(world.theme), _CHUNK):
        rows = slice(start, start + _CHUNK)
        themes, kinds = world.theme[rows].tolist(), world.kind[rows].tolist()
        hues, has_text = world.hue[rows].tolist(), world.has_text[rows].tolist()
        draws = rng.random((len(themes), 11)).tolist()
        order = np.argsort(rng.random((len(themes), 4)), axis=1).tolist()
        brand = np.searchsorted(brand_rank, rng.random(len(themes))).tolist()
        filler = np.searchsorted(filler_rank, rng.random((len(themes), 6))).tolist()
        for i, u in enumerate(draws):
            if not has_text[i]:
                yield ""
                continue
            parts = [[], [], [], []]
            if u[0] < config.theme_word:
                synonyms = theme_words(themes[i])
                first, step = int(4 * u[1]), 1 + int(3 * u[2])
                parts[0] = [synonyms[first]]
                if u[3] < 0.3:
                    parts[0].append(synonyms[(first + step) % 4])
            if u[9] < config.other_scripts:
                parts[0].append(OTHER_SCRIPTS[int(u[10] * len(OTHER_SCRIPTS))])
            if u[4] < config.kind_word:
                nouns = KINDS[kinds[i]]
                parts[1] = [nouns[int(u[5] * len(nouns))]]
            if u[6] < config.hue_word:
                parts[1].insert(0, HUES[hues[i]])
            parts[2] = [brands[brand[i]]]
            parts[3] = [fillers[word] for word in filler[i][: 1 + int(6 * u[7])]]
            words = [word for part in order[i] for word in parts[part]]
            if u[8] < config.long_titles:
                words += [fillers[(filler[i][0] + 37 * n) % NUM_FILLERS] for n in range(LONG)]
            yield " ".join(words)


def _zipf(size: int) -> np.ndarray:
    """Return the cumulative chances of `size` words by rank."""
    chances = 1 / np.arange(2, size + 2)
    return np.cumsum(chances / chances.sum())[:-1]
