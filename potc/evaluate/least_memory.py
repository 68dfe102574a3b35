"""How little memory a compile whose weights stay in files can do with: known before any of it is run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx import TensorProto

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import reject
from potc.evaluate.verify_in_turns import FLOAT, INTEGER
from potc.execute.aside import size_of
from potc.graph.groups import Room, least
from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.language.program import Granularity
from potc.quantize.calibrate_in_turns import ACTIVATION, WEIGHT, wishes_of
from potc.quantize.plan import ConstantQuantizer, Plan
from potc.quantize.tuning import Tuning

# What solving a weight takes at most, in float32 copies of it: scales, codes, and the correction of its bias. Where all channels
# have one scale, all codes are leveled at once.
BY_CHANNEL, BY_TENSOR = 8, 20
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Need:
    """``bytes``, beside what the process has, for ``what``, because of ``place``: a node or a tensor."""

    bytes: int
    what: str
    place: str


def refuse_too_little(
    model: Model, prepared: Model, plan: Plan, dataset: Dataset, tuning: Tuning, room: int, process: int
) -> None:
    """Raises Rejected(memory-too-small) with the least memory that does, where ``room`` bytes beside the ``process`` are too few
    for a step of the compile. What the compiled model needs is estimated from the float one."""
    needs = list(_needs(model, prepared, plan, dataset, tuning))
    most = max(needs, key=lambda need: need.bytes, default=None)
    if most is None or most.bytes <= room:
        return
    enough = -(-(most.bytes + process) // MIB)
    stated = max(room + process, 0) // MIB
    needed = f"{most.what} `{most.place}` needs about {-(-most.bytes // MIB):,} MiB"
    message = f"{needed}; of {stated:,} MiB, {process // MIB:,} are for the process"
    help_ = f"state --memory {enough}MiB, which is the least that does, or give smaller samples"
    raise reject("memory-too-small", message, node=most.place, help=help_)


def _needs(model: Model, prepared: Model, plan: Plan, dataset: Dataset, tuning: Tuning) -> Iterator[Need]:
    wishes = wishes_of(prepared, plan, dataset, tuning.ranges)
    kernels = replace(wishes, watched=(), returned=())
    for what, proto, room, among in (
        ("calibrating", prepared.proto, Room(0, WEIGHT, ACTIVATION), wishes),
        ("running", infer_shapes(model).proto, Room(0, *FLOAT), replace(wishes, together=(), returned=())),
        ("verifying", prepared.proto, Room(0, *INTEGER), kernels),
    ):
        found, node = least(proto, room, among)
        yield Need(found, what, node)
    stored = {t.name: t for t in prepared.proto.graph.initializer}
    for constant in plan.constants:
        if constant.tensor in stored:
            yield Need(_solving(constant, stored[constant.tensor], tuning), "solving", constant.tensor)


def _solving(constant: ConstantQuantizer, tensor: TensorProto, tuning: Tuning) -> int:
    whole = any(t.granularity is Granularity.PER_TENSOR for t in constant.types)
    leveled = constant.lanes and tuning.rounding.method != "nearest"
    return size_of(tensor) * (BY_TENSOR if whole and leveled else BY_CHANNEL)
