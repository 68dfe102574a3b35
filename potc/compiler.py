"""The story: a model, rules and samples become a compiled model. Read this first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import numpy_helper

from potc.data.dataset import Dataset
from potc.data.source import open_samples
from potc.evaluate.kernels import KernelShare, kernel_share
from potc.evaluate.verify import Verification, verify
from potc.graph.model import Model
from potc.graph.opset import raise_opset
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.read import read_model
from potc.graph.snapshot import take_snapshot
from potc.graph.write import serialize
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.match.rewrite import Change, apply_rewrites
from potc.quantize.calibrate import calibrate
from potc.quantize.lower import lower
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params, solve_params
from potc.quantize.plan import Plan
from potc.quantize.provenance import record_provenance
from potc.quantize.ranges import Ranges
from potc.quantize.solve import solve
from potc.quantize.tuning import Tuning


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be compiled: the words of the command line. ``data`` None: generated samples, for trying out only."""

    model: str
    rules: str
    data: str | None = None
    device: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    samples: int | None = None
    externs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """What a caller may watch: stages by name, and progress (done, total) inside the long ones."""

    stage: Callable[[str], None] = lambda name: None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True)
class Compilation:
    """Everything that a compile produced, and what it was made from."""

    job: Job
    program: Program
    model: Model
    changes: tuple[Change, ...]
    plan: Plan
    ranges: Ranges
    params: Params
    compiled: bytes
    verification: Verification
    share: KernelShare
    samples: Dataset

    @property
    def inputs(self) -> tuple[str, ...]:
        """All files that were read: the model and its external data, rule files with their Python files, samples."""
        return tuple(dict.fromkeys((*self.model.files, *self.program.sources, *self.samples.files)))


def compile_model(job: Job, trace: Trace | None = None) -> Compilation:
    """Compiles a model. Writes nothing. Raises Rejected where the rules, the model or the samples are at fault."""
    trace = trace or Trace()
    trace.stage("rules")
    program = load_rules(job.rules, device=job.device, settings=job.settings, externs=job.externs)
    trace.stage("model")
    model = read_model(job.model)
    samples = open_samples(job.data, model, job.samples)
    trace.stage("prepare")
    prepared, changes = prepare(model, program)
    trace.stage("plan")
    plan = solve(program, take_snapshot(prepared.proto))
    trace.stage("calibrate")
    ranges = calibrate(prepared, plan, samples, trace.progress, job.tuning.ranges)
    trace.stage("solve")
    params = solve_params(plan, ranges, weights(prepared, plan), job.tuning)
    trace.stage("lower")
    lowered = lower(raise_opset(prepared, opset_for(params)), plan, params)
    compiled = serialize(record_provenance(lowered, program, plan, changes))
    trace.stage("verify")
    verification = verify(model, compiled, samples, simulate=not saturates(program))
    share = kernel_share(compiled, plan)
    return Compilation(job, program, model, changes, plan, ranges, params, compiled, verification, share, samples)


def prepare(model: Model, program: Program) -> tuple[Model, tuple[Change, ...]]:
    """What every device wants first: a recent opset, shapes, folded constants, the rewrites of the rule files, no dead nodes."""
    model = raise_opset(model, program.opset[0])
    model = drop_dead(fold_constants(infer_shapes(model)))
    model, changes = apply_rewrites(model, program)
    return drop_dead(model), changes


def weights(model: Model, plan: Plan) -> Mapping[str, np.ndarray]:
    """The constants that the plan stores as integers, by name, as they are in the prepared model."""
    wanted = {c.tensor for c in plan.constants}
    return {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer if t.name in wanted}


def saturates(program: Program) -> bool:
    """True if some kernel adds products into a narrow accumulator, as this host's may. Weights are then narrowed for it."""
    return any(a.lanes > 1 for p in program.members for r in p.rules for a in (*r.accumulators, *p.accumulators))


def opset_for(params: Params) -> int:
    """The lowest ONNX opset whose QuantizeLinear and DequantizeLinear know the chosen types, at least 13."""
    return max((_opset_of(p) for p in (*params.activations, *params.constants)), default=13)


def _opset_of(params: QuantParams) -> int:
    """Per-channel scales came with opset 13, 8-bit floats with 19, 16 bits, 4 bits and blocks with 21, 2 bits with 25."""
    if params.qtype.bits == 2:
        return 25
    if params.block is not None or params.qtype.bits in (4, 16):
        return 21
    return 19 if params.qtype.floating else 13  # int32 (biases) was there from the start
