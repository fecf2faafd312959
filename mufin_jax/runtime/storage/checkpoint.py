"""Checkpoints: what a run needs to resume as if it had never been stopped.

Orbax commits a step in one piece and restores it to any placement, but it loads damaged bytes
without noticing. Each step therefore has a manifest of sizes and SHA-256. It is written last, and
`Checkpoints._verify` checks a step by it before anything is read:

    <folder>/<step>/state/         the arrays, by Orbax
    <folder>/<step>/facts.json     the caller's facts, and name, path, shape, dtype of each array
    <folder>/<step>/manifest.json  {relative path: [size, sha256]}, sealed (files.save_sealed); a
                                   step without one is unfinished

Several processes save and restore together: each writes and reads the parts of arrays that its
devices hold; process 0 does the rest. A step can be restored on other numbers of devices and
processes than those that saved it.
"""

import dataclasses
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mufin_jax.runtime.distributed import processes
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.storage import files
from mufin_jax.runtime.storage.disk import disk_errors
from mufin_jax.runtime.storage.orbax import (
    forget_place,
    is_anywhere,
    load_arrays,
    savable,
    save_arrays,
    target,
)

log = logging.getLogger(__name__)

_UNTIL_QUIET = (0.0, 0.1, 0.2)
"""Seconds before each removal of a failed save: threads of TensorStore may still be writing, and
make its folders again."""


@dataclasses.dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage; one run at a time may save.

    All processes of a run must call the methods, in the same order, and not inside
    `processes.once`.
    """

    folder: Path
    keep: int = 2
    """How many steps are kept, the newest ones."""
    pinned: int | None = None
    """A step that is kept in addition to these."""

    def save(self, step: int, state: Any, facts: dict[str, Any]) -> None:
        """Save a state and facts durably, then delete steps that are no longer needed.

        Those are steps beyond `keep` but for the pinned one, and later ones, which a run that
        resumed before them has abandoned.

        Args:
            step: The number of the step.
            state: A pytree of arrays, on any devices.
            facts: What JSON can hold.

        Raises:
            DiskError: The disk is full; nothing of the step is left.
        """
        leaves = _named_leaves(state)
        arrays = {name: savable(leaf) for name, (_, leaf) in leaves.items()}
        described = {
            name: {"path": leaves[name][0], "shape": array.shape, "dtype": array.dtype.name}
            for name, array in arrays.items()
        }
        needed = sum(array.nbytes for array in arrays.values())
        unfinished = self.folder.absolute() / f".{step}.tmp"

        def begin() -> None:
            self._remove_unfinished()
            unfinished.mkdir(parents=True)

        def complete() -> None:
            forget_place(unfinished / "state")
            files.save_json(unfinished / "facts.json", {"facts": facts, "arrays": described})
            for path in unfinished.rglob("*"):
                files.sync(path)
            files.seal(unfinished)
            finished = self.folder / str(step)
            if finished.exists():
                shutil.rmtree(finished)
            os.replace(unfinished, finished)
            files.sync(self.folder)
            kept = [other for other in self._steps() if other <= step][: self.keep]
            for other in set(self._steps()) - {*kept, self.pinned}:
                shutil.rmtree(self.folder / str(other))

        with disk_errors(self.folder, needed):
            try:
                processes.once(f"checkpoint {step} begins", begin)
                save_arrays(unfinished / "state", arrays)
                processes.once(f"checkpoint {step} is complete", complete)
            except BaseException:
                if processes.is_main():
                    for seconds in _UNTIL_QUIET:
                        time.sleep(seconds)
                        self._remove_unfinished()
                raise

    def restore(
        self, abstract: Any = None, step: int | None = None, free: bool = False
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Read a step, after verifying it.

        Args:
            abstract: The structure that the state comes in. Its leaves give the placement: a
                jax.ShapeDtypeStruct with a sharding (or a jax.Array) makes a jax.Array placed that
                way, any other leaf with shape and dtype a numpy array. Without it the state comes
                as nested dicts of numpy arrays.
            step: The number of the step; by default the newest undamaged one.
            free: Whether arrays of `abstract` that are replaced give up their memory before.

        Returns:
            The number of the step, the state and the facts; None if there is no undamaged step.

        Raises:
            InputError: The given step is damaged, or names, shapes or dtypes differ from those of
                `abstract`.
        """
        if step is None:
            step = self.latest()
            if step is None:
                return None
        elif reason := self.damage(step):
            raise InputError(f"{self.folder / str(step)}: {reason}; restore another step")
        folder = self.folder.absolute() / str(step)
        stored = files.load_json(folder / "facts.json")
        described, facts = stored["arrays"], stored["facts"]
        if abstract is None:
            targets = {n: np.empty(d["shape"], jnp.dtype(d["dtype"])) for n, d in described.items()}
            arrays = load_arrays(folder / "state", targets)
            return step, _nest({n: (d["path"], arrays[n]) for n, d in described.items()}), facts
        wanted = {name: leaf for name, (_, leaf) in _named_leaves(abstract).items()}
        _check_same(wanted, described, folder)
        targets = {name: target(leaf) for name, leaf in wanted.items()}
        anywhere = {name for name, leaf in wanted.items() if is_anywhere(leaf)}
        if free:
            for name in wanted.keys() - anywhere:
                if isinstance(wanted[name], jax.Array):
                    wanted[name].delete()
        arrays = load_arrays(folder / "state", targets)
        leaves = [jnp.array(arrays[n]) if n in anywhere else arrays[n] for n in wanted]
        return step, jax.tree.unflatten(jax.tree.structure(abstract), leaves), facts

    def damage(self, step: int) -> str | None:
        """Return what is wrong with a step, or None; the caller may then restore it."""
        return processes.decide(lambda: self._verify(step))

    def described(self) -> dict[str, dict[str, Any]]:
        """Return shape and dtype of each array of the newest finished step; reads no array."""
        return processes.decide(self._described)

    def _described(self) -> dict[str, dict[str, Any]]:
        for step in self._steps():
            if (self.folder / str(step) / files.MANIFEST).is_file():
                return files.load_json(self.folder / str(step) / "facts.json")["arrays"]
        return {}

    def latest(self) -> int | None:
        """Return the newest step whose files all match its manifest; log the damaged ones."""
        return processes.decide(self._latest)

    def _latest(self) -> int | None:
        for step in self._steps():
            if not (reason := self._verify(step)):
                return step
            log.warning("%s: %s; using an older step", self.folder / str(step), reason)
        return None

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(
            (int(p.name) for p in self.folder.iterdir() if p.name.isdigit()), reverse=True
        )

    def _verify(self, step: int) -> str | None:
        """Verify a step by its manifest: return what is wrong with it, or None."""
        folder = self.folder / str(step)
        if not (folder / files.MANIFEST).is_file():
            return "unfinished (it has no manifest)"
        try:
            listed = files.load_sealed(folder / files.MANIFEST)
            return files.damage(folder, listed, ignore={files.MANIFEST})
        except (InputError, TypeError, ValueError, AttributeError):
            return f"{files.MANIFEST} is damaged"

    def _remove_unfinished(self) -> None:
        for leftover in self.folder.glob(".*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)


def _named_leaves(tree: Any) -> dict[str, tuple[list[str | int], Any]]:
    """Return the leaves by name, such as optimizer/0/mu, each with its path of keys."""
    named = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        path = [_plain(key) for key in keys]
        name = "/".join(map(str, path))
        if name in named:
            raise ValueError(f"two arrays of the state are called {name}")
        named[name] = path, leaf
    return named


def _plain(key: Any) -> str | int:
    match key:
        case jax.tree_util.SequenceKey(idx=plain) | jax.tree_util.GetAttrKey(name=plain):
            return plain
        case jax.tree_util.DictKey(key=plain) | jax.tree_util.FlattenedIndexKey(key=plain):
            return plain
    raise ValueError(f"{key!r} should be a string or a number")


def _nest(named: dict[str, tuple[list[str | int], Any]]) -> Any:
    nested: dict[str | int, Any] = {}
    for path, leaf in named.values():
        place = nested
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = leaf
    return nested


def _check_same(wanted: dict[str, Any], stored: dict[str, dict], folder: Path) -> None:
    """Reject a state of another model, which Orbax would pad, cast or reject without its name."""
    for name in sorted(wanted.keys() | stored.keys()):
        asked = there = None
        if name in wanted:
            asked = f"{np.dtype(wanted[name].dtype).name}{list(wanted[name].shape)}"
        if name in stored:
            there = f"{stored[name]['dtype']}{stored[name]['shape']}"
        if asked != there:
            raise InputError(
                f"{folder}: {name} is {there or 'not there'}, expected {asked or 'none'}; use the "
                "configuration that the folder was made with, or another --workdir"
            )
