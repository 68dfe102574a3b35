"""Tasks of a search: models on a few samples, and calibration on a few. They hold all that they need, so they run anywhere."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from potc.data.annotated import Sample
from potc.diagnostics.diagnostic import reject
from potc.evaluate.simulate import Simulation, lane_uses
from potc.execute.session import InferenceSession, SessionError, first_line, open_session, run_each
from potc.graph.model import Model
from potc.language.program import Signature
from potc.quantize.calibrate import calibrate
from potc.quantize.plan import Plan
from potc.quantize.tuning import RangeSettings

Outputs = Mapping[str, np.ndarray]
OPEN = 2  # models that a process keeps open: the one that is judged, and the float model


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a device adds, where that is not what float arithmetic between the quantizers gives: its narrow lanes."""

    plan: Plan
    signatures: Mapping[str, Signature]


@dataclass(frozen=True, slots=True)
class Executable:
    """A model as bytes; ``arithmetic`` None: as written, in float between the quantizers."""

    model: bytes
    arithmetic: Arithmetic | None = None

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model).hexdigest()


def executable(compiled: bytes, plan: Plan, signatures: Mapping[str, Signature]) -> Executable:
    """A compiled model that gives the device's results on any host: sums that could saturate are simulated to the bit."""
    risky = any(use.at_risk for use in lane_uses(compiled, plan))
    return Executable(compiled, Arithmetic(plan, signatures) if risky else None)


_OPEN: OrderedDict[str, InferenceSession | Simulation] = OrderedDict()  # of this process, the last used one last


def opened(executable: Executable) -> InferenceSession | Simulation:
    """The session of a model, no optimizations, one thread. Raises Rejected(unrunnable-model)."""
    key = executable.digest
    if key not in _OPEN:
        while len(_OPEN) >= OPEN:
            _OPEN.popitem(last=False)
        try:
            arithmetic = executable.arithmetic
            _OPEN[key] = (
                open_session(executable.model, optimize=False, threads=1)
                if arithmetic is None
                else Simulation(executable.model, arithmetic.plan, arithmetic.signatures)
            )
        except SessionError as error:
            raise reject("unrunnable-model", f"onnxruntime can't load the model: {error}") from error
    _OPEN.move_to_end(key)
    return _OPEN[key]


@dataclass(frozen=True, slots=True)
class RunTask:
    """``run``: for each sample its annotation, and the outputs of each of the models. ``first``: index of the first sample;
    ``what``: which samples these are, for messages; ``outputs``: names."""

    models: tuple[Executable, ...]
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    first: int
    what: str

    @property
    def label(self) -> str:
        return _label(self.first, len(self.samples), self.what)

    def run(self) -> list[tuple[Any, tuple[Outputs, ...]]]:
        """Raises Rejected where a model does not load, or does not run on a sample."""
        by_model = [list(self._answers(m)) for m in self.models]
        return [(s.annotation, found) for s, *found in zip(self.samples, *by_model, strict=True)]  # type: ignore[misc]

    def _answers(self, model: Executable) -> Iterator[Outputs]:
        session = opened(model)
        names = list(self.outputs)
        feeds = [s.inputs for s in self.samples]
        if isinstance(session, Simulation):
            results: Iterator[Sequence[Any]] = (session.run(names, feed) for feed in feeds)
        else:
            results = run_each(session, names, feeds)
        for number in range(len(feeds)):
            try:
                found = next(results)
            except Exception as error:  # onnxruntime's errors have no common base
                message = f"onnxruntime can't run the model on {_label(self.first + number, 1, self.what)}: "
                raise reject("sample-failed", message + first_line(error)) from error
            yield dict(zip(names, map(np.asarray, found), strict=True))

    def halves(self) -> tuple[RunTask, ...]:
        middle = len(self.samples) // 2
        if not middle:
            return ()
        late = replace(self, samples=self.samples[middle:], first=self.first + middle)
        return replace(self, samples=self.samples[:middle]), late


@dataclass(frozen=True, slots=True)
class Feeds:
    """Calibration samples in memory, as a Dataset."""

    inputs: tuple[Mapping[str, np.ndarray], ...]
    generated: bool = False
    files: tuple[str, ...] = ()
    chosen: Sequence[int] = field(default_factory=tuple[int, ...])

    def __len__(self) -> int:
        return len(self.inputs)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.inputs)


@dataclass(frozen=True, slots=True)
class CalibrateTask:
    """``run``: the ranges of some samples as JSON, in a list, so that halves add up to the whole. ``names``: of the samples'
    indices, the first."""

    model: Model
    plan: Plan
    settings: RangeSettings
    samples: Feeds
    first: int

    @property
    def label(self) -> str:
        return _label(self.first, len(self.samples), "the calibration data")

    def run(self) -> list[str]:
        """Raises Rejected for samples that do not run, or give NaN or infinity."""
        found = calibrate(self.model, self.plan, self.samples, lambda done, total: None, self.settings, self.first)
        return [found.to_json()]

    def halves(self) -> tuple[CalibrateTask, ...]:
        middle = len(self.samples) // 2
        if not middle:
            return ()
        early, late = self.samples.inputs[:middle], self.samples.inputs[middle:]
        generated = self.samples.generated
        return (
            replace(self, samples=Feeds(early, generated)),
            replace(self, samples=Feeds(late, generated), first=self.first + middle),
        )


def _label(first: int, count: int, what: str) -> str:
    return f"sample {first} of {what}" if count == 1 else f"samples {first} to {first + count - 1} of {what}"
