"""Claims about the loader: which descriptor fills which slot, and what is read ahead."""

import dataclasses

import numpy as np
import pytest
from jax.sharding import NamedSharding
from raw_folders import number_of
from small import MOST_IMAGES, SIZES, pictures, title

from mufin_jax.data.bags import TEXTS_A_ROW
from mufin_jax.data.loader import Loader
from mufin_jax.data.sources import Sources, Vectors
from mufin_jax.runtime.distributed.mesh import local_rows
from mufin_jax.runtime.distributed.padding import pad_rows, round_up
from mufin_jax.runtime.errors import InputError


def contents(loader, pool, bags, row) -> list:
    """Return a bag in the order of its slots: token ids as tuples, pictures as numbers."""
    found = []
    texts = 0 if pool.texts is None else TEXTS_A_ROW * len(pool.texts.tokens)
    for slot in bags.slots[row][bags.mask[row]]:
        if slot < texts:
            line, place = divmod(slot, TEXTS_A_ROW)
            found.append(tuple(pool.texts.tokens[line][pool.texts.places[line] == place].tolist()))
        else:
            found.append(number_of(pool.images.rows[slot - texts]))
    return found


def count_texts(pool) -> int:
    """Return the number of texts of a pool."""
    return sum(len(set(row[row >= 0].tolist())) for row in pool.texts.places)


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
    loader = Loader(dataset, modalities, devices=mesh_size)
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
    assert (pool.texts is None) == (modalities == "images")
    assert (pool.images is None) == (modalities == "text")


def test_a_pool_holds_distinct_descriptors_once(dataset):
    loader = Loader(dataset)
    train, labels = np.array([4, 5, 4, 20, 21]), np.array([0, 1, 0])
    pool, _ = loader.batch([(dataset.train, train), (dataset.labels, labels)])
    items = [("train", i) for i in train] + [("label", i) for i in labels]
    numbers = {number for item in items for number in pictures(*item)}
    titles = {title(*item) for item in items} - {""}
    shown = [number_of(image) for image in pool.images.rows if image.any()]
    assert sorted(shown) == sorted(numbers)
    assert len(set(pictures("train", 20)) & set(pictures("label", 0))) > 0  # shared between sides
    assert count_texts(pool) == len(titles)


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


def test_bags_of_labels_are_as_wide_as_labels_need(dataset):
    labels = without(dataset.labels, "picture")
    loader = Loader(dataclasses.replace(dataset, labels=labels))
    slots, _ = loader.slots(labels, np.arange(5))
    assert slots.shape == (5, 1)
    for side in (dataset.train, dataset.test):
        assert loader.slots(side, np.arange(5))[0].shape == (5, 1 + MOST_IMAGES)
    only = Loader(dataclasses.replace(dataset, labels=labels), "images")
    slots, mask = only.slots(labels, np.arange(5))
    assert slots.shape == (5, 1) and not mask.any()


@pytest.mark.parametrize("poor", ["train", "test"])
def test_points_of_either_side_show_all_their_pictures(dataset, poor):
    """One side of points has no pictures: the other one, and labels, keep theirs."""
    dataset = dataclasses.replace(dataset, **{poor: without(getattr(dataset, poor), "picture")})
    loader = Loader(dataset, "images")
    for side in (dataset.train, dataset.test, dataset.labels):
        shown = loader.slots(side, np.arange(len(side)))[1].sum(1)
        np.testing.assert_array_equal(shown, np.diff(side.image_offsets))


def test_a_batch_without_any_descriptor_still_has_a_pool(dataset):
    pool, (bags,) = Loader(dataset, "images", devices=8).batch([(dataset.train, np.array([2, 7]))])
    assert not bags.mask.any() and pool.images.rows.shape == (8, 8, 8, 3)


def without(side, kind):
    """Return the side with no titles, or with no pictures."""
    if kind == "title":
        return dataclasses.replace(side, text=np.full_like(side.text, -1))
    return dataclasses.replace(side, image_offsets=np.zeros_like(side.image_offsets))


@pytest.mark.parametrize("modalities, kind", [("text", "title"), ("images", "picture")])
def test_a_model_that_would_see_nothing_of_the_data_is_rejected(dataset, modalities, kind):
    sides = {name: without(getattr(dataset, name), kind) for name in ("train", "test", "labels")}
    Loader(dataclasses.replace(dataset, **sides), "both")
    with pytest.raises(InputError, match=f"no item has a {kind}.*modalities={modalities}"):
        Loader(dataclasses.replace(dataset, **sides), modalities)


def test_pools_are_padded_to_buckets_that_divide_over_the_devices(dataset):
    everything = [(dataset.train, np.arange(SIZES["train"])), (dataset.test, np.arange(11))]
    pool, _ = Loader(dataset, devices=1).batch(everything)
    assert count_texts(pool) == 34 - 1  # 37 less 4 untitled
    assert len(pool.texts.tokens) == round_up(len(pool.texts.tokens)) < 33
    assert len(pool.images.rows) == round_up(len(pool.images.rows))
    pool, _ = Loader(dataset, devices=16).batch(everything)
    assert len(pool.texts.tokens) == 16 and len(pool.images.rows) % 16 == 0


def test_batches_like_those_expected_have_one_shape_and_larger_ones_a_bucket(dataset):
    loader, rng = Loader(dataset, devices=2), np.random.default_rng(3)

    def groups():
        return [(dataset.train, rng.permutation(SIZES["train"])[:22])]

    def shapes(groups):
        pool, (bags,) = loader.batch(groups)
        assert bags.slots[bags.mask].max() < TEXTS_A_ROW * len(pool.texts.tokens) + len(
            pool.images.rows
        )
        return pool.texts.tokens.shape, pool.texts.places.shape, pool.images.rows.shape

    assert len({shapes(groups()) for _ in range(40)}) > 1
    loader = loader.padded_to(loader.usual_sizes(groups() for _ in range(16)))
    usual = {shapes(groups()) for _ in range(40)}
    assert len(usual) == 1
    everything = [(side, np.arange(len(side))) for side in (dataset.train, dataset.labels)]
    pool, _ = loader.batch(everything)
    plain, _ = Loader(dataset, devices=2).batch(everything)
    assert pool.images.rows.shape == plain.images.rows.shape and pool.images.rows.shape not in usual
    # Pictures that are not of a batch, for example to describe items, keep their own size.
    assert len(loader.pictures(np.arange(4))[0].rows) == 4


def test_slots_number_descriptors_over_the_whole_dataset(dataset):
    loader = Loader(dataset)
    slots, mask = loader.slots(dataset.test, np.arange(SIZES["test"]))
    for row in range(SIZES["test"]):
        images = slots[row, 1:][mask[row, 1:]] - loader.num_texts
        assert [number_of(image) for image in dataset.images[images]] == pictures("test", row)
        assert mask[row, 0] == bool(title("test", row))
    assert loader.num_descriptors == len(dataset.texts) + len(dataset.images)


class Asked:
    """Vectors by row that remember which rows were read."""

    def __init__(self, vectors):
        self.vectors, self.rows = vectors, []

    def __len__(self):
        return len(self.vectors)

    def __getitem__(self, rows):
        self.rows += np.asarray(rows).tolist()
        return self.vectors[rows]


@pytest.fixture
def ready(dataset):
    """The data set with ready vectors of texts and images; the first entry of each is its row."""
    rng = np.random.default_rng(6)
    texts = rng.normal(size=(len(dataset.texts), 5)).astype(np.float32)
    images = rng.normal(size=(len(dataset.images), 7)).astype(np.float32)
    texts[:, 0], images[:, 0] = np.arange(len(texts)), np.arange(len(images))
    none = {"texts": dataset.texts[:0], "text_lengths": dataset.text_lengths[:0]}
    return dataclasses.replace(dataset, text_vectors=texts, image_vectors=images, **none)


@pytest.mark.parametrize("modalities", ["both", "text", "images"])
@pytest.mark.parametrize("mesh_size", [1, 8])
def test_ready_vectors_fill_the_slots_that_token_ids_and_pixels_would(
    dataset, ready, modalities, mesh_size
):
    loader, raw = (
        Loader(ready, modalities, devices=mesh_size),
        Loader(dataset, modalities, devices=mesh_size),
    )
    groups = [(dataset.train, np.array([4, 5, 4, 20, 3])), (dataset.labels, np.arange(13))]
    numbers = raw.slots(*groups[0])
    np.testing.assert_array_equal(loader.slots(*groups[0]), numbers)
    pool, bags = loader.batch(groups)
    parts = []
    if modalities != "images":
        assert isinstance(pool.texts, Vectors) and pool.texts.rows.shape[1] == 5
        parts.append(pool.texts.rows[:, 0])
    if modalities != "text":
        parts.append(loader.num_texts + pool.images.rows[:, 0])
    found = np.concatenate(parts)[bags[0].slots]
    np.testing.assert_array_equal(found[bags[0].mask], numbers[0][numbers[1]])


def test_labels_whose_pictures_are_not_to_be_seen_keep_their_texts(dataset):
    loader, seeing = Loader(dataset, label_images=False), Loader(dataset)
    rows = np.arange(SIZES["label"])
    wanted = [part[:, :1] for part in seeing.slots(dataset.labels, rows)]
    np.testing.assert_array_equal(loader.slots(dataset.labels, rows), wanted)
    points = np.arange(SIZES["train"])
    np.testing.assert_array_equal(
        loader.slots(dataset.train, points), seeing.slots(dataset.train, points)
    )
    pool, _ = loader.batch([(dataset.labels, rows)])
    assert not pool.images.rows.any()


@pytest.mark.parametrize("first", [0, 3])
def test_a_process_reads_the_rows_that_its_devices_hold_and_no_others(
    ready, mesh, first, monkeypatch
):
    groups = [(ready.train, np.arange(SIZES["train"])), (ready.labels, np.array([0, 5]))]
    whole, _ = Loader(ready, mesh=mesh).batch(groups)
    texts, images = Asked(ready.text_vectors), Asked(ready.image_vectors)
    # Simulate a mesh of two processes; three of the eight devices belong to this one.
    monkeypatch.setattr(
        "mufin_jax.data.loader.local_rows",
        lambda mesh, size: np.arange(size).reshape(8, -1)[first : first + 3].reshape(-1),
    )
    loader = Loader(ready, mesh=mesh, sources=Sources(Vectors(texts), Vectors(images)))
    part, _ = loader.batch(groups)
    for source, found, wanted in (
        (texts, part.texts.rows, whole.texts.rows),
        (images, part.images.rows, whole.images.rows),
    ):
        held = np.zeros((8, len(wanted) // 8), bool)
        held[first : first + 3] = True
        held = held.reshape(-1)
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        np.testing.assert_array_equal(found[held], wanted[held])
        assert not found[~held].any()
        real = np.abs(wanted).sum(1) > 0
        assert sorted(source.rows) == wanted[held & real][:, 0].astype(int).tolist()


def test_the_rows_of_this_process_are_those_of_its_devices(mesh, monkeypatch):
    np.testing.assert_array_equal(local_rows(mesh, 40), np.arange(40))
    every = NamedSharding.devices_indices_map

    def of_two_devices(sharding, shape):
        held = every(sharding, shape)
        return {device: held[device] for device in (mesh.devices[5], mesh.devices[1])}

    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", of_two_devices)
    assert local_rows(mesh, 24).tolist() == [3, 4, 5, 15, 16, 17]
    assert local_rows(mesh, 0).tolist() == []


def test_a_mesh_of_one_process_and_its_size_read_the_same(dataset, mesh):
    groups = [(dataset.train, np.arange(SIZES["train"]))]
    by_mesh, _ = Loader(dataset, mesh=mesh).batch(groups)
    by_size, _ = Loader(dataset, devices=mesh.size).batch(groups)
    np.testing.assert_array_equal(by_mesh.images.rows, by_size.images.rows)
    np.testing.assert_array_equal(by_mesh.texts.tokens, by_size.texts.tokens)


def test_padding_appends_zeros():
    padded = pad_rows(np.arange(1, 28).reshape(9, 3))
    assert padded.shape == (10, 3) and padded.dtype == int and not padded[9].any()
    np.testing.assert_array_equal(padded[:9], np.arange(1, 28).reshape(9, 3))
    assert pad_rows(np.ones((0, 2)), 8).shape == (8, 2)
