"""The memory plan: what a run will hold on each device and each host, before it holds it.

The label table is most of the model (paper, section 3: L = 4.5 million), so what a run needs is
arithmetic: labels x bytes of a label / devices, and what stands beside it. "restore" is the moment
when a table is read from the disk, an array at a time; "index" when the predictor's index is built,
after training. A run that cannot fit is rejected with what would make it fit. What XLA needs inside
a step, the activations of the encoders most of all, is not planned, nor are mapped files, which the
system drops when it needs the room.
"""

import dataclasses
from collections.abc import Sequence

from mufin_jax.model.label_table import TableConfig, bytes_per_label, padded_rows
from mufin_jax.retrieval import scann
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.machine import Available

STAGES = ("pretrain", "retrieve", "initialize", "restore", "finetune", "index", "predict")
JAX_BYTES = 350_000_000
"""Python, JAX and compiled programs of one process."""
STEP_ROWS = 7
"""Copies of a step's rows that are alive at once: rows, gradients, moments, before and after."""
AHEAD = 6
"""Batches on the host: four made ahead and two under way."""
SCANN_SEARCH = 0.66
"""Bytes of codes per entry and dimension while ScaNN searches; the vectors stay in their file."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What a plan follows from.

    Attributes:
        num_labels: L.
        dim: D.
        table: number format and optimizer of the label table.
        devices: number of devices in all.
        local_devices: devices of one host.
        parameters: weights of the model.
        trained: weights that have a gradient and two moments.
        descriptors: descriptors of all labels.
        entries: vectors in the index: the descriptors, and a centroid a label.
        batch: bytes of the largest pool, with its bags.
        rows: distinct labels of a step of Module IV.
        search: what looks for labels: "scann", "sharded" or "exact" (see `IndexConfig`).
    """

    num_labels: int
    dim: int = 192
    table: TableConfig = dataclasses.field(default_factory=TableConfig)
    devices: int = 1
    local_devices: int = 1
    parameters: int = 0
    trained: int = 0
    descriptors: int = 0
    entries: int = 0
    batch: int = 0
    rows: int = 0
    search: str = "scann"


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that takes memory: bytes on every device, bytes on every host, and when."""

    name: str
    device: int
    host: int
    stages: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """All parts, of which each stage holds some."""

    sizes: Sizes
    parts: tuple[Part, ...]

    def device(self, stage: str) -> int:
        """Return the bytes of a stage on every device."""
        return sum(part.device for part in self.parts if stage in part.stages)

    def host(self, stage: str) -> int:
        """Return the bytes of a stage on every host, beside its devices."""
        return sum(part.host for part in self.parts if stage in part.stages)


def plan(sizes: Sizes) -> MemoryPlan:
    """Return what each device and each host will hold, stage by stage."""
    s, vector = sizes, 4 * sizes.dim
    padded = padded_rows(s.num_labels)
    eta = padded * s.dim * (2 if s.table.dtype == "bfloat16" else 4) // s.devices
    table = padded * bytes_per_label(s.dim, s.table) // s.devices
    rows = eta + 4 * padded // s.devices
    entries = s.entries * vector
    on_devices = entries // s.devices if s.search.startswith("sharded") else 0
    built = scann.BUILD * entries if s.search == "scann" else 0
    codes = round(SCANN_SEARCH * s.entries * s.dim) if s.search == "scann" else 0
    cache = (2 * s.descriptors + s.num_labels) * vector // s.devices
    tuned, whole = ("pretrain", "finetune"), ("initialize", "restore", "finetune")
    return MemoryPlan(
        s,
        (
            Part("label table: rows", rows, 0, (*whole, "index")),
            Part("label table: moments", table - rows, 0, whole),
            Part("an array being read", eta, 0, ("restore",)),
            Part("rows of a step", STEP_ROWS * s.rows * (vector + 4), 0, ("finetune",)),
            Part("model", 4 * s.parameters, 0, STAGES),
            Part("its gradients and moments", 12 * s.trained, 0, tuned),
            Part("two batches", 2 * s.batch // s.devices, AHEAD * s.batch, tuned),
            Part("label bags and classifiers", cache, 0, ("predict",)),
            Part("index: entries, codes", on_devices, codes, ("retrieve", "predict")),
            Part("index: while it is built", 0, built, ("retrieve", "index")),
            Part("JAX and its programs", 0, JAX_BYTES, STAGES),
        ),
    )


def report(plan: MemoryPlan, available: Available | None = None) -> str:
    """Return the plan as a table for people, with what leaner label tables would cost."""
    s = plan.sizes
    lines = [
        f"memory plan: {s.num_labels:,} labels x {s.dim} dimensions; devices: {s.devices}, "
        f"of which this host has {s.local_devices}",
        f"{'':28}{'a device':>12}{'a host':>12}   held in",
    ]
    for part in plan.parts:
        if part.device or part.host:
            device, host = (_size(b) if b else "-" for b in (part.device, part.host))
            when = "all stages" if len(part.stages) == len(STAGES) else ", ".join(part.stages)
            lines.append(f"{part.name:28}{device:>12}{host:>12}   {when}")
    widest, fullest = max(STAGES, key=plan.device), max(STAGES, key=plan.host)
    lines.append(
        f"{'at most':28}{_size(plan.device(widest)):>12}{_size(plan.host(fullest)):>12}   "
        f"{widest}; {fullest}"
    )
    if available is not None:
        have = f"{_size(available.device):>12}{_size(available.host):>12}"
        note = "   the devices share the host's memory" if available.shared else ""
        lines.append(f"{'there is':28}{have}{note}")
    lines.append("bytes a label:")
    for table in _tables():
        mark = "  <- chosen" if table == s.table else ""
        cost = bytes_per_label(s.dim, table)
        lines.append(f"  {table.dtype + ', ' + table.update:26}{cost:>12,}{mark}")
    return "\n".join(lines)


def check(plan: MemoryPlan, available: Available, stages: Sequence[str] = STAGES) -> None:
    """Reject a plan whose `stages` do not fit.

    Raises:
        InputError: one line that says what is missing, and what would fit.
    """
    if (short := _shortage(plan, available, stages)) is None:
        return
    remedy = _remedy(plan.sizes, available, stages)
    raise InputError(f"{plan.sizes.num_labels:,} labels: {short}; {remedy}")


def _shortage(plan: MemoryPlan, available: Available, stages: Sequence[str]) -> str | None:
    for stage in stages:
        device, host = plan.device(stage), plan.host(stage)
        if available.shared:
            device, host = 0, plan.sizes.local_devices * device + host
        if device > available.device:
            return f"{stage} needs {_size(device)} a device, which has {_size(available.device)}"
        if host > available.host:
            return f"{stage} needs {_size(host)} on this host, which has {_size(available.host)}"
    return None


def _remedy(sizes: Sizes, available: Available, stages: Sequence[str]) -> str:
    """Suggest what would fit: a leaner table, more devices (hosts, if devices share), or both."""
    own = bytes_per_label(sizes.dim, sizes.table)
    leaner = [t for t in _tables() if bytes_per_label(sizes.dim, t) < own]
    places = "hosts" if available.shared else "devices"

    def fits(sizes: Sizes) -> bool:
        return _shortage(plan(sizes), available, stages) is None

    for search in (sizes.search, "sharded"):
        for table in (sizes.table, *leaner):
            if fits(dataclasses.replace(sizes, table=table, search=search)):
                flags = [_flags(table)] if table != sizes.table else []
                flags += ["--retrieve.index.backend=sharded"] if search != sizes.search else []
                return f"choose {' '.join(flags)}, or use more {places}"
    for table in (sizes.table, *leaner[-1:]):
        more = dataclasses.replace(sizes, table=table)
        while more.devices < 1024:
            local = more.local_devices * (1 if available.shared else 2)
            more = dataclasses.replace(more, devices=2 * more.devices, local_devices=local)
            if fits(more):
                count = more.devices // (more.local_devices if available.shared else 1)
                flags = "" if table == sizes.table else f" with {_flags(table)}"
                return f"use {count} {places}{flags}"
    return f"more {places} would not help: bring fewer labels, or smaller batches"


def _flags(table: TableConfig) -> str:
    return f"--initialize.table.dtype={table.dtype} --initialize.table.update={table.update}"


def _tables() -> list[TableConfig]:
    """All kinds of tables, the largest first."""
    kinds = [TableConfig(d, u) for u in ("adam", "adagrad") for d in ("float32", "bfloat16")]
    return sorted(kinds, key=lambda table: -bytes_per_label(192, table))


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e7 else f"{count / 1e6:,.2f} MB"
