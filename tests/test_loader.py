"""Claims about the loader: which descriptor fills which slot, and what is read ahead."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from raw_folders import number_of
from small import MOST_IMAGES, SIZES, pictures, title

from mufin_jax.data.loader import Loader, pad_rows, pad_texts, prefetch
from mufin_jax.errors import InputError


def contents(loader, pool, bags, row) -> list:
    """What a bag holds, in the order of its slots: token ids as tuples, pictures as numbers."""
    found = []
    texts = 0 if pool.tokens is None else len(pool.tokens)
    for slot in bags.slots[row][bags.mask[row]]:
        if slot < texts:
            found.append(tuple(pool.tokens[slot][: pool.lengths[slot]].tolist()))
        else:
            found.append(number_of(pool.images[slot - texts]))
    return found


def expected(dataset, side, row, modalities="both") -> list:
    text = title(side, row) if modalities != "images" else ""
    ids, lengths = dataset.tokenizer.encode([text], 8)
    tokens = [tuple(ids[0, : lengths[0]].tolist())] if text else []
    return tokens + (pictures(side, row) if modalities != "text" else [])


@pytest.mark.parametrize("modalities", ["both", "text", "images"])
@pytest.mark.parametrize("mesh_size", [1, 8])
def test_every_slot_of_shuffled_and_repeated_items_holds_its_own_descriptor(
    dataset, modalities, mesh_size
):
    loader = Loader(dataset, modalities, mesh_size)
    rng = np.random.default_rng(0)
    train = rng.permutation(np.repeat(np.arange(SIZES["train"]), 2))
    labels = rng.permutation(SIZES["label"])
    groups = [(dataset.train, train), (dataset.labels, labels)]
    pool, (train_bags, label_bags) = loader.batch(groups)
    for side, rows, bags in (("train", train, train_bags), ("label", labels, label_bags)):
        assert bags.slots.shape == (
            len(rows),
            (modalities != "images") + MOST_IMAGES * (modalities != "text"),
        )
        for place, row in enumerate(rows):
            wanted = expected(dataset, side, row, modalities)
            assert contents(loader, pool, bags, place) == wanted
    assert (pool.tokens is None) == (modalities == "images")
    assert (pool.images is None) == (modalities == "text")


def test_a_pool_holds_distinct_descriptors_once(dataset):
    loader = Loader(dataset)
    train, labels = np.array([4, 5, 4, 20, 21]), np.array([0, 1, 0])
    pool, _ = loader.batch([(dataset.train, train), (dataset.labels, labels)])
    items = [("train", i) for i in train] + [("label", i) for i in labels]
    numbers = {number for item in items for number in pictures(*item)}
    titles = {title(*item) for item in items} - {""}
    shown = [number_of(image) for image in pool.images if image.any()]
    assert sorted(shown) == sorted(numbers)
    assert len(set(pictures("train", 20)) & set(pictures("label", 0))) > 0  # shared between sides
    assert np.count_nonzero(pool.lengths) == len(titles)


def test_items_without_a_text_or_without_images_have_shorter_bags(dataset):
    loader = Loader(dataset)
    rows = np.array([3, 2, 1])  # no title; no picture; both
    assert (title("train", 3), pictures("train", 2)) == ("", [])
    _, (bags,) = loader.batch([(dataset.train, rows)])
    real = [[False, True, False, False], [True, False, False, False], [True, True, True, False]]
    assert bags.mask.tolist() == real
    assert not bags.slots[~bags.mask].any()
    _, (bags,) = loader.batch([(dataset.train, np.array([3]))])  # no text at all
    assert not bags.slots[~bags.mask].any()


def test_a_batch_without_any_descriptor_still_has_a_pool(dataset):
    pool, (bags,) = Loader(dataset, "images", 8).batch([(dataset.train, np.array([2, 7]))])
    assert not bags.mask.any() and pool.images.shape == (8, 8, 8, 3)


def without(side, kind):
    """The side, no item of which has a title, or a picture."""
    if kind == "title":
        return dataclasses.replace(side, text=np.full_like(side.text, -1))
    return dataclasses.replace(side, image_offsets=np.zeros_like(side.image_offsets))


@pytest.mark.parametrize("modalities, kind", [("text", "title"), ("images", "picture")])
def test_a_model_that_would_see_nothing_of_the_data_is_refused(dataset, modalities, kind):
    sides = {name: without(getattr(dataset, name), kind) for name in ("train", "test", "labels")}
    Loader(dataclasses.replace(dataset, **sides), "both")
    with pytest.raises(InputError, match=f"no item has a {kind}.*modalities={modalities}"):
        Loader(dataclasses.replace(dataset, **sides), modalities)


def test_pools_are_padded_to_buckets_that_divide_over_the_devices(dataset):
    everything = [(dataset.train, np.arange(SIZES["train"])), (dataset.test, np.arange(11))]
    pool, _ = Loader(dataset, mesh_size=1).batch(everything)
    assert len(pool.tokens) == 40 and np.count_nonzero(pool.lengths) == 34 - 1  # 37 less 4 untitled
    pool, _ = Loader(dataset, mesh_size=16).batch(everything)
    assert len(pool.tokens) == 48 and len(pool.images) % 16 == 0


def test_slots_speak_in_numbers_of_the_whole_dataset(dataset):
    loader = Loader(dataset)
    slots, mask = loader.slots(dataset.test, np.arange(SIZES["test"]))
    for row in range(SIZES["test"]):
        images = slots[row, 1:][mask[row, 1:]] - loader.num_texts
        assert [number_of(image) for image in dataset.images[images]] == pictures("test", row)
        assert mask[row, 0] == bool(title("test", row))
    assert loader.num_descriptors == len(dataset.texts) + len(dataset.images)


def test_padding_adds_zeros_behind():
    padded = pad_rows(np.arange(1, 28).reshape(9, 3))
    assert padded.shape == (10, 3) and padded.dtype == int and not padded[9].any()
    np.testing.assert_array_equal(padded[:9], np.arange(1, 28).reshape(9, 3))
    assert pad_rows(np.ones((0, 2)), 8).shape == (8, 2)


@pytest.mark.parametrize("longest, width", [(1, 8), (8, 8), (9, 16), (24, 24)])
def test_texts_are_cut_to_the_longest_in_steps_of_eight(longest, width):
    tokens = np.ones((3, 32), np.int32)
    cut, lengths = pad_texts(tokens, np.array([1, longest, 0], np.int32), 1)
    assert cut.shape == (8, width) and lengths.tolist() == [1, longest, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("threads", [1, 3])
def test_what_is_made_ahead_is_what_direct_calls_make_in_order(dataset, threads):
    loader = Loader(dataset)

    def make(step):
        rows = np.random.default_rng([5, step]).permutation(SIZES["train"])[:6]
        time.sleep(0.01 * (step % 3))  # later ones are done earlier
        return step, loader.batch([(dataset.train, rows)])

    steps = list(prefetch(make, 3, 12, threads))
    assert [step for step, _ in steps] == list(range(3, 12))
    for step, (pool, (bags,)) in steps:
        _, (direct, (direct_bags,)) = make(step)
        np.testing.assert_array_equal(pool.tokens, direct.tokens)
        np.testing.assert_array_equal(pool.images, direct.images)
        np.testing.assert_array_equal(bags.slots, direct_bags.slots)
        np.testing.assert_array_equal(bags.mask, direct_bags.mask)


def test_batches_are_made_ahead_of_use_by_other_threads():
    made = []
    steps = prefetch(lambda step: made.append((step, threading.get_ident())) or step, 0, 6, 2)
    assert next(steps) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(made) >= 3 and threading.get_ident() not in {thread for _, thread in made}
    assert list(steps) == [1, 2, 3, 4, 5]


def test_an_error_in_a_batch_reaches_the_loop():
    def make(step):
        if step == 2:
            raise FileNotFoundError("gone")
        return step

    steps = prefetch(make, 0, 5)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(FileNotFoundError, match="gone"):
        next(steps)


def test_nothing_is_made_of_an_empty_range():
    assert list(prefetch(lambda step: 1 / 0, 4, 4)) == []
