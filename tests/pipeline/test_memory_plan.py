"""The memory plan: it matches real sizes, and its error names what would fit."""

import dataclasses

import jax
import pytest
from small import CONFIG, SIZES, new_model

from mufin_jax.model import label_table
from mufin_jax.model.label_table import TableConfig, padded_rows
from mufin_jax.pipeline import memory_plan
from mufin_jax.pipeline.memory_parts import ScoreSizes
from mufin_jax.pipeline.memory_plan import RunSizes
from mufin_jax.pipeline.memory_survey import sizes_of
from mufin_jax.prediction.parts import PARTS
from mufin_jax.retrieval.config import IndexConfig
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.machine import Available, available, host_memory
from mufin_jax.stages.select import SelectConfig
from mufin_jax.training.optimizer import OptimizerConfig

GB = 10**9
A2Q = RunSizes(4_528_191, rows=2816, descriptors=4_528_191, entries=9_000_000)
LEAN = TableConfig("bfloat16", "adagrad")


def part(plan, name):
    return next(part for part in plan.parts if part.name == name)


def held(devices, table=TableConfig()):  # noqa: B008 (frozen)
    sizes = dataclasses.replace(A2Q, devices=devices, local_devices=devices, table=table)
    return memory_plan.plan(sizes)


@pytest.mark.parametrize("config", [TableConfig(), LEAN], ids=str)
def test_the_planned_label_table_has_the_real_size(config, mesh):
    plan = memory_plan.plan(RunSizes(1500, 6, config, devices=8, local_devices=8))
    table = label_table.initialize(jax.random.key(0), 1500, 6, mesh, config=config)
    for name, parts in (
        ("label table: rows", table.rows),
        ("label table: moments", (table.mean, table.square)),
    ):
        shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(parts)]
        assert part(plan, name).device == sum(shard.nbytes for shard in shards)


def test_with_more_devices_each_holds_less():
    for name in ("label table: rows", "label table: moments", "label bags and classifiers"):
        assert part(held(8), name).device * 8 == pytest.approx(part(held(1), name).device, abs=8)
    assert part(held(8), "rows of a step") == part(held(1), "rows of a step")


def test_a_phase_holds_only_its_own_parts():
    plan = held(1)
    table = sum(part(plan, f"label table: {name}").device for name in ("rows", "moments"))
    assert plan.device("initialize") == table
    eta = 768 * label_table.padded_rows(A2Q.num_labels)
    assert plan.device("restore") - table == eta == part(plan, "an array being read").device
    assert plan.device("finetune") - table == part(plan, "rows of a step").device
    assert plan.device("pretrain") == 0 and plan.host("pretrain") == memory_plan.JAX_BYTES
    assert plan.host("predict") - memory_plan.JAX_BYTES == part(plan, "index: entries, codes").host
    build = part(plan, "index: while it is built")
    assert build.host == 2 * 768 * A2Q.entries and plan.device("index") == 772 * eta // 768


@pytest.mark.parametrize("search", ["exact", "sharded"])
def test_an_index_that_is_not_built_takes_no_memory_to_build(search):
    plan = memory_plan.plan(dataclasses.replace(A2Q, search=search, devices=8))
    assert plan.host("index") == memory_plan.JAX_BYTES
    entries = part(plan, "index: entries, codes")
    assert entries.host == 0
    assert entries.device == (768 * A2Q.entries // 8 if search == "sharded" else 0)


def test_the_floors_hold_the_predictor_and_an_index_of_training_points():
    sizes = dataclasses.replace(A2Q, points=20_000_000, points_search="scann")
    plan = memory_plan.plan(sizes)
    built = 2 * 768 * sizes.points
    assert plan.host("floors") == plan.host("predict") + built
    assert plan.device("floors") == plan.device("predict")
    sharded = memory_plan.plan(dataclasses.replace(sizes, points_search="sharded", devices=8))
    found = part(sharded, "index of training points")
    assert (found.device, found.host, found.phases) == (768 * sizes.points // 8, 0, ("floors",))
    room = Available(64 * GB, plan.host("predict") + built // 2, shared=False)
    remedy = "floors needs .* on this host, .*; choose --evaluate.no-frozen-neighbours, or use more"
    with pytest.raises(InputError, match=remedy):
        memory_plan.check(plan, room)


def test_the_report_names_every_part_and_all_kinds_of_tables():
    text = memory_plan.plan_table(held(1, LEAN), Available(16 * GB, 16 * GB, shared=True))
    lines = text.splitlines()
    assert "4,528,191 labels x 192" in lines[0]
    assert any(line.split() == ["bfloat16,", "adagrad", "396", "<-", "chosen"] for line in lines)
    for cost in ("2,316", "1,164", "780"):
        assert cost in text
    assert "16.00 GB" in text and "label table: rows" in text
    assert "two batches" not in text  # this plan has no batches


def test_a_plan_that_fits_passes_and_the_error_for_another_names_flags_that_fit():
    lean = "--initialize.table.dtype=bfloat16 --initialize.table.update=adagrad"
    # Reading the table: 13.97, 7.01, 7.01 or 3.53 GB; w to predict: 3.48.
    sizes = RunSizes(4_528_191)
    plan = memory_plan.plan(sizes)
    memory_plan.check(plan, Available(15 * GB, 15 * GB, shared=True))
    for room, remedy in ((7.1, "dtype=bfloat16 --initialize.table.update=adam,"), (6, lean)):
        with pytest.raises(InputError, match=f"initialize needs 10.49 GB a device.*{remedy}") as it:
            memory_plan.check(plan, Available(int(room * GB), 64 * GB, shared=False))
        assert "\n" not in str(it.value)
    with pytest.raises(InputError, match="use 8 devices"):
        table = dataclasses.replace(sizes, table=LEAN)
        memory_plan.check(memory_plan.plan(table), Available(GB * 7 // 10, 64 * GB, shared=False))
    with pytest.raises(InputError, match=f"on this host, which has 5.60 GB; choose {lean}"):
        memory_plan.check(plan, Available(5_600_000_000, 5_600_000_000, shared=True))


def test_virtual_devices_share_the_hosts_memory():
    sizes = dataclasses.replace(A2Q, devices=8, local_devices=8, search="sharded")
    eight = memory_plan.plan(sizes)
    room = Available(2 * GB, 16 * GB, shared=True)
    with pytest.raises(InputError, match=r"on this host.*use 2 hosts"):
        memory_plan.check(eight, room)
    memory_plan.check(eight, dataclasses.replace(room, device=3 * GB, shared=False))


def test_the_hosts_memory_is_limited_by_its_control_group(tmp_path):
    files = {
        "proc/meminfo": "MemTotal:       24690000 kB\nMemFree: 1 kB\n",
        "proc/self/cgroup": "4:cpu,memory:/job\n0::/slice/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/slice/job/memory.max": "max\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_memory(tmp_path) == 24690000 * 1024
    for name in (
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes",
        "sys/fs/cgroup/slice/job/memory.max",
        "sys/fs/cgroup/memory.max",
    ):
        kept = (tmp_path / name).read_text() if (tmp_path / name).exists() else "max"
        (tmp_path / name).write_text(f"{3 * GB}\n")
        assert host_memory(tmp_path) == 3 * GB
        (tmp_path / name).write_text(kept)


def test_virtual_devices_have_an_equal_share_of_the_host(mesh):
    found = available(mesh)
    assert found.shared and found.host > GB and found.device == found.host // 8


def test_the_sizes_match_the_data_and_the_model(dataset, mesh):
    config = OptimizerConfig(image_encoder="full", text_encoder="full")
    sizes = sizes_of(
        dataset,
        CONFIG,
        LEAN,
        mesh,
        pretrain=(8, 16),
        finetune=(50, 8),
        optimizers=(config, config),
        index=IndexConfig(),
    )
    assert (sizes.num_labels, sizes.dim, sizes.table) == (SIZES["label"], 6, LEAN)
    assert (sizes.devices, sizes.local_devices, sizes.rows) == (8, 8, SIZES["label"])
    leaves = jax.tree.leaves(new_model(dataset, mesh))
    assert sizes.parameters == sizes.trained == sum(leaf.size for leaf in leaves)
    labels = dataset.labels
    assert sizes.descriptors == (labels.text >= 0).sum() + len(labels.image_rows)
    relevant = (dataset.train.pairs.sum(0) > 0).sum()
    assert sizes.entries == sizes.descriptors + relevant
    frozen = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
    fewer = sizes_of(
        dataset,
        CONFIG,
        LEAN,
        mesh,
        pretrain=(8, 16),
        finetune=(8, 8),
        optimizers=(frozen, frozen),
        index=IndexConfig(),
        frozen_neighbours=True,
        mined_side="points",
    )
    assert (sizes.points, fewer.points) == (0, SIZES["train"])
    assert fewer.points_search == "exact"
    assert (sizes.mined, fewer.mined) == (0, SIZES["train"])
    blocks = 2 * (4 * 6 * 7 + 2 * 6)  # two attention blocks: four maps, a norm
    assert fewer.trained == blocks and fewer.rows == 8 and fewer.batch < sizes.batch * 2


def test_vectors_that_negatives_are_mined_among_are_held_by_module_1_alone():
    plan = memory_plan.plan(dataclasses.replace(A2Q, devices=2, mined=1000))
    mined = part(plan, "vectors to mine among")
    assert (mined.device, mined.host) == (500 * 4 * 192, 1000 * 4 * 192)
    assert mined.phases == ("pretrain",)


def test_prototypes_hold_centroids_and_in_the_end_z_and_new_rows_in_module_4_alone():
    plan = memory_plan.plan(dataclasses.replace(A2Q, devices=2, prototypes=True))
    held = part(plan, "centroids of prototypes")
    padded = padded_rows(A2Q.num_labels) // 2
    assert (held.device, held.host) == (padded * 192 * (4 + 4 + 4), 0)
    assert held.phases == ("finetune",)
    assert part(memory_plan.plan(A2Q), "centroids of prototypes").device == 0


def test_a_teacher_makes_batches_larger_and_is_looked_up_in_module_1(dataset, mesh):
    config = OptimizerConfig(image_encoder="full", text_encoder="full")

    def of(**changes):
        return sizes_of(
            dataset, CONFIG, LEAN, mesh, pretrain=(8, 16), finetune=(8, 8),
            optimizers=(config, config), index=IndexConfig(), **changes,
        )  # fmt: skip

    plain, taught = of(), of(teacher=384)
    assert taught.batch - plain.batch == pytest.approx((8 + 16) * 4 * 384, abs=1)
    assert (plain.taught, taught.taught) == (0, SIZES["train"] + SIZES["label"])
    ids = part(memory_plan.plan(taught), "ids with a teacher's vector")
    assert ids.host == memory_plan.TAUGHT_ID * taught.taught and ids.phases == ("pretrain",)
    assert of(prototypes=True).prototypes and not plain.prototypes


SCORE = ScoreSizes(
    PARTS, labels=4_528_191, trained=3_000_000, points=9_618_490, pairs=20_000_000,
    words=70_000_000, label_words=20_000_000, fitted=10_000, candidates=100, stand_ins=10,
)  # fmt: skip


def of_score(**changes):
    score = dataclasses.replace(SCORE, **changes)
    return memory_plan.plan(dataclasses.replace(A2Q, score=score, devices=8, local_devices=8))


def test_more_labels_that_stand_for_a_query_hold_more():
    few, many = of_score(stand_ins=10), of_score(stand_ins=1_000)
    assert many.host("predict") > few.host("predict")


def test_a_score_without_parts_holds_nothing_of_parts():
    assert not [part for part in memory_plan.plan(A2Q).parts if part.name.startswith("parts")]
    assert memory_plan.plan(A2Q).host("select") == memory_plan.JAX_BYTES


def test_indices_of_parts_are_split_over_the_devices_where_labels_are():
    plan = of_score(search="sharded", points_search="sharded")
    of_labels, points = (
        part(plan, f"parts: {name}") for name in ("indices of labels", "index of points")
    )
    entries = 2 * SCORE.labels + SCORE.trained  # z, w and mu
    assert of_labels.device == pytest.approx(768 * entries / 8, abs=3)
    assert points.device == pytest.approx(768 * SCORE.points / 8, abs=1)
    assert of_labels.phases == points.phases == ("select", "predict", "floors")
    assert plan.device("select") == plan.device("predict") == plan.device("floors")
    # Where the entries of each lie:
    assert (of_labels.host, points.host) == (21 * 3 * SCORE.labels, 21 * SCORE.points)
    scann = of_score(search="scann", points_search="scann")
    codes = part(scann, "parts: indices of labels")
    assert codes.device == 0
    assert codes.host - of_labels.host == pytest.approx(0.66 * 192 * entries, abs=3)
    assert part(scann, "parts: index, being built").host == 2 * 768 * SCORE.points


@pytest.mark.parametrize(
    "names, held",
    [
        (("z", "sg"), {"indices of labels", "pairs, walks"}),
        (("g",), {"pairs, walks"}),
        (("z", "t"), {"indices of labels", "words of titles"}),
        (("v",), {"index of points"}),
        (("z", "mu"), {"indices of labels"}),
    ],
)
def test_a_part_that_is_left_out_holds_nothing(names, held):
    plan, pairs = of_score(names=names), 8 * SCORE.pairs + 16 * SCORE.points + 9 * SCORE.labels
    least = {"pairs, walks": pairs}  # every part knows which labels have a training pair
    for name in ("indices of labels", "index of points", "pairs, walks", "words of titles"):
        found = part(plan, f"parts: {name}")
        assert (found.device + found.host > least.get(name, 0)) == (name in held), name
    assert part(plan, "validation candidates").phases == ("select",)


def test_a_score_that_does_not_fit_names_the_parts_that_would():
    plan = of_score(search="sharded", points_search="sharded")
    room = Available(16 * GB, plan.host("select") - GB, shared=False)
    remedy = r"select needs .* on this host, .*; choose --select.parts z mu c v g sg t, or use more"
    with pytest.raises(InputError, match=remedy) as it:
        memory_plan.check(plan, room, ["select"])
    assert "\n" not in str(it.value)
    least = of_score(names=("z",), search="sharded", points_search="sharded").host("select")
    with pytest.raises(InputError, match=r"choose --select.parts z, or use more"):
        memory_plan.check(plan, Available(16 * GB, least, shared=False), ["select"])
    none = Available(16 * GB, GB // 2, shared=False)
    with pytest.raises(InputError, match=r"select needs") as it:
        memory_plan.check(plan, none, ["select"])
    assert "--select.parts" not in str(it.value)


def test_the_sizes_of_parts_match_the_data(dataset, mesh):
    config = OptimizerConfig(image_encoder="frozen", text_encoder="frozen")
    given = {"pretrain": (8, 16), "finetune": (8, 8), "optimizers": (config, config)}
    select = SelectConfig(parts=PARTS, candidates=7)
    found = sizes_of(
        dataset, CONFIG, LEAN, mesh, index=IndexConfig(backend="sharded"), select=select, **given
    ).score
    assert (found.names, found.candidates, found.fitted) == (PARTS, 7, 0)
    assert (found.labels, found.points) == (SIZES["label"], SIZES["train"])
    assert (found.pairs, found.search, found.points_search) == (
        dataset.train.pairs.nnz, "sharded", "sharded",
    )  # fmt: skip
    words, of_labels = (
        sum(len(title.split(" ")) for side in sides for title in side.titles)
        for sides in ((dataset.labels, dataset.train), (dataset.labels,))
    )
    assert (found.words, found.label_words) == (words, of_labels)
    none = sizes_of(dataset, CONFIG, LEAN, mesh, index=IndexConfig(), **given).score
    assert none == ScoreSizes()
