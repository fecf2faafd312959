"""The memory plan: what a run will hold on each device and each host, computed before it begins.

The label table is most of the model (paper, section 3: L = 4.5 million). The memory of a run is
therefore arithmetic: labels x bytes of a label / devices, and the smaller parts below. In the phase
"restore", a table is read from the disk, one array at a time. In the phase "index", the predictor's
index is built, after training. A run that cannot fit is rejected, and the error names flags that
would make it fit.

The plan leaves out what XLA needs inside a step, mostly the activations of the encoders. It also
leaves out mapped files, because the system drops their pages when it needs the memory.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from mufin_jax.model.label_table import TableConfig, bytes_per_label, padded_rows
from mufin_jax.pipeline.memory_parts import Part, ScoreSizes, of_index, of_parts
from mufin_jax.prediction.parts import PartName
from mufin_jax.runtime.errors import InputError
from mufin_jax.runtime.machine import Available
from mufin_jax.runtime.units import in_bytes

PHASES = (
    "pretrain", "retrieve", "initialize", "restore", "finetune", "index", "predict", "floors",
    "select",
)  # fmt: skip
"""The phases of a run, each of which holds other things in memory."""
JAX_BYTES = 350_000_000
"""Bytes of Python, JAX and compiled programs in one process."""
STEP_ROWS = 7
"""Copies of a step's rows that are alive at once: rows, gradients, moments, before and after."""
TAUGHT_ID = 300
"""Bytes of an item while its teacher's vector is looked for: its id in a dict, and its row."""
AHEAD = 6
"""Batches on the host: four are made ahead, and two are in progress."""


@dataclasses.dataclass(frozen=True)
class RunSizes:
    """The sizes that a plan is computed from.

    Attributes:
        num_labels: L.
        dim: D.
        table: number format and optimizer of the label table.
        devices: number of all devices.
        local_devices: number of devices of one host.
        parameters: number of weights of the model.
        trained: number of weights that have a gradient and two moments.
        descriptors: number of descriptors of all labels.
        entries: number of vectors in the index: the descriptors, and one centroid a label.
        batch: bytes of the largest pool, with its bags.
        rows: number of distinct labels of a step of Module IV.
        search: how labels are searched: "scann", "sharded" or "exact" (see `IndexConfig`).
        points: number of training points that are indexed for the floor `frozen_neighbours`.
        points_search: how they are searched.
        mined: number of vectors that Module I mines negatives among; 0 if it does not.
        prototypes: whether Module IV trains label prototypes.
        taught: number of items whose teacher's vectors Module I looks for; 0 without a teacher.
        score: the parts of the score, if it has any.
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
    points: int = 0
    points_search: str = "exact"
    mined: int = 0
    prototypes: bool = False
    taught: int = 0
    score: ScoreSizes = dataclasses.field(default_factory=ScoreSizes)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """All parts of the memory of a run; each phase holds some of them."""

    sizes: RunSizes
    parts: tuple[Part, ...]

    def device(self, phase: str) -> int:
        """Return the bytes that a phase holds on every device."""
        return sum(part.device for part in self.parts if phase in part.phases)

    def host(self, phase: str) -> int:
        """Return the bytes that a phase holds on every host, in addition to the devices."""
        return sum(part.host for part in self.parts if phase in part.phases)


def plan(sizes: RunSizes) -> MemoryPlan:
    """Return what each device and each host will hold in each phase."""
    s, vector = sizes, 4 * sizes.dim
    padded = padded_rows(s.num_labels)
    eta = padded * s.dim * (2 if s.table.dtype == "bfloat16" else 4) // s.devices
    table = padded * bytes_per_label(s.dim, s.table) // s.devices
    rows = eta + 4 * padded // s.devices
    rest = s.prototypes * (2 * padded * vector // s.devices + eta)
    on_devices, built, codes = of_index(s.entries, s.search, s.dim, s.devices)
    points_on_devices, points_built, _ = of_index(s.points, s.points_search, s.dim, s.devices)
    cache = (2 * s.descriptors + s.num_labels) * vector // s.devices
    tuned, whole = ("pretrain", "finetune"), ("initialize", "restore", "finetune")
    served = (*(("select",) if s.score.names else ()), "predict", "floors")
    return MemoryPlan(
        s,
        (
            Part("label table: rows", rows, 0, (*whole, "index")),
            Part("label table: moments", table - rows, 0, whole),
            Part("an array being read", eta, 0, ("restore",)),
            Part("rows of a step", STEP_ROWS * s.rows * (vector + 4), 0, ("finetune",)),
            # In training the centroids; in the end also z and the new rows.
            Part("centroids of prototypes", rest, 0, ("finetune",)),
            Part("model", 4 * s.parameters, 0, PHASES),
            Part("its gradients and moments", 12 * s.trained, 0, tuned),
            Part("two batches", 2 * s.batch // s.devices, AHEAD * s.batch, tuned),
            Part(
                "vectors to mine among", s.mined * vector // s.devices, s.mined * vector, tuned[:1]
            ),
            Part("ids with a teacher's vector", 0, TAUGHT_ID * s.taught, tuned[:1]),
            Part("label bags and classifiers", cache, 0, served),
            Part("index: entries, codes", on_devices, codes, ("retrieve", *served)),
            Part("index: while it is built", 0, built, ("retrieve", "index")),
            Part("index of training points", points_on_devices, points_built, ("floors",)),
            *of_parts(s.score, s.dim, s.devices),
            Part("JAX and its programs", 0, JAX_BYTES, PHASES),
        ),
    )


def plan_table(plan: MemoryPlan, available: Available | None = None) -> str:
    """Return the plan as a text table, with the cost of each kind of label table."""
    s = plan.sizes
    lines = [
        f"memory plan: {s.num_labels:,} labels x {s.dim} dimensions; devices: {s.devices}, "
        f"of which this host has {s.local_devices}",
        f"{'':28}{'a device':>14}{'a host':>14}   held in",
    ]
    for part in plan.parts:
        if part.device or part.host:
            device, host = (in_bytes(b) if b else "-" for b in (part.device, part.host))
            when = "all phases" if len(part.phases) == len(PHASES) else ", ".join(part.phases)
            lines.append(f"{part.name:28}{device:>14}{host:>14}   {when}")
    widest, fullest = max(PHASES, key=plan.device), max(PHASES, key=plan.host)
    lines.append(
        f"{'at most':28}{in_bytes(plan.device(widest)):>14}{in_bytes(plan.host(fullest)):>14}   "
        f"{widest}; {fullest}"
    )
    if available is not None:
        have = f"{in_bytes(available.device):>14}{in_bytes(available.host):>14}"
        note = "   the devices share the host's memory" if available.shared else ""
        lines.append(f"{'there is':28}{have}{note}")
    lines.append("bytes a label:")
    for table in _tables():
        mark = "  <- chosen" if table == s.table else ""
        cost = bytes_per_label(s.dim, table)
        lines.append(f"  {table.dtype + ', ' + table.update:26}{cost:>12,}{mark}")
    return "\n".join(lines)


def check(plan: MemoryPlan, available: Available, phases: Sequence[str] = PHASES) -> None:
    """Reject a plan whose `phases` do not fit.

    Raises:
        InputError: one line with the phase, what it needs, what there is, and what would fit.
    """
    if (short := _shortage(plan, available, phases)) is None:
        return
    remedy = _remedy(plan.sizes, available, phases)
    raise InputError(f"{plan.sizes.num_labels:,} labels: {short}; {remedy}")


def _shortage(plan: MemoryPlan, available: Available, phases: Sequence[str]) -> str | None:
    """Return a sentence on the first phase that does not fit, or None."""
    for phase in phases:
        device, host = plan.device(phase), plan.host(phase)
        if available.shared:
            device, host = 0, plan.sizes.local_devices * device + host
        if device > available.device:
            return (
                f"{phase} needs {in_bytes(device)} a device, which has {in_bytes(available.device)}"
            )
        if host > available.host:
            return (
                f"{phase} needs {in_bytes(host)} on this host, which has {in_bytes(available.host)}"
            )
    return None


def _remedy(sizes: RunSizes, available: Available, phases: Sequence[str]) -> str:
    """Suggest one floor less, fewer parts, a leaner table, or more devices (or hosts)."""
    own = bytes_per_label(sizes.dim, sizes.table)
    leaner = [t for t in _tables() if bytes_per_label(sizes.dim, t) < own]
    places = "hosts" if available.shared else "devices"

    def fits(sizes: RunSizes) -> bool:
        return _shortage(plan(sizes), available, phases) is None

    if sizes.points and fits(dataclasses.replace(sizes, points=0)):
        return f"choose --evaluate.no-frozen-neighbours, or use more {places}"
    if fewer := _fewer_parts(sizes, fits):
        return f"choose --select.parts {' '.join(fewer)}, or use more {places}"
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
    return f"more {places} would not help: use fewer labels or smaller batches"


def _fewer_parts(sizes: RunSizes, fits: Callable[[RunSizes], bool]) -> tuple[PartName, ...] | None:
    """Return as many of the parts of the score as fit; of two choices that with the first parts."""
    for count in range(len(sizes.score.names) - 1, 0, -1):
        for names in itertools.combinations(sizes.score.names, count):
            score = dataclasses.replace(sizes.score, names=names)
            if fits(dataclasses.replace(sizes, score=score)):
                return names
    return None


def _flags(table: TableConfig) -> str:
    return f"--initialize.table.dtype={table.dtype} --initialize.table.update={table.update}"


def _tables() -> list[TableConfig]:
    """Return all kinds of tables, the largest first."""
    kinds = [TableConfig(d, u) for u in ("adam", "adagrad") for d in ("float32", "bfloat16")]
    return sorted(kinds, key=lambda table: -bytes_per_label(192, table))
