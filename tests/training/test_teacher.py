"""The teacher of Module I: whose vectors it has, its loss, and what the student takes over."""

import dataclasses
import logging
import shutil

import jax
import jax.numpy as jnp
import minute
import numpy as np
import optax
import pytest
from small import SIZES, new_model

from experiments import recipe_ablations
from experiments.recipe_ablations import RecipeAblations
from mufin_jax.data.dataset import Dataset
from mufin_jax.data.loader import Loader
from mufin_jax.pipeline.cli import main, parse
from mufin_jax.pipeline.run import run
from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.runtime.errors import InputError, Stopped
from mufin_jax.runtime.signals import stop_requested
from mufin_jax.training import loop
from mufin_jax.training.losses import relation_loss
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.pretrain_batches import Batches
from mufin_jax.training.pretrain_config import PretrainConfig
from mufin_jax.training.pretrain_step import make_step
from mufin_jax.training.setup import TrainState, split
from mufin_jax.training.teacher import ROWS, VECTORS, Teacher, _centred

CONFIG = PretrainConfig(
    loss="softmax", batch_size=7, hard_limit=1.0, temperature=0.3, random_others=3,
    batches_over="points", optimizer=OptimizerConfig(text_encoder="frozen", image_encoder="frozen"),
    teacher="v", teacher_weight=20.0,
)  # fmt: skip
WIDTH = 5
HAVE = [f"train{i}" for i in range(26) if i != 4] + [f"label{i}" for i in range(0, 13, 2)]
"""The items that have a vector; train7 has two, and there is one of another item."""


def write(folder, name="v", ids=(*HAVE, "train7", "other")):
    folder.mkdir(exist_ok=True)
    vectors = np.random.default_rng(3).normal(size=(len(ids), WIDTH)).astype(np.float16)
    np.save(folder / f"{name}.npy", vectors)
    (folder / f"{name}.ids.txt").write_text("".join(f"{uid}\n" for uid in ids))
    return folder / name


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return Teacher.load(write(folder), dataset, folder)


def test_the_loss_is_the_divergence_from_the_teachers_distribution_over_the_others():
    rng = np.random.default_rng(0)
    ours, theirs = (rng.uniform(-1, 1, (5, 5)).astype(np.float32) for _ in range(2))
    loss = jax.jit(relation_loss, static_argnums=3)
    counted = np.array([True, True, False, True, True])
    wanted = np.zeros(5)
    for i in np.flatnonzero(counted):
        others = [j for j in np.flatnonzero(counted) if j != i]
        p, q = (np.exp(some[i, others] / 0.3) for some in (theirs, ours))
        p, q = p / p.sum(), q / q.sum()
        wanted[i] = (p * np.log(p / q)).sum()
    np.testing.assert_allclose(loss(ours, theirs, counted, 0.3), wanted, atol=1e-5)
    shifted = theirs + ours[:, :1]  # one number an item changes no distribution
    np.testing.assert_allclose(loss(shifted, theirs, counted, 0.3), 0, atol=1e-5)


def test_its_gradient_pulls_vectors_to_the_teachers_relations():
    rng = np.random.default_rng(1)
    theirs, x = (rng.normal(size=(8, 4)).astype(np.float32) for _ in range(2))
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    goal, counted = jnp.array(theirs @ theirs.T), np.arange(8) != 3

    @jax.jit
    def pulled(x):
        def loss(x):
            unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
            return relation_loss(unit @ unit.T, goal, jnp.array(counted), 0.3).sum()

        value, gradient = jax.value_and_grad(loss)(x)
        return x - 0.1 * gradient, value

    first, before = x, pulled(x)[1]
    for _ in range(300):
        x, after = pulled(x)
    assert after < 0.01 * before
    np.testing.assert_array_equal(x[3], first[3])  # it has no vector of the teacher


@pytest.mark.parametrize("some", [[], [2]])
def test_without_other_items_there_is_no_loss_and_its_gradient_is_zero(some):
    counted = np.isin(np.arange(4), some)

    def loss(ours, theirs, counted):
        return relation_loss(ours, theirs, counted).sum()

    ones = np.ones((4, 4), np.float32)
    value, gradient = jax.jit(jax.value_and_grad(loss))(ones, ones, counted)
    assert value == 0 and not gradient.any()


def test_a_teacher_has_the_vectors_of_points_and_labels_by_id_without_their_mean(
    dataset, tmp_path, caplog
):
    path = write(tmp_path)
    with caplog.at_level(logging.WARNING):
        teacher = Teacher.load(path, dataset, tmp_path)
    wanted = "7 of 39 training points and labels have no teacher vector; the first one is 'train4'"
    assert wanted in caplog.text
    given = np.load(f"{path}.npy").astype(np.float64)
    wanted = dict(zip(HAVE, given, strict=False))
    wanted["train7"] = given[[7 - 1, len(HAVE)]].mean(0)
    mean = np.mean(list(wanted.values()), 0)
    for side, name in (("train", "train"), ("label", "label")):
        for item in range(SIZES[name]):
            (found,) = teacher.of(side, np.array([item]), np.array([True]))
            whole = wanted.get(f"{name}{item}", mean) - mean
            whole /= max(np.linalg.norm(whole), 1e-9)
            np.testing.assert_allclose(found, whole, atol=1e-6)
            assert not teacher.of(side, np.array([item]), np.array([False])).any()


def test_a_vector_that_is_the_mean_but_for_rounding_has_no_direction():
    found = _centred(np.array([[3.0, 4.0 + 1e-7], [3.0, 5.0]]), np.array([3.0, 4.0]))
    assert found.tolist() == [[0, 0], [0, 1]]


def test_a_resumed_run_reads_its_copy_of_the_vectors(dataset, tmp_path):
    path = write(tmp_path / "given")
    first = Teacher.load(path, dataset, tmp_path)
    shutil.rmtree(path.parent)
    again = Teacher.load(path, dataset, tmp_path)
    np.testing.assert_array_equal(again.vectors, first.vectors)
    np.testing.assert_array_equal(again.rows["label"], first.rows["label"])
    np.save(tmp_path / ROWS, np.zeros(5, np.int32))
    with pytest.raises(
        InputError, match=r"teacher_rows.npy: 5 rows, expected 39; make it again by --redo"
    ):
        Teacher.load(path, dataset, tmp_path)


def test_a_copy_that_was_not_completed_is_made_again(dataset, tmp_path):
    path = write(tmp_path)
    first = Teacher.load(path, dataset, tmp_path).vectors.copy()
    (tmp_path / ROWS).unlink()
    (tmp_path / VECTORS).write_bytes(b"torn")
    np.testing.assert_array_equal(Teacher.load(path, dataset, tmp_path).vectors, first)


@pytest.mark.parametrize("over", ["labels", "points"])
def test_a_batch_has_each_items_vector_once(dataset, teacher, over):
    config = dataclasses.replace(CONFIG, batches_over=over)
    make = Batches(config, dataset, Loader(dataset, "both", devices=8), 0, teacher)
    plain = Batches(config, dataset, Loader(dataset, "both", devices=8), 0)
    for step in range(3):
        anchors, others, real = make._draw(step)
        batch = make(step)
        sides = [(anchors, np.arange(8) < 7), (others, real)]
        (labels, points) = sides if over == "labels" else sides[::-1]
        for found, side, (items, counted) in zip(
            batch.teacher, ("label", "train"), (labels, points), strict=True
        ):
            seen = set()
            for vector, item, counts in zip(found, items, counted, strict=True):
                first = counts and item not in seen
                wanted = teacher.of(side, np.array([item]), np.array([first]))[0]
                np.testing.assert_array_equal(vector, wanted)
                seen |= {item} if counts else set()
            assert found.any()
        without = plain(step)
        assert without.teacher is None
        same = dataclasses.replace(batch, teacher=None)
        for a, b in zip(*map(jax.tree.leaves, (same, without)), strict=True):
            np.testing.assert_array_equal(a, b)


def trained(dataset, mesh, *teachers, steps=40):
    """Steps by plain gradient descent on one batch, for each teacher; the metrics of all steps."""
    graphdef, train, frozen = split(new_model(dataset, mesh), CONFIG.optimizer, cross=False)
    optimizer, found = optax.sgd(0.003), []
    step = make_step(CONFIG, graphdef, optimizer)
    for teacher in teachers:
        make = Batches(CONFIG, dataset, Loader(dataset, "both", devices=mesh.size), 0, teacher)
        state = jax.tree.map(lambda leaf: leaf.copy(), train)
        state, metrics = TrainState(opt=optimizer.init(state), train=state), []
        batch = put(make(0), by_row(mesh))
        for _ in range(steps):
            state, values = step(state, frozen, batch)
            metrics.append(jax.tree.map(float, values))
        found.append(metrics)
    return found


@pytest.mark.rotates("one and eight", every=3)
def test_a_step_learns_from_the_teacher_on_one_device_and_on_eight(
    dataset, mesh, one_device, teacher
):
    unknown = dataclasses.replace(teacher, rows={s: -1 + 0 * r for s, r in teacher.rows.items()})
    one, alone = trained(dataset, one_device, teacher, unknown)
    (eight,) = trained(dataset, mesh, teacher, steps=2)
    for a, b in zip(eight, one[:2], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    learned = [values["teacher"] for values in one[::10]]
    assert learned == sorted(learned, reverse=True) and learned[-1] < learned[0] - 0.02
    assert {values["teacher"] for values in alone} == {0}
    # The rest of the loss is that of a student who knows nothing of the teacher.
    assert one[0]["loss"] - one[0]["teacher"] == pytest.approx(alone[0]["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher_weight": 0.0}, "pretrain.teacher_weight=0.0: expected a number above 0"),
        ({"teacher": "v", "epochs": 0}, "pretrain.teacher=v with pretrain.epochs=0: nothing tra"),
    ],
)
def test_settings_that_cannot_be_meant_are_rejected(wrong, message):
    with pytest.raises(InputError, match=message):
        PretrainConfig(**wrong)


def spoil_ids(path):
    (path.parent / "v.ids.txt").write_text("train0\n")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda path: path.with_name("v.npy").unlink(),
            "found no vectors; expected a folder, or v",
        ),
        (spoil_ids, "v.ids.txt has 1 ids, but v.npy has 34 rows"),
        (lambda path: path.with_name("v.npy").write_bytes(b"PK"), "is not an npy file of vectors"),
    ],
)
def test_a_teacher_that_cannot_be_used_ends_a_run_before_its_first_stage(
    tmp_path, capsys, harm, message
):
    path = write(tmp_path / "given")
    harm(path)
    flags = [f"--workdir={tmp_path / 'run'}", "--stage=all", f"--pretrain.teacher={path}"]
    code = main({"miniature": minute.MINUTE}, flags)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2 and message in lines[-1]
    assert not (tmp_path / "run" / "prepare").exists()


def test_the_recipes_table_has_the_row_teacher_where_vectors_are_given(caplog):
    def table(*flags):
        return parse(recipe_ablations.PRESETS, ["--recipe", *flags], RecipeAblations).table()

    row = table("--teacher=v")["teacher"]
    assert row.settings == {"pretrain": {"teacher": "v"}}
    with caplog.at_level(logging.INFO):
        assert "teacher" not in table()
    assert "the row teacher is left out: it needs vectors (--teacher=NAME)" in caplog.text
    with pytest.raises(InputError, match=r"--rows=teacher: the row needs vectors; add --teacher"):
        table("--rows=hinge,teacher")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("encoders", ["full", "frozen"])
def test_a_run_with_a_teacher_resumes_to_the_bit(tmp_path, one_device, monkeypatch, encoders):
    rates = dataclasses.replace(
        minute.MINUTE.pretrain.optimizer, image_encoder=encoders, text_encoder=encoders
    )
    config = dataclasses.replace(minute.MINUTE.pretrain, loss="softmax", optimizer=rates)
    path = tmp_path / "given" / "v"

    def go(name, stage="pretrain"):
        taught = dataclasses.replace(config, teacher=str(path) if stage == "pretrain" else None)
        experiment = dataclasses.replace(minute.MINUTE, workdir=tmp_path / name, pretrain=taught)
        run(experiment, stage, one_device)

    go("whole", "prepare")
    known = Dataset.load(tmp_path / "whole" / "prepare")
    write(path.parent, ids=sorted({*known.train.ids, *known.labels.ids})[::2])
    minute.begun(tmp_path / "whole", tmp_path / "killed", "pretrain")
    go("whole")
    calls = []
    monkeypatch.setattr(loop, "stop_requested", lambda: calls.append(0) or len(calls) == 2)
    with pytest.raises(Stopped):
        go("killed")
    monkeypatch.setattr(loop, "stop_requested", stop_requested)
    shutil.rmtree(path.parent)
    go("killed")
    minute.assert_same(tmp_path / "whole", tmp_path / "killed", "pretrain")
    assert '"teacher"' in (tmp_path / "whole" / "pretrain" / "metrics.jsonl").read_text()
    go("whole")  # a finished stage needs the vectors no more
