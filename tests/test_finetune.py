"""Claims about Module IV: its batches, and its step on one device, on eight, and on many labels."""

import dataclasses
import gc
import re

import jax
import numpy as np
import optax
import pytest
from flax import nnx
from scipy import sparse
from small import SIZES, new_model, relevant, weights

from mufin_jax import classifiers
from mufin_jax.artefacts import save_model
from mufin_jax.checkpoint import Checkpoints
from mufin_jax.data.loader import Loader
from mufin_jax.errors import InputError
from mufin_jax.optimizer import OptimizerConfig, trains
from mufin_jax.prediction import Predictor
from mufin_jax.shortlist import Shortlist
from mufin_jax.stages import finetune as stage
from mufin_jax.stages.finetune import Batches, FinetuneConfig, finetune, make_step, place

CONFIG = FinetuneConfig(
    batch_size=8,
    negatives=3,
    margin=-0.5,  # so that negatives push in a random model, too
    optimizer=OptimizerConfig(text_encoder="frozen", table_rate=0.05, warmup=0),
)
L, DIM = SIZES["label"], 6
TABLE = 1024
MANY = 65_536


def shortlists(seed=0) -> Shortlist:
    """All labels but two for every training point, in any order."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(L)[:11] for _ in range(SIZES["train"])]).astype(np.int32)
    labels[:, 9:] = -1
    return Shortlist(labels, np.zeros(labels.shape, np.float32))


def batches(dataset, config=CONFIG, devices=8, seed=0, lists=None):
    loader = Loader(dataset, "both", devices)
    return Batches(config, dataset, loader, lists or shortlists(), seed)


@dataclasses.dataclass
class Stage:
    """A model about to be trained, and its step."""

    dataset: object
    mesh: object
    config: FinetuneConfig = CONFIG

    def __post_init__(self):
        model = new_model(self.dataset, self.mesh)
        self.before = weights(model)
        wanted = trains(self.config.optimizer, model.depths(), cross=True)
        self.graphdef, train, frozen = nnx.split(model, wanted, ...)
        self.train, self.frozen = nnx.to_pure_dict(train), nnx.to_pure_dict(frozen)
        # Plain gradient descent: Adam would blow up the rounding of vanishing gradients.
        optimizer = optax.sgd(0.1)
        self.opt = optimizer.init(self.train)
        self.step = make_step(self.config, self.graphdef, optimizer, 100, self.mesh)
        self.batches = batches(self.dataset, self.config, self.mesh.size)

    def state(self, table):
        return {"train": self.train, "opt": self.opt, "table": table}

    def run(self):
        table = classifiers.initialize(jax.random.key(0), L, DIM, self.mesh)
        self.table_before = jax.tree.map(np.array, table)
        # Donated buffers must not be those that a caller still holds.
        state, self.metrics = jax.tree.map(lambda leaf: leaf.copy(), self.state(table)), []
        self.donated = state["table"]
        for i in range(3):
            state, values = self.step(state, self.frozen, place(self.batches(i), self.mesh))
            self.metrics.append(jax.tree.map(float, values))
        self.after = weights(nnx.merge(self.graphdef, state["train"], self.frozen))
        self.table_after = jax.tree.map(np.array, state["table"])
        return self


@pytest.fixture(scope="module")
def eight(dataset, mesh):
    return Stage(dataset, mesh).run()


def test_eight_devices_learn_what_one_does(dataset, one_device, eight):
    one = Stage(dataset, one_device).run()
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5) and a["loss"] > 0
        assert a["cosine"] == pytest.approx(b["cosine"], abs=1e-5)
    for name, weight in eight.after.items():
        np.testing.assert_allclose(weight, one.after[name], atol=1e-5, err_msg=name)
    moved = max(np.abs(eight.after[name] - eight.before[name]).max() for name in eight.after)
    assert moved > 0.01
    rows = jax.tree.map(np.subtract, eight.table_after.rows, one.table_after.rows)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(rows)) < 1e-5


def test_a_batch_that_does_not_divide_over_the_devices_teaches_what_it_does_on_one(
    dataset, mesh, one_device
):
    config = dataclasses.replace(CONFIG, batch_size=11)
    eight, one = (Stage(dataset, devices, config).run() for devices in (mesh, one_device))
    for a, b in zip(eight.metrics, one.metrics, strict=True):
        assert a == pytest.approx(b, abs=1e-5)
    rows = jax.tree.map(np.subtract, eight.table_after.rows, one.table_after.rows)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(rows)) < 1e-5


def test_the_loss_of_a_step_is_the_sum_worked_out_pair_by_pair(eight):
    model = nnx.merge(eight.graphdef, eight.train, eight.frozen)
    batch = place(eight.batches(0), eight.mesh)

    @jax.jit
    def embed(model, batch):
        vectors = model.describe(batch.pool)
        return model.embed(vectors, batch.points), model.embed(vectors, batch.labels)

    # By hand means on one device: many small programs over eight can starve each other.
    points, labels = jax.device_get(embed(model, batch))
    attend = jax.jit(jax.device_get(model.cross_attention))
    rows, total = eight.table_before.rows, 0.0
    chosen, ids = np.array(batch.chosen), np.array(batch.ids)
    for i, k in zip(*np.nonzero(np.array(batch.positives | batch.negatives)), strict=True):
        label = chosen[i, k]
        x2 = attend(points.bag[i], labels.bag[label], labels.mask[label])
        x2 = np.array(x2)[points.mask[i]].sum(0)
        eta, alpha = rows.eta[ids[label]], rows.alpha[ids[label]]
        w = alpha * np.array(labels.vector[label]) + (1 - alpha) * eta / np.linalg.norm(eta)
        cosine = x2 @ w / np.linalg.norm(x2) / np.linalg.norm(w)
        total += 1 - cosine if batch.positives[i, k] else max(cosine - eight.config.margin, 0)
    assert eight.metrics[0]["loss"] == pytest.approx(total / len(chosen), abs=1e-5)


def test_frozen_weights_keep_every_bit_and_the_others_learn(eight):
    frozen = {
        name
        for name in eight.before
        if name.startswith("text_encoder")
        or (
            name.startswith("image_encoder")
            and not name.startswith(("image_encoder/blocks/1", "image_encoder/norm"))
        )
    }
    for name, weight in eight.before.items():
        same = np.array_equal(weight, eight.after[name])
        # A key's bias adds the same to all of a row's logits, so its gradient vanishes.
        assert same == (name in frozen) or name.endswith("key/bias"), name


def test_only_rows_of_drawn_labels_learn_and_alpha_learns_too(eight):
    drawn = np.unique(np.concatenate([eight.batches(i).ids for i in range(3)]))
    drawn = drawn[drawn < L]
    before, after = eight.table_before.rows, eight.table_after.rows
    changed = (before.eta != after.eta).any(1)
    assert set(np.flatnonzero(changed)) <= set(drawn) and changed.sum() >= L - 2
    assert set(np.flatnonzero(before.alpha != after.alpha)) <= set(drawn)
    assert (before.alpha != after.alpha).sum() >= L - 2 and eight.table_after.steps == 3


def test_the_table_is_donated_to_the_step(eight):
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(eight.donated.rows))


def compiled(stage, num_labels):
    """The step compiled for a table of so many labels, which is never made."""
    table = classifiers.abstract(num_labels, DIM, stage.mesh)
    batch = place(stage.batches(0), stage.mesh)
    return stage.step.lower(stage.state(table), stage.frozen, batch).compile()


def test_a_step_costs_what_its_rows_cost_however_many_labels_there_are(eight):
    few, many = compiled(eight, 2048), compiled(eight, MANY)
    sizes = [one.memory_analysis() for one in (few, many)]
    # One array of the smallest kind, a float for each of a device's rows, would be seen.
    growth = sizes[1].temp_size_in_bytes - sizes[0].temp_size_in_bytes
    assert growth < 4 * (MANY - 2048) / 8 / 2
    # eta and alpha with two moments each, in place on every device.
    grown_table = 3 * (DIM + 1) * 4 * (MANY - 2048) / 8
    assert sizes[1].alias_size_in_bytes - sizes[0].alias_size_in_bytes == grown_table
    text = many.as_text()
    assert not re.search(rf"\[(\d+,)*{MANY}(,\d+)*\]", text)  # the whole table, nowhere
    collectives = re.findall(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute)", text)
    assert collectives
    for shapes, name in collectives:
        assert not re.search(rf"\b{MANY // 8}\b", shapes), (name, shapes)


def test_without_a_table_the_step_learns_the_model_alone(eight):
    state = {"train": eight.train, "opt": eight.opt}
    batch = place(eight.batches(0), eight.mesh)
    new, metrics = jax.eval_shape(eight.step, state, eight.frozen, batch)
    assert set(new) == {"train", "opt"} and metrics["loss"].shape == ()


def labels_of(batch, mask):
    """For each datapoint, the label ids that a mask shows."""
    return [batch.ids[row[real]] for row, real in zip(batch.chosen, mask, strict=True)]


def points_of(make, step):
    epoch, index = divmod(step, make.per_epoch)
    return np.take(make._order(epoch), index * make.size + np.arange(make.size), mode="wrap")


def test_positives_are_relevant_and_negatives_are_listed_but_not_relevant(dataset):
    make, lists = batches(dataset), shortlists()
    for step in range(4):
        batch, points = make(step), points_of(make, step)
        likes, others = labels_of(batch, batch.positives), labels_of(batch, batch.negatives)
        for point, liked, other in zip(points, likes, others, strict=True):
            assert set(liked) <= set(relevant(point)) and len(set(liked)) == len(liked)
            assert len(liked) == min(2, len(relevant(point)))
            allowed = set(lists.labels[point]) - set(relevant(point)) - {-1}
            assert set(other) <= allowed and len(set(other)) == len(other) == min(3, len(allowed))


def test_bags_of_a_batch_are_those_of_its_points_and_labels(dataset):
    make = batches(dataset)
    batch, points = make(1), points_of(make, 1)
    pool, (point_bags, label_bags) = make.loader.batch(
        [(dataset.train, points), (dataset.labels, batch.ids[batch.ids < L])]
    )
    real = batch.ids < L
    np.testing.assert_array_equal(batch.points.slots, point_bags.slots)
    np.testing.assert_array_equal(batch.labels.slots[real], label_bags.slots)
    np.testing.assert_array_equal(batch.labels.mask[real], label_bags.mask)
    np.testing.assert_array_equal(batch.pool.images, pool.images)


def test_label_ids_are_distinct_and_pads_lie_beyond_the_table(dataset):
    for devices in (1, 8):
        ids = batches(dataset, devices=devices)(0).ids
        assert len(set(ids)) == len(ids) and len(ids) % devices == 0
        assert (ids < L).sum() > 8 and (ids[ids >= L] >= TABLE).all() and (ids >= L).any()


def test_pairs_of_the_overlap_filter_are_neither_positives_nor_negatives(dataset):
    overlap = np.zeros((SIZES["train"], L), np.float32)
    overlap[:, [1, 6]] = 1
    train = dataclasses.replace(dataset.train, filter=sparse.csr_matrix(overlap))
    make = batches(dataclasses.replace(dataset, train=train))
    for step in range(4):
        assert not {1, 6} & set(make(step).ids.tolist())


def test_the_best_negative_can_be_left_out(dataset):
    lists = shortlists()
    config = dataclasses.replace(CONFIG, drop_best=True, negatives=12)
    for drop, make in ((True, batches(dataset, config)), (False, batches(dataset))):
        best_drawn = 0
        for step in range(4):
            batch = make(step)
            others = labels_of(batch, batch.negatives)
            for point, other in zip(points_of(make, step), others, strict=True):
                best = next(x for x in lists.labels[point] if x not in relevant(point))
                best_drawn += best in other
        assert (best_drawn == 0) == drop


def test_nearly_all_batches_of_a_training_have_one_shape(dataset):
    make = batches(dataset, dataclasses.replace(CONFIG, batch_size=24), devices=1)
    assert len({str(jax.tree.map(np.shape, make(step))) for step in range(60)}) == 1


def test_a_batch_is_a_function_of_seed_and_step_alone(dataset):
    first, second, other = batches(dataset), batches(dataset), batches(dataset, seed=1)
    second(7)
    jax.tree.map(np.testing.assert_array_equal, first(4), second(4))
    assert (points_of(first, 0) != points_of(other, 0)).any()
    assert set(np.concatenate([points_of(first, i) for i in range(4)])) == set(range(26))


def test_negatives_drawn_from_a_mapped_shortlist_are_those_drawn_from_memory(dataset, tmp_path):
    shortlists().save(tmp_path)
    mapped, held = batches(dataset, lists=Shortlist.load(tmp_path)), batches(dataset)
    jax.tree.map(np.testing.assert_array_equal, mapped(3), held(3))


def test_the_moments_are_gone_when_the_label_side_is_written(
    dataset, one_device, tmp_path, monkeypatch
):
    model = new_model(dataset, one_device)
    save_model(model, tmp_path / "initialize" / "model")
    table = classifiers.initialize(jax.random.key(0), L, DIM, one_device)
    Checkpoints(tmp_path / "initialize" / "table").save(0, table, {})
    shortlists().save(tmp_path / "retrieve" / "train")
    del model, table

    def tables() -> int:
        gc.collect()
        held = (array for array in jax.live_arrays() if array.shape == (TABLE, DIM))
        return len({array.unsafe_buffer_pointer() for array in held})

    before, during = tables(), []

    def write(folder, model, rows, *rest):
        during.append(tables())
        assert rows.eta.shape == (TABLE, DIM)

    monkeypatch.setattr(Predictor, "write", write)
    monkeypatch.setattr(stage, "fit", lambda state, *rest, **options: state)  # training is not it
    monkeypatch.setattr(stage, "describe_once", lambda model, loader, path: path.touch())
    (tmp_path / "finetune").mkdir()
    finetune(
        dataclasses.replace(CONFIG, epochs=1), dataset.path, tmp_path / "retrieve",
        tmp_path / "initialize", tmp_path / "finetune", one_device, 0, tmp_path / "kept",
    )  # fmt: skip
    assert during == [before + 1]  # eta, without its two moments
    assert not (tmp_path / "finetune" / "vectors.npy").exists()  # the images' encoder has trained


def test_a_batch_is_the_same_on_any_number_of_devices_but_for_rows_that_mean_nothing(dataset):
    config = dataclasses.replace(CONFIG, batch_size=11)
    one, eight = (batches(dataset, config, devices) for devices in (1, 8))
    assert one.per_epoch == eight.per_epoch
    one, eight = one(3), eight(3)
    assert eight.positives.shape == (16, CONFIG.positives + CONFIG.negatives)
    for name in ("chosen", "positives", "negatives"):
        np.testing.assert_array_equal(getattr(eight, name)[:11], getattr(one, name))
        assert name == "chosen" or not getattr(eight, name)[11:].any()


def test_more_devices_than_points_share_what_there_is(dataset):
    batch = batches(dataset, dataclasses.replace(CONFIG, batch_size=200), 27)(0)
    assert len(batch.points.mask) == 27 and batch.positives.any(1).sum() == 26


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"negatives": 0}, {"margin": 1.0}])
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(InputError, match=f"finetune.{next(iter(wrong))}="):
        FinetuneConfig(**wrong)
