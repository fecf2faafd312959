"""Claims about the compiled steps of Modules I and IV on eight devices: none grows with L.

L' (rows of the table) and L'/8 (rows of a device) occur in no other dimension of these programs.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from finetuning import shortlists
from scipy import sparse
from small import new_model

from mufin_jax.data.loader import Loader
from mufin_jax.model import label_table
from mufin_jax.model.label_table import TableConfig, bytes_per_label
from mufin_jax.runtime.distributed.mesh import BY_ROW, REPLICATED, by_row, over_devices, put
from mufin_jax.training import finetune_batches, finetune_step, pretrain_batches, pretrain_step
from mufin_jax.training.optimizer import OptimizerConfig
from mufin_jax.training.setup import TrainState, split

FEW, MANY = 7168, 14336
DIM, DEVICES = 6, 8
RATES = OptimizerConfig(warmup=0)
COLLECTIVE = (
    r"(all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute|collective-broadcast|"
    r"ragged-all-to-all)(-start)?\("
)


def dimensions(line: str) -> set[int]:
    """Return all dimensions of the shapes in a line of HLO."""
    shapes = re.findall(r"\w+\[([\d,]+)\]", line.split("metadata=")[0].split("replica_groups=")[0])
    return {int(size) for shape in shapes for size in shape.split(",")}


def faults(program, rows: int) -> list[str]:
    """Return the lines of a step that hold the whole table, send it, or copy a device's part."""
    wrong, collectives = [], 0
    for line in program.as_text().splitlines():
        sizes, is_collective = dimensions(line), re.search(COLLECTIVE, line) is not None
        collectives += is_collective
        copies = re.search(r"= \S+ copy\(", line) is not None
        if rows in sizes or (rows // DEVICES in sizes and (is_collective or copies)):
            wrong.append(line)
    assert collectives, "a step on eight devices without any collective"
    return wrong


def grown(programs, name: str) -> int:
    """Return how many more bytes a device of a kind of memory the second step takes."""
    few, many = (getattr(program.memory_analysis(), name) for program in programs)
    return many - few


def parts(dataset, mesh, cross):
    """Return the parts of a step: graph, weights that train, other weights, and an optimizer."""
    model = new_model(dataset, mesh)
    return *split(model, RATES, cross), optax.adam(1e-3)


def with_labels(dataset, count):
    """Return the data set with `count` labels; the new ones are relevant to no datapoint."""
    relevance = sparse.csr_matrix(dataset.train.relevance)
    more = sparse.csr_matrix((relevance.shape[0], count - relevance.shape[1]), dtype="float32")
    train = dataclasses.replace(dataset.train, relevance=sparse.hstack([relevance, more], "csr"))
    return dataclasses.replace(dataset, train=train)


def module_one(dataset, mesh, count):
    """Return the step of Module I, compiled for a catalogue of `count` labels."""
    config = pretrain_batches.PretrainConfig(batch_size=8, optimizer=RATES)
    graphdef, train, frozen, optimizer = parts(dataset, mesh, cross=False)
    wide = with_labels(dataset, count)
    batch = pretrain_batches.Batches(config, wide, Loader(wide, "both", devices=DEVICES), 0)(0)
    step = pretrain_step.make_step(config, graphdef, optimizer)
    state = TrainState(opt=optimizer.init(train), train=train)
    return step.lower(state, frozen, put(batch, by_row(mesh))).compile()


def module_four(dataset, mesh, count, table=TableConfig()):  # noqa: B008 (frozen)
    """Return the step of Module IV, compiled for an abstract table of `count` rows."""
    config = finetune_batches.FinetuneConfig(batch_size=8, negatives=3, optimizer=RATES)
    graphdef, train, frozen, optimizer = parts(dataset, mesh, cross=True)
    make = finetune_batches.Batches(
        config, dataset, Loader(dataset, "both", devices=DEVICES), shortlists().labels, 0
    )
    step = finetune_step.make_step(config, graphdef, optimizer, 100, mesh)
    table = label_table.abstract(count, DIM, mesh, table)
    state = TrainState(opt=optimizer.init(train), table=table, train=train)
    return step.lower(state, frozen, finetune_step.place(make(0), mesh)).compile()


@pytest.fixture(scope="module")
def right(dataset, mesh):
    """The correct `module_four`, compiled once for each table."""
    return functools.cache(lambda *sizes: module_four(dataset, mesh, *sizes))


def test_nothing_in_module_ones_step_grows_with_the_labels(dataset, mesh):
    programs = [module_one(dataset, mesh, count) for count in (FEW, MANY)]
    for program, rows in zip(programs, (FEW, MANY), strict=True):
        assert not faults(program, rows)
    for kind in ("temp", "argument", "output"):
        assert grown(programs, f"{kind}_size_in_bytes") == 0


@pytest.mark.parametrize(
    "table",
    [TableConfig(), pytest.param(TableConfig("bfloat16", "adagrad"), marks=pytest.mark.slow)],
    ids=str,
)
def test_only_the_table_in_place_grows_in_module_fours_step(right, table):
    programs = [right(count, table) for count in (FEW, MANY)]
    for program, rows in zip(programs, (FEW, MANY), strict=True):
        assert not faults(program, rows)
    # One array of the smallest kind, two bytes for each of a device's rows, would be seen.
    assert abs(grown(programs, "temp_size_in_bytes")) < 2 * (MANY - FEW) / DEVICES
    part = bytes_per_label(DIM, table) * (MANY - FEW) // DEVICES
    for kind in ("argument", "output", "alias"):
        assert grown(programs, f"{kind}_size_in_bytes") == part


def test_an_all_gather_of_the_table_would_be_seen(dataset, mesh, monkeypatch):
    def gather(rows, ids, mesh):
        def local(rows, ids):
            whole = jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, "devices", tiled=True), rows)
            found = jax.tree.map(lambda leaf: leaf.at[ids].get(mode="fill", fill_value=0), whole)
            return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, "devices"), found)

        return over_devices(local, mesh, (BY_ROW, REPLICATED), REPLICATED)(rows, ids)

    monkeypatch.setattr(label_table, "gather", gather)
    program = module_four(dataset, mesh, FEW)
    assert any("all-gather" in line for line in faults(program, FEW))


def test_a_copy_of_the_table_would_be_seen(dataset, mesh, right, monkeypatch):
    right(FEW, TableConfig())  # compiled before the copy is added
    update = label_table.update

    def copying(table, *arguments, **options):
        new = update(table, *arguments, **options)
        flipped = jnp.flip(table.square.eta, 1)  # needs the old table after the update
        return dataclasses.replace(
            new, square=dataclasses.replace(new.square, eta=new.square.eta + 0 * flipped)
        )

    monkeypatch.setattr(label_table, "update", copying)
    program = module_four(dataset, mesh, FEW)
    more = grown([right(FEW, TableConfig()), program], "temp_size_in_bytes")
    assert faults(program, FEW) or more > 2 * FEW / DEVICES
