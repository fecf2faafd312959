"""The miniature catalogue's titles: what they name, and what they never name."""

import numpy as np
import pytest

from mufin_jax.data.synthetic import titles as titles_module
from mufin_jax.data.synthetic.catalogue import MiniatureConfig
from mufin_jax.data.synthetic.catalogue_world import make_world


@pytest.fixture(scope="module")
def told():
    """A world and the words of all its titles, in lower case."""
    config = MiniatureConfig()
    world = make_world(config, np.random.default_rng(0))
    titles = list(titles_module.titles(config, world, np.random.default_rng(1)))
    return world, [title.lower().split() for title in titles]


def test_invented_words_are_distinct_and_differ_from_all_real_words():
    number = titles_module.NUM_BRANDS + titles_module.NUM_FILLERS + 4 * 2000
    invented = {titles_module.invented_word(n) for n in range(number)}
    assert len(invented) == number
    meant = [word for words in titles_module.THEMES.values() for word in words.split()]
    meant += [word for words in titles_module.KINDS for word in words] + list(titles_module.HUES)
    assert len(set(meant)) == len(meant)
    assert not invented & set(meant)


@pytest.mark.parametrize(
    ("attribute", "vocabulary", "share"),
    [
        ("theme", [titles_module.theme_words(theme) for theme in range(20)], 0.96),
        ("kind", titles_module.KINDS, 0.5),
        ("hue", [[hue] for hue in titles_module.HUES], 0.15),
    ],
)
def test_titles_name_attributes_at_the_stated_rate_and_never_wrongly(
    told, attribute, vocabulary, share
):
    world, titles = told
    named = []
    for words, value in zip(titles, getattr(world, attribute), strict=True):
        found = {n for n, synonyms in enumerate(vocabulary) if set(words) & set(synonyms)}
        assert found <= {value}
        if words:
            named.append(bool(found))
    assert np.mean(named) == pytest.approx(share, abs=0.03)


def test_all_synonyms_of_a_theme_are_used_and_some_titles_use_two(told):
    world, titles = told
    two = 0
    for theme in range(20):
        synonyms = set(titles_module.theme_words(theme))
        used = [synonyms & set(titles[p]) for p in np.flatnonzero(world.theme == theme)]
        assert set.union(*used) == synonyms and max(map(len, used)) == 2
        two += sum(len(words) == 2 for words in used)
    assert two / len(titles) == pytest.approx(0.3 * 0.96 * 0.95, abs=0.03)


def test_the_word_of_the_theme_has_no_fixed_position(told):
    world, titles = told
    short = [(w, t) for w, t in zip(titles, world.theme.tolist(), strict=True) if 4 <= len(w) < 10]
    places = [w.index(x) / len(w) for w, t in short for x in titles_module.theme_words(t) if x in w]
    assert np.ptp(places) > 0.8 and 0.3 < np.mean(places) < 0.6


def test_a_title_is_empty_exactly_if_the_product_has_no_text(told):
    world, titles = told
    np.testing.assert_array_equal([bool(words) for words in titles], world.has_text)


def test_some_titles_are_very_long_and_some_in_other_scripts(told):
    _, titles = told
    assert 20 <= sum(len(words) > titles_module.LONG for words in titles) <= 60
    assert 20 <= sum(not "".join(words).isascii() for words in titles) <= 60
