"""What a compile did, as plain values: the summary for people and ``--report`` are both made from it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from potc import __version__
from potc.choose import Choice
from potc.compiler import Compilation
from potc.data.dataset import digest_of
from potc.evaluate.account import account
from potc.evaluate.judge import Score
from potc.evaluate.layers import Layers, layers
from potc.evaluate.simulate import LaneUse
from potc.evaluate.verify import Verification
from potc.execute.session import SessionError
from potc.graph.whole import whole_bytes
from potc.language.lattice import spell
from potc.quantize.borders import Border
from potc.quantize.doubts import doubts
from potc.quantize.equalize.centre import Centred
from potc.quantize.equalize.run import Equalized
from potc.quantize.numbers import QuantParams
from potc.quantize.plan import Kernel, Left
from potc.shipped import shipped_rules

VERSION = 1
LISTED_SCALES = 8  # longer lists of scales are told by their extremes


@dataclass(frozen=True, slots=True)
class RuleUse:
    """A rule or rewrite that was applied ``count`` times."""

    rule: str
    place: str
    count: int


@dataclass(frozen=True, slots=True)
class KernelUse:
    """One kernel: its nodes, and the formats of what it reads and writes, by captured name."""

    rule: str
    place: str
    nodes: tuple[str, ...]
    formats: dict[str, str]
    integer: bool


@dataclass(frozen=True, slots=True)
class FloatNode:
    """A node that stays in float, with what each rule that came near says."""

    node: str
    operator: str
    reasons: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True)
class Format:
    """How one tensor is stored: ``scale`` and ``zero_point`` in full where there are few, else their extremes."""

    tensor: str
    format: str
    scale: list[float]
    zero_point: list[int]
    axis: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Share:
    """How many nodes onnxruntime runs on integers: ``integer`` of the ``quantizable`` nodes that kernels cover, and of
    those with a weight ``weighted_integer`` of ``weighted``."""

    quantizable: int
    integer: int
    weighted: int
    weighted_integer: int


@dataclass(frozen=True, slots=True)
class NarrowedWeight:
    """The scales of one weight that had to grow. ``channels``: which, like ``0-3, 7``; ``factor``: by how much at most."""

    tensor: str
    node: str
    scales: int
    grown: int
    channels: str
    factor: float


@dataclass(frozen=True, slots=True)
class Narrowed:
    """``grown`` of ``scales`` weight scales had to grow so that no accumulator saturates. ``at_risk``: groups of neighbouring
    weights that could saturate one nevertheless, by the codes in the compiled model."""

    scales: int
    grown: int
    at_risk: int
    weights: tuple[NarrowedWeight, ...]


@dataclass(frozen=True, slots=True)
class CorrectedBias:
    """What was added to one bias, over its ``channels``, in units of what the layer returns."""

    tensor: str
    node: str
    channels: int
    largest: float
    rms: float


@dataclass(frozen=True, slots=True)
class Corrected:
    """Biases that were moved by ``method``, in the order of the plan."""

    method: str
    biases: tuple[CorrectedBias, ...]


@dataclass(frozen=True, slots=True)
class SecondOrder:
    """How many of ``weights`` were ``rounded`` by second moments; of the others, why they were leveled, by tensor."""

    weights: int
    rounded: int
    leveled: dict[str, str]


@dataclass(frozen=True, slots=True)
class Scaled:
    """What equalization did to the float model: ``groups`` of channels that were scaled together, tensors that were ``centred``,
    ``difference`` of results before and after, as a share of their norm; ``refused``: why nothing was changed although something
    was found."""

    method: str
    groups: tuple[Equalized, ...]
    centred: tuple[Centred, ...]
    difference: float
    refused: str


@dataclass(frozen=True, slots=True)
class Output:
    """Signal to noise of one float output of the model, against the float model; infinite (null in JSON) if nothing differs."""

    name: str
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Verified:
    """What was looked at in the compiled model, over ``samples`` samples."""

    samples: int
    outputs: tuple[Output, ...]
    checks: dict[str, str]
    lanes: tuple[LaneUse, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """One setting: what differs from what was asked for; its score on held-back samples, None where it was not possible."""

    changed: tuple[str, ...]
    kept: bool
    score: Score | None
    failed: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """All settings that were tried, calibrated on ``calibrated`` samples and judged on ``held_back`` others. ``simulated``:
    in float arithmetic between the quantizers, not on this host's kernels."""

    tried: tuple[Tried, ...]
    calibrated: int
    held_back: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class Report:
    """Equal compiles give equal reports: no times, no absolute paths. ``layers``: None where nobody asked for them; ``search``:
    see ``search_document``, None where no accuracy target was given."""

    versions: dict[str, str]
    model: str
    rules: str
    device: str
    features: dict[str, bool | int | float]
    rules_digest: str
    preset: str
    tuning: dict[str, Any]
    choice: Chosen | None
    search: dict[str, Any] | None
    data: str | None
    preprocessing: dict[str, Any]
    samples: int
    seed: int | None
    samples_digest: str
    generated: bool
    bytes_before: int
    bytes_after: int
    borders: tuple[Border, ...]
    rewrites: tuple[RuleUse, ...]
    equalization: Scaled | None
    rule_uses: tuple[RuleUse, ...]
    kernels: tuple[KernelUse, ...]
    share: Share
    narrowed: Narrowed
    corrected: Corrected
    second_order: SecondOrder | None
    verification: Verified
    layers: Layers | None
    activations: tuple[Format, ...]
    constants: tuple[Format, ...]
    stayed_float: tuple[FloatNode, ...]
    warnings: tuple[str, ...]
    inputs: tuple[str, ...]

    def to_json(self) -> str:
        """One versioned document with a final newline; infinite decibels are null."""
        document = {"potc": "report", "version": VERSION, **asdict(self)}
        return json.dumps(_finite(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def layers_of(compilation: Compilation) -> Layers | str:
    """What each layer costs, from a few more runs of both models; or why that can't be told."""
    c = compilation
    if c.prepared.aside is not None:
        return "layers are not accounted for: that takes the whole model in memory, several times"
    try:
        accounts = account(c.prepared, c.plan, c.params, c.compiled, c.samples)
    except SessionError as error:  # doubled kernels can be more than one file holds
        return f"layers can't be accounted for: {error}"
    return layers(accounts, c.plan, c.params, c.ranges, c.changes)


def report(
    compilation: Compilation,
    accounted: Layers | str | None = None,
    choice: Choice | None = None,
    search: dict[str, Any] | None = None,
) -> Report:
    """Everything worth telling about a compile. ``accounted``: of ``layers_of``; ``choice``: how its settings were found;
    ``search``: what was tried for an accuracy target."""
    job, program, plan, share = compilation.job, compilation.program, compilation.plan, compilation.share
    return Report(
        versions={"potc": __version__, **{p: import_module(p).__version__ for p in ("onnx", "onnxruntime", "numpy")}},
        model=job.model,
        rules=job.rules,
        device=program.device,
        features=dict(program.features),
        rules_digest=program.digest,
        preset=job.preset or job.tuning.ranges.preset,
        tuning=asdict(job.tuning),
        choice=choice and _chosen(choice),
        search=search,
        data=job.data if isinstance(job.data, str) else None,
        preprocessing=job.preprocess.told(),
        samples=len(compilation.samples),
        seed=job.seed,
        samples_digest=digest_of(compilation.samples.chosen),
        generated=compilation.ranges.generated and _is_measured(compilation),
        bytes_before=sum(Path(f).stat().st_size for f in compilation.model.files),
        bytes_after=whole_bytes(compilation.output).size,
        borders=compilation.borders,
        rewrites=_uses((c.rewrite, c.place) for c in compilation.changes),
        equalization=_scaled(compilation),
        rule_uses=_uses((k.rule, k.place) for k in plan.kernels),
        kernels=tuple(_kernels(compilation)),
        share=Share(share.covered, share.covered_integer, share.weighted, share.weighted_integer),
        narrowed=_narrowed(compilation),
        corrected=_corrected(compilation),
        second_order=_second_order(compilation),
        verification=_verified(compilation.verification),
        layers=None if isinstance(accounted, str) else accounted,
        activations=tuple(_activations(compilation)),
        constants=tuple(_constants(compilation)),
        stayed_float=tuple(_float_node(left) for left in plan.left),
        warnings=(*_warnings(compilation), *([accounted] if isinstance(accounted, str) else [])),
        inputs=tuple(_inputs(compilation)),
    )


def _scaled(compilation: Compilation) -> Scaled | None:
    found = compilation.equalization
    method = compilation.job.tuning.equalize.method
    return found and Scaled(method, found.groups, found.centred, found.difference, found.refused)


def _is_measured(compilation: Compilation) -> bool:
    """False where no number of the compiled model depends on samples."""
    return bool(compilation.plan.observed) or compilation.job.tuning.rounding.method == "gptq"


def _chosen(choice: Choice) -> Chosen:
    tried = (Tried(t.changed, i == choice.best, t.score, t.failed) for i, t in enumerate(choice.tries))
    return Chosen(tuple(tried), choice.calibrated, choice.held_back, choice.simulated)


def _inputs(compilation: Compilation) -> Iterator[str]:
    """Shipped rule files by their bare names: where they are installed is no part of a result."""
    shipped = {str(path): path.name for path in shipped_rules().values()}
    yield from (shipped.get(file, file) for file in compilation.inputs)


def _warnings(compilation: Compilation) -> Iterator[str]:
    yield from (d.message for d in compilation.program.warnings)
    low, high = compilation.program.opset
    if compilation.model.opset > high:
        opset = compilation.model.opset
        yield f"the model has opset {opset}, the device allows {low} to {high}: rules may misread newer operators"
    if compilation.model.bfloat16 is not None:
        yield "bfloat16 is computed in float32, inputs and outputs apart: onnxruntime's processor kernels have no bfloat16"
    if compilation.prepared.aside is not None and compilation.job.tuning.bias.method == "sequential":
        yield "biases are corrected as by --bias-correction fast: sequential takes the whole model in memory"
    if not compilation.plan.kernels:
        yield "nothing was quantized: no node runs on integers; `stayed_float` says why"
    if compilation.equalization is not None and compilation.equalization.refused:
        yield f"not equalized: {compilation.equalization.refused}"
    yield from (n.overflow for n in compilation.params.narrowing.values() if n.overflow)
    yield from doubts(compilation.plan, compilation.ranges, compilation.params)


def _verified(found: Verification) -> Verified:
    outputs = tuple(Output(name, db) for name, db in found.sqnr.items())
    return Verified(found.samples, outputs, {c.name: c.detail for c in found.checks}, found.lanes)


def _narrowed(compilation: Compilation) -> Narrowed:
    narrowing = compilation.params.narrowing
    weights: list[NarrowedWeight] = []
    for index, found in narrowing.items():
        if found.at_risk:
            constant, grown = compilation.plan.constants[index], found.factor.reshape(-1) > 1
            channels = intervals(i for i, grew in enumerate(grown.tolist()) if grew)
            factor = float(found.factor.max())
            sizes = (int(found.scale.size), int(found.at_risk))
            weights.append(NarrowedWeight(constant.tensor, constant.node, *sizes, channels, float(f"{factor:.6g}")))
    scales = sum(int(n.scale.size) for n in narrowing.values())
    at_risk = sum(u.at_risk for u in compilation.verification.lanes)
    return Narrowed(scales, sum(n.at_risk for n in narrowing.values()), at_risk, tuple(weights))


def _corrected(compilation: Compilation) -> Corrected:
    biases: list[CorrectedBias] = []
    for index, shift in sorted(compilation.params.shifts.items()):
        constant, size = compilation.plan.constants[index], np.abs(shift)
        figures = (float(f"{f:.6g}") for f in (size.max(initial=0.0), np.sqrt(np.square(size).mean())))
        biases.append(CorrectedBias(constant.tensor, constant.node, int(shift.size), *figures))
    return Corrected(compilation.job.tuning.bias.method, tuple(biases))


def _second_order(compilation: Compilation) -> SecondOrder | None:
    """None where weights were rounded otherwise."""
    if compilation.job.tuning.rounding.method != "gptq":
        return None
    outcome, constants = compilation.params.second_order, compilation.plan.constants
    leveled = {constants[i].tensor: why for i, why in outcome.items() if why}
    return SecondOrder(len(outcome), sum(not why for why in outcome.values()), leveled)


def intervals(numbers: Iterable[int]) -> str:
    """Ascending numbers in few words: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _uses(applied: Iterator[tuple[str, str]]) -> tuple[RuleUse, ...]:
    return tuple(RuleUse(rule, place, count) for (rule, place), count in sorted(Counter(applied).items()))


def _kernels(compilation: Compilation) -> Iterator[KernelUse]:
    floating = set(compilation.share.floating)
    activations, constants = _storages(compilation)
    for kernel in compilation.plan.kernels:
        integer = floating.isdisjoint(kernel.nodes)
        formats = dict(_formats(kernel, activations, constants))
        yield KernelUse(kernel.rule, kernel.place, kernel.nodes, formats, integer)


def _storages(compilation: Compilation) -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Storage types: of activations by tensor, of constants by node and tensor."""
    plan, params = compilation.plan, compilation.params
    activations = {t: params.activations[q.id].qtype.storage for q in plan.quantizers for t in q.tensors}
    pairs = zip(plan.constants, params.constants, strict=True)
    return activations, {(c.node, c.tensor): p.qtype.storage for c, p in pairs}


def _formats(
    kernel: Kernel, activations: dict[str, str], constants: dict[tuple[str, str], str]
) -> Iterator[tuple[str, str]]:
    """Captured name and storage type (or ``float``), in the order of the bindings."""
    for name, tensor in kernel.bindings:
        stored = [constants[node, tensor] for node in kernel.nodes if (node, tensor) in constants]
        yield name, stored[0] if stored else activations.get(tensor, "float")


def _activations(compilation: Compilation) -> Iterator[Format]:
    params = compilation.params
    for quantizer in compilation.plan.quantizers:
        for tensor in quantizer.tensors:
            yield _format(tensor, params.activations[quantizer.id], params.activation_reasons[quantizer.id])


def _constants(compilation: Compilation) -> Iterator[Format]:
    params = compilation.params
    for constant, solved, reason in zip(
        compilation.plan.constants, params.constants, params.constant_reasons, strict=True
    ):
        yield _format(constant.tensor, solved, reason)


def _format(tensor: str, solved: QuantParams, reason: str) -> Format:
    scale, zero_point = solved.scale, solved.zero_point
    scales = [float(str(s)) for s in scale.ravel()]  # through float32's own shortest spelling
    zeros = [int(z) for z in zero_point.ravel()]
    if len(scales) > LISTED_SCALES:
        scales, zeros = [min(scales), max(scales)], sorted({min(zeros), max(zeros)})
    return Format(tensor, spell(solved.qtype), scales, zeros, solved.axis, reason)


def _float_node(left: Left) -> FloatNode:
    reasons = tuple({"rule": r.rule, "place": r.place, "reason": r.reason} for r in left.reasons)
    return FloatNode(left.node, left.operator, reasons)


def _finite(value: Any) -> Any:
    """The same value without infinities, which JSON can't spell."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
