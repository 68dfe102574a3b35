"""Is a compiled model right: valid, loadable, finite, of the same shape, and alive. Writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.evaluate.measures import Sqnr
from potc.evaluate.simulate import LaneUse, Simulation, lane_uses
from potc.execute.aside import may_lack_numbers, without_numbers
from potc.execute.float_runs import next_results, open_float
from potc.execute.session import InferenceSession, first_line, open_session, run_each
from potc.graph.model import Model
from potc.language.program import Signature
from potc.quantize.plan import Plan

SAMPLES = 8
DEAD_DB = 3.0  # noise of half the signal's power; an output of zeros has 0 dB, models with few weak layers about 6 dB


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``detail`` says what was found, in a few words, whether ``ok`` or not."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Verification:
    """All checks that could be made: after a model that does not load, nothing more can be said.

    ``sqnr``: decibels against the float model by float output, over ``samples`` samples. ``lanes``: of each kernel that adds
    products in narrow registers, how many of its groups could saturate, and did.
    """

    checks: tuple[Check, ...]
    sqnr: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    lanes: tuple[LaneUse, ...] = ()

    @property
    def ok(self) -> bool:
        return all(c.ok for c in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.ok)


def verify(
    float_model: Model,
    compiled: bytes,
    dataset: Dataset,
    samples: int = SAMPLES,
    floor_db: float = DEAD_DB,
    simulate: bool = False,
    opened: InferenceSession | None = None,
    plan: Plan | None = None,
    signatures: Mapping[str, Signature] | None = None,
    steps: Mapping[str, float] | None = None,
) -> Verification:
    """Checks a compiled model against the float one, on up to ``samples`` samples spread evenly over the data set.

    - ``valid``: onnx.checker with strict shape inference; ``interface``: same inputs and outputs, by name, type and
      shape;
    - ``loads`` and ``runs`` in onnxruntime, with its optimizations, as it will be used; ``simulate``: results are those of
      float arithmetic between the quantizers, for devices whose sums don't saturate where this host's kernels do;
      ``opened``: the compiled model in onnxruntime with optimizations, if it is there already;
    - ``lanes``, with a ``plan``: no sum of neighbouring products can saturate, whatever the activations. While that holds, any
      host's kernels add as the device's do. Where it does not, results are those of a ``Simulation``;
    - ``results``: shapes and dtypes equal the float model's; ``finite``: no NaN or infinity where the float model has
      none;
    - ``alive``: at least one float output reaches ``floor_db`` of SQNR (outputs that are zero in float do not count), or is
      nowhere off by more than its step. ``steps``: what one code more or less means, of outputs that are stored. Detectors
      of rare things answer next to nothing for most samples, less than a step.

    Raises Rejected only if onnxruntime can't load the float model or run it on a sample.
    """
    checks = list(checked_form(float_model.proto, compiled))
    sessions = [opened] if opened is not None else list[InferenceSession]()
    if opened is None:
        checks.append(_attempt("loads", lambda: sessions.append(open_session(compiled, optimize=True, threads=1))))
    else:
        checks.append(Check("loads", True, "yes"))
    reference = open_float(float_model.proto.SerializeToString())
    if not sessions:
        return Verification(tuple(checks))
    outputs = [o.name for o in float_model.proto.graph.output]
    uses = () if plan is None else lane_uses(compiled, plan)
    if plan is not None and any(u.at_risk for u in uses):
        session = Simulation(compiled, plan, signatures or {})
        uses = session.uses
    else:
        session = open_session(compiled, optimize=False, threads=1) if simulate else sessions[0]
    comparison = _compare(reference, session, outputs, dataset, samples, steps or {})
    if uses:
        checks.append(lanes_check(uses))
    if isinstance(comparison, Check):
        return Verification((*checks, comparison), {}, 0, uses)
    checks.append(Check("runs", True, f"{comparison.samples} samples"))
    return Verification((*checks, *comparison.checks(floor_db)), comparison.sqnr_db(), comparison.samples, uses)


def checked_form(proto: onnx.ModelProto, compiled: bytes) -> tuple[Check, Check]:
    """The checks ``valid`` and ``interface``, which run nothing."""
    return _attempt("valid", lambda: _validate(compiled)), _interface(proto, compiled)


def _compare(
    reference: InferenceSession,
    session: InferenceSession | Simulation,
    outputs: list[str],
    dataset: Dataset,
    samples: int,
    steps: Mapping[str, float],
) -> Comparison | Check:
    """Both models on the same samples, or the failed check where the compiled one does not run."""
    chosen = list(some(dataset, samples))
    feeds = [feed for _, feed in chosen]
    expected = run_each(reference, outputs, feeds)
    found = (
        _one_by_one(session, outputs, feeds) if isinstance(session, Simulation) else run_each(session, outputs, feeds)
    )
    comparison = Comparison(outputs, steps)
    for index, _ in chosen:
        wanted = next_results(expected, index)
        try:
            results = next(found)
        except Exception as error:  # whatever onnxruntime says is the finding
            return Check("runs", False, f"sample {index}: {first_line(error)}")
        comparison.add(index, wanted, results)
    return comparison


def _one_by_one(
    simulation: Simulation, outputs: list[str], feeds: list[Mapping[str, np.ndarray]]
) -> Iterator[Sequence[Any]]:
    for feed in feeds:
        yield simulation.run(outputs, feed)


def lanes_check(uses: tuple[LaneUse, ...]) -> Check:
    """Codes alone decide: what the samples did is told beside."""
    risky = [u for u in uses if u.at_risk]
    if not risky:
        return Check("lanes", True, f"none of {sum(u.groups for u in uses)} groups of neighbours can saturate")
    told = (f"`{u.node}`: {u.at_risk} of {u.groups} groups, saturated {u.saturated} times" for u in risky)
    return Check("lanes", False, f"sums can saturate: {'; '.join(told)}")


def _attempt(name: str, action: Callable[[], object]) -> Check:
    try:
        action()
    except Exception as error:  # the finding of this check, whatever its type
        return Check(name, False, first_line(error))
    return Check(name, True, "yes")


def _validate(compiled: bytes) -> None:
    model = without_numbers(onnx.ModelProto.FromString(compiled)) if may_lack_numbers(compiled) else compiled
    onnx.checker.check_model(model, full_check=True)


def _interface(proto: onnx.ModelProto, compiled: bytes) -> Check:
    a, b = _signature(proto), _signature(onnx.ModelProto.FromString(compiled))
    differing = sorted(k for k in a | b if k not in a or k not in b or not _same(a[k], b[k]))
    if differing:
        return Check("interface", False, ", ".join(f"{kind} `{name}` differs" for kind, name in differing))
    return Check("interface", True, f"{len(a)} inputs and outputs as before")


def _signature(proto: onnx.ModelProto) -> dict[tuple[str, str], onnx.TypeProto.Tensor]:
    stored = {t.name for t in proto.graph.initializer}
    inputs = [("input", i) for i in proto.graph.input if i.name not in stored]
    outputs = [("output", o) for o in proto.graph.output]
    return {(kind, v.name): v.type.tensor_type for kind, v in (*inputs, *outputs)}


def _same(before: onnx.TypeProto.Tensor, after: onnx.TypeProto.Tensor) -> bool:
    """Equal element types and dimensions; one of which nothing at all was said may have become known."""
    if before.elem_type != after.elem_type or before.HasField("shape") != after.HasField("shape"):
        return False
    pairs = list(zip(before.shape.dim, after.shape.dim, strict=False))
    fixed = all(a.dim_value == b.dim_value for a, b in pairs if a.HasField("dim_value") or a.HasField("dim_param"))
    return fixed and len(before.shape.dim) == len(after.shape.dim)


class Comparison:
    """What two models return, compared sample by sample; memory does not grow with the samples."""

    def __init__(self, outputs: list[str], steps: Mapping[str, float]) -> None:
        self.outputs = outputs
        self._within = dict(steps)  # outputs that were not yet off by more than their step
        self.samples = 0
        self._sqnr: dict[str, Sqnr] = {}
        self._shapes: list[str] = []
        self._finite: list[str] = []

    def add(self, index: int, expected: Sequence[Any], found: Sequence[Any]) -> None:
        self.samples += 1
        for name, a, b in zip(self.outputs, expected, found, strict=True):
            if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
                continue  # sequences and maps are no concern of quantization
            if a.shape != b.shape or a.dtype != b.dtype:
                self._shapes.append(
                    f"`{name}`, sample {index}: {b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
                )
            elif a.dtype.kind == "f":
                if np.isfinite(a).all() and not np.isfinite(b).all():
                    self._finite.append(f"`{name}` holds NaN or infinity in sample {index}")
                self._sqnr.setdefault(name, Sqnr()).add(a, b)
                if name in self._within and not _within(a, b, self._within[name]):
                    del self._within[name]

    def sqnr_db(self) -> dict[str, float]:
        return {name: ratio.db for name, ratio in self._sqnr.items()}

    def checks(self, floor_db: float) -> tuple[Check, ...]:
        nonzero = {
            n: r.db for n, r in self._sqnr.items() if r.signal > 0
        }  # outputs that are zero in float have no ratio
        exact = any(n in self._within for n in nonzero)
        alive = not nonzero or exact or max(nonzero.values()) >= floor_db
        best = f"best output {max(nonzero.values()):.1f} dB" if nonzero else "no float output with a signal"
        if not math.isinf(floor_db):
            best += ", nowhere off by more than a step" if exact else f", must reach {floor_db:g} dB"
        return (
            Check("results", not self._shapes, self._shapes[0] if self._shapes else "shapes and types as before"),
            Check("finite", not self._finite, self._finite[0] if self._finite else "yes"),
            Check("alive", alive, best),
        )


def _within(expected: np.ndarray, found: np.ndarray, step: float) -> bool:
    """False also where either is NaN."""
    return bool((np.abs(found - expected) <= step).all())
