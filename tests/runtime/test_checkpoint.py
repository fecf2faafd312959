"""Checkpoints: bit-exact, whole or absent, and never silently damaged."""

import json
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mufin_jax.runtime.distributed.mesh import by_row, put
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import orbax
from mufin_jax.runtime.storage.checkpoint import Checkpoints


class Moments(NamedTuple):
    count: jax.Array
    mean: dict


def example(seed=0):
    rng = np.random.default_rng(seed)
    w = jnp.asarray(rng.normal(size=(6, 5)), jnp.float32)
    half = jnp.asarray(rng.normal(size=3), jnp.bfloat16)
    return {
        "layers": {i: {"w": w * i, "b": half * i} for i in (0, 2, 10)},
        "opt": (Moments(jnp.int32(7), {"w": w}), ()),
        "key": jax.random.key_data(jax.random.key(3)),
        "rows": np.arange(4, dtype=np.int64),
        "step": np.int32(11),
    }


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def restore(folder, like=None):
    found = Checkpoints(folder).restore(like)
    assert found is not None
    return found


def test_a_checkpoint_does_not_hold_the_path_where_it_was_made(tmp_path):
    Checkpoints(tmp_path / "checkpoints").save(5, example(), {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if str(tmp_path).encode() in path.read_bytes()]


def test_a_state_is_restored_bit_for_bit_in_its_own_structure(tmp_path):
    state = example()
    Checkpoints(tmp_path / "checkpoints").save(5, state, {"epoch": 2, "draws": [1, 2]})
    step, restored, facts = restore(tmp_path / "checkpoints", state)
    assert (step, facts) == (5, {"epoch": 2, "draws": [1, 2]})
    assert_same(restored, state)
    assert isinstance(restored["layers"][0]["w"], jax.Array)
    assert isinstance(restored["rows"], np.ndarray)


def test_without_a_structure_a_state_is_restored_as_nested_dicts_of_numpy_arrays(tmp_path):
    state = example()
    Checkpoints(tmp_path).save(0, state, {})
    _, restored, _ = restore(tmp_path)
    moments = state["opt"][0]
    assert_same(restored, state | {"opt": {0: {"count": moments.count, "mean": moments.mean}}})
    assert list(restored["layers"]) == [0, 2, 10]  # numbers, not text
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored))


def test_an_array_over_eight_devices_restores_to_three_other_placements(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    table = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    Checkpoints(tmp_path).save(1, {"table": jax.device_put(table, rows)}, {})
    two = jax.sharding.Mesh(mesh.devices[:2], ("data",))
    for target in (
        rows,
        NamedSharding(two, PartitionSpec("data")),
        jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        None,
    ):
        like = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=target)
        _, state, _ = restore(tmp_path, {"table": like})
        np.testing.assert_array_equal(state["table"], table)
        assert getattr(state["table"], "sharding", None) == target


@pytest.mark.parametrize("devices", [1, 2, 4, None])
@pytest.mark.parametrize("free", [False, True])
def test_any_number_of_devices_restores_to_the_bit_what_eight_saved(tmp_path, devices, free):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    state = {
        "rows": rng.normal(size=(24, 3)).astype(np.float32),
        "half": rng.normal(size=(16, 5)).astype(jnp.bfloat16),
        "weights": rng.normal(size=(3, 7)).astype(np.float32),
    }

    def placed(over):
        spec = {"rows": PartitionSpec("data"), "half": PartitionSpec("data")}
        return {
            name: jax.device_put(array, NamedSharding(over, spec.get(name, PartitionSpec())))
            for name, array in state.items()
        }

    Checkpoints(tmp_path).save(1, placed(mesh), {})
    like: dict | None = None
    if devices is not None:
        few = jax.sharding.Mesh(mesh.devices[:devices], ("data",))
        like = jax.tree.map(jnp.zeros_like, placed(few))
    found = Checkpoints(tmp_path).restore(like, free=free)
    assert found is not None
    assert_same(found[1], state)
    if like is not None:
        assert found[1]["rows"].sharding.num_devices == devices
        assert like["rows"].is_deleted() == free  # gave up its memory before


def test_a_restored_counter_works_with_sharded_arrays_like_the_original(tmp_path):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    state = {
        "count": jnp.int32(3),  # on no particular device
        "w": jax.device_put(jnp.ones(8), NamedSharding(mesh, PartitionSpec("data"))),
    }
    Checkpoints(tmp_path).save(1, state, {})
    _, restored, _ = restore(tmp_path, state)
    assert jax.jit(lambda s: (s["w"] * s["count"]).sum())(restored) == 24


def test_restoring_without_a_checkpoint_returns_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore() is None
    assert Checkpoints(tmp_path / "absent").latest() is None


def test_saving_keeps_the_newest_steps_and_deletes_abandoned_later_ones(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (4, 8, 12, 9):  # at 9, a run has resumed from 8
        checkpoints.save(step, {"at": jnp.int32(step)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["8", "9"]
    assert checkpoints.latest() == 9


def test_all_of_a_checkpoint_is_on_disk_before_it_gets_its_name(tmp_path, disk_calls):
    Checkpoints(tmp_path / "checkpoints").save(1, example(), {"epoch": 2})
    finished = tmp_path / "checkpoints" / "1"
    renamed = disk_calls.index(("replace", finished))
    synced = {number for call, number in disk_calls[:renamed] if call == "sync"}
    parts = [finished, *finished.rglob("*")]
    assert len(parts) > 8
    assert [path for path in parts if path.stat().st_ino not in synced] == []
    assert ("sync", finished.parent.stat().st_ino) in disk_calls[renamed:]


def test_a_step_saved_again_is_replaced(tmp_path):
    for value in (1, 2):
        Checkpoints(tmp_path).save(3, {"value": jnp.int32(value)}, {})
    assert restore(tmp_path)[1]["value"] == 2


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


def _delete(path):
    path.unlink()


def _add(path):
    path.with_name(path.name + ".more").write_bytes(b"")


@pytest.mark.parametrize("harm", [_flip, _truncate, _delete, _add])
def test_any_damage_to_any_file_is_reported_and_the_step_before_is_used(tmp_path, harm, caplog):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(step, example(step), {})
    whole = sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file())
    assert len(whole) > 5
    for path in whole:
        kept = path.read_bytes()
        if not kept and harm in (_flip, _truncate):
            continue  # an empty file has nothing to lose
        harm(path)
        caplog.clear()
        step, state, _ = restore(tmp_path, example())
        assert step == 1
        assert_same(state, example(1))
        assert len(caplog.records) == 1 and str(tmp_path / "2") in caplog.text
        path.with_name(path.name + ".more").unlink(missing_ok=True)
        path.write_bytes(kept)
    assert checkpoints.latest() == 2


def test_restoring_a_given_step_that_is_damaged_is_rejected(tmp_path):
    Checkpoints(tmp_path).save(1, example(), {})
    _flip(tmp_path / "1" / "facts.json")
    with pytest.raises(InputError, match=r"facts\.json is damaged"):
        Checkpoints(tmp_path).restore(step=1)
    with pytest.raises(InputError, match="unfinished"):
        Checkpoints(tmp_path).restore(step=2)


def test_leftovers_of_a_killed_save_are_neither_used_nor_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / ".7.tmp" / "state").mkdir(parents=True)
    (tmp_path / "9").mkdir()  # without a manifest
    assert checkpoints.latest() is None
    checkpoints.save(1, {"a": jnp.zeros(2)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("like", "complaint"),
    [
        ({"w": np.zeros((3, 4), np.float32)}, r"w is float32\[3, 5\], .* float32\[3, 4\]"),
        ({"w": np.zeros((3, 5), np.float16)}, r"w is float32\[3, 5\], .* float16\[3, 5\]"),
        ({"v": np.zeros((3, 5), np.float32)}, r"v is not there, .* float32\[3, 5\]"),
        ({}, r"w is float32\[3, 5\], .* none"),
    ],
)
def test_the_state_of_another_model_is_rejected_by_name(tmp_path, like, complaint):
    Checkpoints(tmp_path).save(1, {"w": jnp.zeros((3, 5))}, {})
    with pytest.raises(InputError, match=complaint):
        Checkpoints(tmp_path).restore(like)


def test_two_arrays_with_the_same_name_are_rejected(tmp_path):
    with pytest.raises(ValueError, match="two arrays"):
        Checkpoints(tmp_path).save(1, {"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)}, {})


_FULL = """
import pathlib, resource, signal, sys
import numpy as np
from mufin_jax.runtime.storage.checkpoint import Checkpoints
from mufin_jax.runtime.logs import set_up_logging
from mufin_jax.runtime.exit import main_guard
set_up_logging()
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
noise = np.random.default_rng(0).normal(size=100_000)
Checkpoints(folder).save(1, {"w": noise[:9]}, {})
sys.exit(main_guard(lambda: Checkpoints(folder).save(2, {"w": noise}, {})))
"""


def test_a_full_disk_ends_the_run_with_one_line_and_keeps_the_step_before(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 74, result.stderr
    assert result.stderr.count("\n") == 1 and "MB free" in result.stderr
    assert f"error: {tmp_path}: File too large (0.8 MB needed" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert Checkpoints(tmp_path).latest() == 1


def test_failed_saves_install_one_hook_and_one_filter_in_all(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    orbax._ignore_closed_loops.cache_clear()
    state = set()
    with warnings.catch_warnings():
        for _ in range(3):
            with pytest.raises(OSError), orbax._one_error():
                raise OSError("full")
            state.add((sys.unraisablehook, len(warnings.filters)))
    assert len(state) == 1
    for text in ("Event loop is closed", "another"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(each.exc_value) for each in told] == ["another"]
    orbax._ignore_closed_loops.cache_clear()  # its hook goes with this test


_SAVES = """
import itertools, pathlib, sys
import numpy as np
from mufin_jax.runtime.storage.checkpoint import Checkpoints
for step in itertools.count(1):
    Checkpoints(pathlib.Path(sys.argv[1])).save(step, {"w": np.full(50_000, step)}, {"at": step})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_newest_finished_step(tmp_path):
    for wait in (0.0, 0.02, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", _SAVES, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            time.sleep(wait)
            process.kill()
            done = int([*lines, *process.stdout][-1])
        step, state, facts = restore(tmp_path)
        assert step in (done, done + 1) and facts == {"at": step}
        assert (state["w"] == step).all()


def test_facts_and_manifest_are_plain_json(tmp_path):
    Checkpoints(tmp_path).save(1, {"a": {3: jnp.zeros((2, 4))}}, {"epoch": 9})
    stored = json.loads((tmp_path / "1" / "facts.json").read_text())
    array = {"path": ["a", 3], "shape": [2, 4], "dtype": "float32"}
    assert stored == {"facts": {"epoch": 9}, "arrays": {"a/3": array}}


def test_arrays_larger_than_the_buffer_are_restored(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(orbax, "_BUFFER", 1000)
    state = {"table": put(np.arange(4096.0).reshape(512, 8), by_row(mesh))}
    Checkpoints(tmp_path).save(1, state, {})
    _, restored, _ = Checkpoints(tmp_path).restore(state)
    np.testing.assert_array_equal(restored["table"], state["table"])
    whole = Checkpoints(tmp_path).restore()[1]["table"]
    np.testing.assert_array_equal(whole, state["table"])
