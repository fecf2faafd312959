"""No two random draws of a run share an address."""

import re
from pathlib import Path

import jax
import numpy as np

import mufin_jax
from mufin_jax.runtime.draws import Draw, generator, key, sequence

ROOT = Path(mufin_jax.__file__).parent
OWN_HOMES = {"runtime/draws.py", "data/synthetic", "prediction/warming.py"}
"""Who may make generators: the last one only warms a program up with any numbers."""


def test_addresses_that_numpy_would_fill_up_with_zeros_differ():
    addresses = [
        (draw, *numbers)
        for draw in Draw
        for numbers in ((), (0,), (1,), (3,), (3, 0), (3, 1), (0, 3), (2**32,))
    ]
    states = [
        tuple(sequence(seed, *address).generate_state(4))
        for seed in (0, 1, 2**31 - 1)
        for address in addresses
    ]
    assert len(set(states)) == len(states)


def test_a_resumed_run_draws_what_it_would_have_drawn():
    drawn = generator(3, Draw.FINETUNE_BATCH, 7).random(4)
    np.testing.assert_array_equal(generator(3, Draw.FINETUNE_BATCH, 7).random(4), drawn)


def test_draws_are_those_of_all_later_versions():
    drawn = generator(0, Draw.PRETRAIN_BATCH, 3).integers(1000, size=4)
    assert drawn.tolist() == [890, 266, 819, 897]
    assert [draw.value for draw in Draw] == list(range(1, len(Draw) + 1))


def test_keys_of_one_kind_are_not_those_of_another():
    keys = [key(seed, draw) for seed in (0, 1) for draw in Draw]
    keys += [jax.random.fold_in(key(0, draw), step) for draw in Draw for step in range(20)]
    found = {tuple(np.ravel(jax.random.key_data(one)).tolist()) for one in keys}
    assert len(found) == len(keys)


def test_nobody_makes_a_generator_without_an_address():
    made = re.compile(r"default_rng\(|SeedSequence\(|random\.key\(seed|RandomState\(")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if made.search(path.read_text(encoding="utf-8"))
    }
    strangers = [name for name in found if not any(name.startswith(own) for own in OWN_HOMES)]
    assert not strangers


def test_each_draw_has_one_place_in_the_library():
    """A second place would draw the same bits for another purpose."""
    named = re.compile(r"\bDraw\.([A-Z_]{2,})\b")
    found = [
        name
        for path in ROOT.rglob("*.py")
        if path.name != "draws.py"
        for name in named.findall(path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(draw.name for draw in Draw)
