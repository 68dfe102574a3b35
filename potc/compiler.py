"""The story: a model, rules and samples become a compiled model. Read this first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from onnx import TensorProto

from potc.data.dataset import Dataset
from potc.data.kept import KeptSamples, Sample, some
from potc.data.part import Part as PartOfSamples
from potc.data.preprocessing import Preprocessing
from potc.data.source import Annotations, open_samples
from potc.diagnostics.diagnostic import reject
from potc.evaluate.borders import same_behind_borders
from potc.evaluate.kernels import KernelShare, kernel_share, load
from potc.evaluate.least_memory import refuse_too_little
from potc.evaluate.verify import DEAD_DB, SAMPLES, Verification, verify
from potc.evaluate.verify_in_turns import verify_in_turns
from potc.execute.aside import Unread, array_of
from potc.execute.freed import give_back
from potc.execute.session import use_libraries
from potc.graph.ask import ask_types
from potc.graph.bodies import Body, bodies_of, with_bodies
from potc.graph.model import Model
from potc.graph.names import all_graphs
from potc.graph.opset import raise_opset, raise_opset_if_possible
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.graph.sizes import settle_sizes
from potc.graph.widen import cast_borders, read_runnable
from potc.graph.write import LIMIT, serialize
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.match.rewrite import Change, Rewritten, apply_rewrites
from potc.quantize.biases import with_biases
from potc.quantize.borders import Border, with_integer_borders
from potc.quantize.calibrate import NOWHERE, Look, calibrate, wanted_ranges
from potc.quantize.calibrate_in_turns import calibrate_in_turns
from potc.quantize.doubts import resolved
from potc.quantize.equalize.layers import fine_weights
from potc.quantize.equalize.run import Equalization, equalize
from potc.quantize.lower import lower
from potc.quantize.moments import second_moments
from potc.quantize.numbers import QuantParams
from potc.quantize.observe import Averaged
from potc.quantize.params import Params, solve_params
from potc.quantize.parts import Part, only_run, snapshots_of, solve_parts, whole
from potc.quantize.plan import Plan
from potc.quantize.provenance import record_provenance
from potc.quantize.ranges import Looked, Ranges, check_fit, read_ranges
from potc.quantize.scopes import Scopes, scoped_nodes
from potc.quantize.sequential import chosen_indices, chosen_of, corrected_in_sequence, fitting, looked_at
from potc.quantize.tuning import Tuning

MEMORY = 4 << 30  # bytes that a model above the limit of a file may need, where nothing is stated
PROCESS = 256 << 20  # bytes of the process without any model


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be compiled: the words of the command line. ``data`` None: generated samples, for trying out only; else what
    ``potc.data.source.open_annotated`` takes.

    ``seed``: draws the samples, which are spread evenly without it; ``ranges``: a file of saved ranges, which replaces
    calibration; ``preset``: the word that stands for ``tuning``, "" if it is not one; ``checked``: over how many samples the
    compiled model is compared with the float model; ``io``: which inputs and outputs hold codes, see ``with_integer_borders``;
    ``libraries``: of operators of its own, which onnxruntime loads and runs. ``memory``: bytes that the process may need at most;
    then weights are read when they are needed, and layers run in groups.
    """

    model: str
    rules: str
    data: Any = None
    device: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=Tuning)
    samples: int | None = None
    seed: int | None = None
    ranges: str | None = None
    externs: tuple[str, ...] = ()
    preset: str = ""
    checked: int = SAMPLES
    scopes: Scopes = field(default_factory=Scopes)
    preprocess: Preprocessing = field(default_factory=Preprocessing)
    annotations: Annotations = field(default_factory=Annotations)
    io: Mapping[str, str] = field(default_factory=dict)
    libraries: tuple[str, ...] = ()
    memory: int | None = None

    @property
    def whole(self) -> int:
        """Bytes of a model whose weights are all held in memory: none where memory is stated."""
        return LIMIT if self.memory is None else 0

    @property
    def room(self) -> int:
        """Bytes that are left for one group of layers."""
        return (MEMORY if self.memory is None else self.memory) - PROCESS


@dataclass(frozen=True, slots=True)
class Trace:
    """What a caller may watch: stages by name, and progress (done, total) inside the long ones."""

    stage: Callable[[str], None] = lambda name: None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True, slots=True)
class Compilation:
    """Everything that a compile produced, and what it was made from. ``prepared``: the float model that the plan speaks of;
    ``equalization``: what was done to it on purpose, None where nobody asked; ``integer``: ``compiled`` with codes for inputs and
    outputs, whose numbers are ``borders``, and with bfloat16 where the file has it; None where neither is so."""

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
    prepared: Model
    equalization: Equalization | None = None
    integer: bytes | None = None
    borders: tuple[Border, ...] = ()

    @property
    def output(self) -> bytes:
        """The model that is delivered."""
        return self.compiled if self.integer is None else self.integer

    @property
    def inputs(self) -> tuple[str, ...]:
        """All files that were read: the model and its external data, rule files with their Python files, samples, ranges,
        libraries."""
        return _files(self.job, self.model, self.program, self.samples)


def read_inputs(job: Job) -> tuple[str, ...]:
    """All files that a compile of this job reads, as ``Compilation.inputs`` has them. Raises Rejected."""
    program = load_rules(job.rules, device=job.device, settings=job.settings, externs=job.externs)
    model = read_runnable(job.model, job.whole)
    return _files(job, model, program, _samples(job, model))


def _files(job: Job, model: Model, program: Program, samples: Dataset) -> tuple[str, ...]:
    ranges = () if job.ranges is None else (job.ranges,)
    return tuple(dict.fromkeys((*model.files, *program.sources, *samples.files, *ranges, *job.libraries)))


def compile_model(job: Job, trace: Trace | None = None) -> Compilation:
    """Compiles a model. Writes nothing. Raises Rejected where the rules, the model or the samples are at fault."""
    trace = trace or Trace()
    matched = equalized(match_model(job, trace), job.tuning, trace)
    if matched.prepared.aside is not None:
        sizes = (matched.samples, job.tuning, job.room, PROCESS)
        refuse_too_little(matched.model, matched.prepared, matched.plan, *sizes)
    return finish(matched, known_ranges(matched, job, trace), job.tuning, trace)


@dataclass(frozen=True, slots=True)
class Matched:
    """All that is known before a sample is run."""

    job: Job
    program: Program
    model: Model
    samples: Dataset
    prepared: Model
    changes: tuple[Change, ...]
    parts: tuple[Part, ...]
    plan: Plan
    equalization: Equalization | None = None

    @property
    def real(self) -> bool:
        """False where noise stands in for the samples that saved ranges come from: its means say nothing of theirs."""
        return self.job.ranges is None or not self.samples.generated

    def after(self, ranges: Ranges) -> Matched:
        """What is left of the plan when it is known which nested graphs the samples ran."""
        parts = only_run(self.parts, ranges.runs)
        return self if parts == self.parts else replace(self, parts=parts, plan=whole(parts))


def match_model(job: Job, trace: Trace) -> Matched:
    """Reads everything, and decides which rules cover which nodes. Raises Rejected."""
    use_libraries(job.libraries)
    trace.stage("rules")
    program = load_rules(job.rules, device=job.device, settings=job.settings, externs=job.externs)
    trace.stage("model")
    model = read_runnable(job.model, job.whole)
    samples = KeptSamples(
        _samples(job, model), job.checked, fitting if job.tuning.bias.method == "sequential" else None
    )
    trace.stage("prepare")
    prepared, changes = prepare(model, program)
    trace.stage("plan")
    parts = planned(job, program, model, prepared, changes)
    return Matched(job, program, model, samples, prepared, changes, parts, whole(parts))


def _samples(job: Job, model: Model) -> Dataset:
    return open_samples(job.data, model, job.samples, job.seed, job.preprocess, job.annotations)


def planned(job: Job, program: Program, model: Model, prepared: Model, changes: tuple[Change, ...]) -> tuple[Part, ...]:
    """Which rules cover which nodes of the prepared model. Raises Rejected."""
    snapshots = snapshots_of(prepared)
    return solve_parts(program, prepared, snapshots, scoped_nodes(job.scopes, model, changes, snapshots))


def equalized(matched: Matched, tuning: Tuning, trace: Trace) -> Matched:
    """The same with a float model whose channels are scaled for what the plan stores, if ``tuning`` asks for that; results stay
    the same up to rounding. Plans again, since rules see new constants. Raises Rejected where a sample can't be run."""
    method, prepared = tuning.equalize.method, matched.prepared
    if method == "none" or (method == "auto" and not _pays(matched, tuning)):
        return matched
    trace.stage("equalize")
    program, plan, samples = matched.program, matched.plan, matched.samples
    signatures = program.members[0].signatures
    found = equalize(prepared, signatures, plan, samples, tuning.equalize, tuning.ranges.preset, trace.progress)
    if found.model is prepared:
        return replace(matched, equalization=None if method == "auto" else found)
    parts = planned(matched.job, program, matched.model, found.model, matched.changes)
    return replace(matched, prepared=found.model, parts=parts, plan=whole(parts), equalization=found)


def _pays(matched: Matched, tuning: Tuning) -> bool:
    """True if equalization that nobody asked for is worth a pass: samples tell what channels hold, ranges are not those of the
    model as it was, and one scale is all that some weight of many bits has."""
    plain = matched.job.ranges is None and not matched.samples.generated and matched.prepared.aside is None
    return plain and fine_weights(matched.plan, tuning.ranges.preset)


def known_ranges(matched: Matched, job: Job, trace: Trace) -> Ranges:
    """Those of the file that the job names, else measured ones. Raises Rejected where saved ranges do not fit."""
    if job.ranges is None:
        return observe(matched, matched.samples, job.tuning, trace)
    saved = read_ranges(job.ranges)
    plan = observed_plan(matched.plan, job.tuning)
    check_fit(saved, wanted_ranges(matched.prepared, plan, job.tuning.ranges), job.ranges)
    return saved


def observe(matched: Matched, samples: Dataset, tuning: Tuning, trace: Trace) -> Ranges:
    """Runs samples through the float model. Raises Rejected for numbers that are not finite."""
    trace.stage("calibrate")
    prepared, plan = matched.prepared, observed_plan(matched.plan, tuning)
    if prepared.aside is not None:
        give_back()
        return calibrate_in_turns(prepared, plan, samples, trace.progress, tuning.ranges, matched.job.room)
    look = _look(matched, plan) if samples is matched.samples and in_sequence(matched, tuning) else NOWHERE
    return calibrate(prepared, plan, samples, trace.progress, tuning.ranges, look=look)


def _look(matched: Matched, plan: Plan) -> Look:
    """What the correction in sequence wants to know of calibration. Nothing where calibration does not read each of these tensors
    anyway: onnxruntime fuses over what nobody reads, and ranges must not hang on who looks."""
    averaged = _averaged(matched, plan)
    read = {
        *plan.observed,
        *(c.tensor for c in plan.corrections),
        *(o.name for o in matched.prepared.proto.graph.output),
    }
    if not read.issuperset(a.tensor for a in averaged):
        return NOWHERE
    return Look(averaged, chosen_indices(matched.samples))


def in_sequence(matched: Matched, tuning: Tuning) -> bool:
    """Are biases corrected in sequence? That runs the whole model."""
    return tuning.bias.method == "sequential" and matched.real and matched.prepared.aside is None


def looked(matched: Matched, ranges: Ranges, tuning: Tuning, chosen: Sequence[Sample]) -> Looked:
    """What the float model returns of the chosen samples: from calibration, else by the same run of these samples alone.
    ``matched``: as it was calibrated."""
    indices = sorted(index for index, _ in chosen)
    plan = observed_plan(matched.plan, tuning)
    look = Look(_averaged(matched, plan), frozenset(range(len(indices))))
    if ranges.looked.keys() >= set(indices) or not look.averaged:
        return ranges.looked
    few = PartOfSamples(matched.samples, indices)
    again = calibrate(matched.prepared, plan, few, lambda done, total: None, tuning.ranges, look=look)
    return {index: again.looked[place] for place, index in enumerate(indices)}


def _averaged(matched: Matched, plan: Plan) -> tuple[Averaged, ...]:
    return looked_at(plan, matched.prepared, matched.program.members[0].signatures)


def observed_plan(plan: Plan, tuning: Tuning) -> Plan:
    """The plan, without what calibration need not watch: the means of channels, where no bias is corrected; else with those of
    layers that could have a bias."""
    return plan.filled() if tuning.bias.method != "none" else replace(plan, corrections=())


@dataclass(frozen=True, slots=True)
class Quantized:
    """All numbers, and the model that holds them. ``matched``: the plan and the float model that they speak of, without nested
    graphs that no sample ran, and with biases for layers that had none, where they are corrected."""

    matched: Matched
    params: Params
    compiled: bytes


def quantize(matched: Matched, ranges: Ranges, tuning: Tuning, trace: Trace) -> Quantized:
    """Solves all numbers. Raises Rejected where no allowed format suits."""
    calibrated, matched = matched, matched.after(ranges)
    if tuning.bias.method != "none":
        prepared, plan = with_biases(matched.prepared, matched.plan)
        matched = replace(matched, prepared=prepared, plan=plan)
    trace.stage("solve")
    prepared, plan = matched.prepared, matched.plan
    moments = None
    if tuning.rounding.method == "gptq":
        if not matched.real:
            message = "the rounding gptq looks at what layers read, and no samples are given beside the saved ranges"
            raise reject("no-samples", message, help="give --data, or another --rounding")
        moments = second_moments(prepared, plan, matched.program.members[0].signatures, matched.samples)
    scratch = None if prepared.aside is None else prepared.aside.scratch
    params = solve_params(plan, ranges, weights(prepared, plan), tuning, moments, scratch)
    trace.stage("lower")
    base = raise_opset(prepared, opset_for(params))
    lowered = lower(base, plan, params)
    if in_sequence(matched, tuning) and plan.corrections:
        trace.stage("correct")
        signatures, chosen = matched.program.members[0].signatures, chosen_of(matched.samples)
        wanted = looked(calibrated, ranges, tuning, chosen)
        params = corrected_in_sequence(base, plan, params, lowered, signatures, chosen, wanted)
        lowered = lower(base, plan, params)
    compiled = serialize(record_provenance(lowered, matched.program, plan, matched.changes))
    return Quantized(matched, params, compiled)


def finish(matched: Matched, ranges: Ranges, tuning: Tuning, trace: Trace) -> Compilation:
    """Quantizes, and looks at the result as onnxruntime does."""
    done = quantize(matched, ranges, tuning, trace)
    matched, params, compiled = done.matched, done.params, done.compiled
    job, program, model, plan = matched.job, matched.program, matched.model, matched.plan
    trace.stage("verify")
    verification, share = _judged(done, resolved(plan, ranges, params))
    job = replace(job, tuning=tuning)
    changes, samples, prepared = matched.changes, matched.samples, matched.prepared
    made = (ranges, params, compiled, verification, share, samples, prepared, matched.equalization)
    return with_borders(Compilation(job, program, model, changes, plan, *made))


def _judged(done: Quantized, steps: Mapping[str, float]) -> tuple[Verification, KernelShare]:
    matched, compiled = done.matched, done.compiled
    job, plan, samples, simulate = matched.job, matched.plan, matched.samples, not saturates(matched.program)
    # Noise has other ranges than the samples that saved ranges come from: how it is clipped says nothing.
    floor_db = DEAD_DB if matched.real else -math.inf
    if matched.prepared.aside is not None:
        give_back()
        return verify_in_turns(matched.model, compiled, plan, samples, job.checked, floor_db, simulate, job.room, steps)
    loaded = load(compiled)
    opened = loaded and loaded.session
    signatures = matched.program.members[0].signatures
    told = (floor_db, simulate, opened, plan, signatures, steps)
    verification = verify(matched.model, compiled, samples, job.checked, *told)
    return verification, kernel_share(compiled, plan, loaded)


def with_borders(done: Compilation) -> Compilation:
    """With codes for inputs and outputs where the job asks for them, and bfloat16 where the file has it; compared with the model
    that takes float32."""
    if not done.job.io and not done.model.bfloat16:
        return done
    proto, borders = with_integer_borders(done.compiled, done.job.io)
    narrow = (done.model.bfloat16 or frozenset()) - {b.tensor for b in borders}
    integer = serialize(cast_borders(proto, narrow, TensorProto.BFLOAT16))
    memory = None if done.prepared.aside is None else done.job.room
    check = same_behind_borders(done.compiled, integer, borders, narrow, some(done.samples, done.job.checked), memory)
    verification = replace(done.verification, checks=(*done.verification.checks, check))
    return replace(done, integer=integer, borders=borders, verification=verification)


def prepare(model: Model, program: Program) -> tuple[Model, tuple[Change, ...]]:
    """What every device wants first: a recent opset, shapes, folded constants, the rewrites of the rule files, no dead nodes."""
    model = raise_opset(model, program.opset[0])
    done = prepare_graphs(model, program)
    while done.wanted > model.opset:
        raised = raise_opset_if_possible(model, done.wanted)
        if raised is None:
            break
        model, done = raised, prepare_graphs(raised, program)
    return done.model, done.changes


def prepare_graphs(model: Model, program: Program) -> Rewritten:
    """The same for a model of a fitting opset: its main graph first, so that bodies know what surrounds them."""
    settled = settle_sizes(drop_dead(fold_constants(ask_types(infer_shapes(model)))))
    done = apply_rewrites(drop_dead(fold_constants(settled)), program)
    bodies = [body for body in bodies_of(done.model) if isinstance(body, Body)]
    inner = [prepare_graphs(body.model, program) for body in bodies]
    whole_model = drop_dead(with_bodies(done.model, [(b, i.model) for b, i in zip(bodies, inner, strict=True)]))
    changes = (*done.changes, *(change for i in inner for change in i.changes))
    return Rewritten(whole_model, changes, max(done.wanted, *(i.wanted for i in inner)) if inner else done.wanted)


def weights(model: Model, plan: Plan) -> Mapping[str, np.ndarray]:
    """The constants that the plan stores as integers, by name, as they are in the prepared model; halves as float32."""
    wanted = {c.tensor for c in plan.constants}
    stored = {t.name: t for graph in all_graphs(model.proto.graph) for t in graph.initializer if t.name in wanted}
    if model.aside is not None:
        return Unread(stored, _plain)
    return {name: _plain(array_of(t)) for name, t in stored.items()}


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32) if values.dtype.itemsize == 2 else values


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
