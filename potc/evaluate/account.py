"""Which layer costs how much: the noise that each kernel makes, and what reaches the model's outputs of it.

Three models run on a few samples: the float model, for reference; the compiled model as it is written (float arithmetic
between the quantizers), in which each kernel with constants stands a second time in float, on the same inputs; and the
float model with noise added to the results of one layer.

- d = what a layer returns in the compiled model - what it would return for the same inputs without rounding.
- e_k = change of the float model's outputs when d is added to the results of layer k.
- e = error of the compiled model's outputs. As far as errors are small enough to add up, e is the sum of all e_k.
- The share of layer k is e_k . e / e . e. The shares add up to 1 where e is the sum of all e_k.

That share is the Shapley value (L. S. Shapley, "A Value for n-Person Games", 1953) of layer k in the squared error: the
mean, over all orders in which layers can be rounded, of what rounding layer k adds to it. It is negative where a layer makes
up for what others lose, as corrected biases do. Where errors are independent it is the layer's part of the noise power.
Several outputs count relative to their signals.

One run follows the noise of one layer on one sample. Small models are run until ``WORK`` numbers were computed, others
``RUNS`` times. With more layers than runs, neighbours are disturbed together in as many groups, and the share of a group
is split by the layers' own noise relative to their signals: an estimate, as noise-to-signal ratios of layers in a chain
add up (Lin, Talathi and Annapureddy, "Fixed Point Quantization of Deep Convolutional Networks", 2016, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import helper

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.evaluate.measures import Sqnr
from potc.evaluate.sources import Point, Source, disturbed, exposing, sources_of, watched
from potc.execute.session import InferenceSession, open_session
from potc.graph.model import Model
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import Plan

SAMPLES, FEWEST = 16, 4  # of small models, and of large ones
RUNS = 32  # of the disturbed float model: two passes over 16 samples
WORK = 1 << 28  # weights and results of all runs together: about a second

Values = Mapping[str, Any]  # of a run, by tensor


@dataclass(frozen=True, slots=True)
class Account:
    """One source of noise (see ``sources.py``), over ``samples`` samples.

    ``sqnr_db``: its results in the compiled model against the float model, by tensor; ``alone_db``: against what the
    source would return for the inputs that it gets in the compiled model without rounding anything itself; ``output_db``:
    the model's float outputs, taken together, with the noise of this source alone; ``share``: of the error at the
    outputs. Both are None where no float output has a signal, ``share`` also where there is no error. ``clipped``: values
    of the float model beyond the range of their quantizer, of ``values`` values that are stored.
    """

    source: Source
    sqnr_db: Mapping[str, float]
    alone_db: float
    output_db: float | None
    share: float | None
    clipped: int
    values: int


@dataclass(frozen=True, slots=True)
class Accounts:
    """In the order of the graph. ``measured``: False where shares are split inside of groups of neighbours.

    ``explained``: sum of the shares: about 1 where errors are so small that they add up. ``disturbed``: samples of which
    each layer's noise was followed to the outputs.
    """

    samples: int
    disturbed: int
    measured: bool
    explained: float | None
    accounts: tuple[Account, ...]


@dataclass(slots=True)
class _Tally:
    """Of one source, while samples are run."""

    result: dict[str, Sqnr] = field(default_factory=dict[str, Sqnr])
    alone: Sqnr = field(default_factory=Sqnr)
    clipped: int = 0
    values: int = 0


def account(
    prepared: Model,
    plan: Plan,
    params: Params,
    compiled: bytes,
    dataset: Dataset,
    samples: int | None = None,
    runs: int | None = None,
) -> Accounts:
    """``prepared``: the float model that the plan speaks of. Models run ``samples`` times in float, ``samples`` times
    compiled with doubled kernels, and ``runs`` times disturbed (None: as said above). Raises SessionError where the
    doubled model is too large for onnxruntime.
    """
    sources = sources_of(plan, prepared.proto)
    book = _Book(prepared, plan, params, compiled, sources)
    noisy = [i for i, s in enumerate(sources) if not s.silent]
    groups: list[list[int]] = []
    seen = followed = most = allowed = 0
    for _, feed in some(dataset, samples or SAMPLES):
        sample = book.add(feed)
        seen += 1
        if seen == 1:
            affordable = WORK // max(1, book.numbers(sample))
            most = samples or max(FEWEST, affordable // 4)
            allowed = runs or max(RUNS, affordable)
            groups = [list(map(int, g)) for g in np.array_split(noisy, min(allowed, len(noisy)))] if noisy else []
        if groups and (followed + 1) * len(groups) <= allowed:
            book.follow(feed, sample, groups)
            followed += 1
        if seen == most:
            break
    return book.close(seen, followed, groups)


@dataclass(frozen=True, slots=True)
class _Sample:
    """What the float model and the compiled one made of one sample, by tensor, and the noise of each point."""

    floats: Values
    results: Values
    noise: Mapping[Point, np.ndarray]


class _Book:
    """The models, and what was counted so far."""

    def __init__(
        self, prepared: Model, plan: Plan, params: Params, compiled: bytes, sources: tuple[Source, ...]
    ) -> None:
        self._proto, self._sources, self._params = prepared.proto, sources, params
        self._float = open_session(exposing(self._proto, _tensors(sources)), optimize=True, threads=1)
        self._watched = watched(compiled, self._proto, plan, sources)
        self._compiled = open_session(self._watched.model, optimize=False, threads=1)
        self._disturbed: InferenceSession | None = None
        self._noise: Mapping[Point, str] = {}
        self._outputs = [o.name for o in self._proto.graph.output]
        self._tallies = [_Tally() for _ in sources]
        # All relative to the signal of each output, and summed over outputs and samples.
        self._parts: dict[int, float] = {}  # e_k . e of each group
        self._powers: dict[int, float] = {}  # e_k . e_k of each group
        self._error = 0.0  # e . e
        self._outputs_seen = 0

    def numbers(self, sample: _Sample) -> int:
        """How many weights and results one run of the float model has."""
        weights = sum(math.prod(t.dims) for t in self._proto.graph.initializer)
        return weights + sum(np.asarray(sample.floats[t]).size for t in _tensors(self._sources))

    def add(self, feed: Values) -> _Sample:
        """One sample in both models."""
        real, exact = self._watched.real, self._watched.exact
        floats = _run(self._float, (*self._outputs, *_tensors(self._sources)), feed)
        results = _run(self._compiled, (*self._outputs, *real.values(), *exact.values()), feed)
        noise: dict[Point, np.ndarray] = {}
        for source, tally in zip(self._sources, self._tallies, strict=True):
            for point in source.points:
                value, found = np.asarray(floats[point.tensor]), np.asarray(results[real[point]])
                if value.dtype.kind != "f":
                    continue
                if point.quantizer is not None:
                    tally.clipped += clipped(value, self._params.activations[point.quantizer])
                    tally.values += value.size
                tally.result.setdefault(point.tensor, Sqnr()).add(value, found)
                if not source.silent:
                    wanted = np.asarray(results[exact[point]])
                    tally.alone.add(wanted, found)
                    noise[point] = difference(found, wanted)
        return _Sample(floats, results, noise)

    def follow(self, feed: Values, sample: _Sample, groups: Sequence[Sequence[int]]) -> None:
        """One run per group: what its noise alone does to the outputs."""
        floats, noise = sample.floats, sample.noise
        if self._disturbed is None:
            made = disturbed(self._proto, {p: helper.np_dtype_to_tensor_dtype(v.dtype) for p, v in noise.items()})
            self._disturbed, self._noise = open_session(made.model, optimize=True, threads=1), made.noise
        outputs = [n for n in self._outputs if n not in feed and np.asarray(floats[n]).dtype.kind == "f"]
        errors: dict[str, np.ndarray] = {}
        scales: dict[str, float] = {}
        for name in outputs:
            value = np.asarray(floats[name])
            power = float(np.square(np.where(np.isfinite(value), value, 0), dtype=np.float64).sum())
            if power > 0:
                scales[name] = 1 / power
                errors[name] = difference(np.asarray(sample.results[name]), value).astype(np.float64)
                self._error += _dot(errors[name], errors[name]) / power
        self._outputs_seen += len(errors)
        if not errors:
            return
        for number, group in enumerate(groups):
            fed = {self._noise[p]: noise[p] for i in group for p in self._sources[i].points if p in noise}
            found = _run(self._disturbed, errors, {**feed, **fed})
            moved = {n: difference(np.asarray(found[n]), floats[n]).astype(np.float64) for n in errors}
            part = sum(_dot(moved[n], errors[n]) * scales[n] for n in errors)
            power = sum(_dot(moved[n], moved[n]) * scales[n] for n in errors)
            self._parts[number] = self._parts.get(number, 0.0) + part
            self._powers[number] = self._powers.get(number, 0.0) + power

    def close(self, samples: int, followed: int, groups: Sequence[Sequence[int]]) -> Accounts:
        """The shares, from what was counted."""
        shares: list[float | None] = [0.0 if self._error else None] * len(self._sources)
        powers: list[float | None] = [0.0 if self._outputs_seen else None] * len(self._sources)
        for number, group in enumerate(groups if self._outputs_seen else ()):
            own = [_relative(self._tallies[i].alone) for i in group]
            for i, part in zip(group, own, strict=True):
                split = part / sum(own) if sum(own) else 1 / len(own)
                powers[i] = self._powers[number] / self._outputs_seen * split
                if self._error:
                    shares[i] = self._parts[number] / self._error * split
        accounts = tuple(
            Account(
                source,
                {name: ratio.db for name, ratio in tally.result.items()},
                tally.alone.db,
                None if power is None else -10 * math.log10(power) if power else math.inf,
                share,
                tally.clipped,
                tally.values,
            )
            for source, tally, power, share in zip(self._sources, self._tallies, powers, shares, strict=True)
        )
        known = [s for s in shares if s is not None]
        measured = all(len(g) == 1 for g in groups)
        return Accounts(samples, followed, measured, sum(known) if known else None, accounts)


def _tensors(sources: Iterable[Source]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(p.tensor for s in sources for p in s.points))


def _run(session: InferenceSession, names: Iterable[str], feed: Values) -> Values:
    """Tensors by name; those that are fed are as they were fed."""
    wanted = [n for n in dict.fromkeys(names) if n not in feed]
    if not wanted:  # onnxruntime takes that for all of them
        return feed
    return {**feed, **dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))}


def clipped(values: np.ndarray, params: QuantParams) -> int:
    """How many values have no code of their own within the type's limits: the nearest one is the first or the last."""
    codes = _codes(values, params)
    return int(np.count_nonzero((codes < params.qtype.low) | (codes > params.qtype.high)))


def _codes(values: np.ndarray, params: QuantParams) -> np.ndarray:
    """Float32, not clamped, and for a float storage not rounded."""
    scale, zero_point = _aligned(params, values.ndim)
    codes = values.astype(np.float32) / scale
    return codes if params.qtype.floating else np.rint(codes) + zero_point


def _aligned(params: QuantParams, rank: int) -> tuple[np.ndarray, np.ndarray]:
    shape = [1] * rank
    if params.axis is not None:
        shape[params.axis] = -1
    elif params.scale.ndim == 0:
        shape = []
    return params.scale.astype(np.float32).reshape(shape), params.zero_point.astype(np.float32).reshape(shape)


def difference(changed: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Zero where either is infinite or NaN. An array also of a single number, for which numpy has a type that can't be fed."""
    finite = np.isfinite(changed) & np.isfinite(value)
    if finite.all():
        return np.asarray(changed - value)
    return np.asarray(np.where(finite, changed - np.where(finite, value, 0), 0)).astype(value.dtype)


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum())


def _relative(ratio: Sqnr) -> float:
    """Noise power / signal power; 0 for what has no signal, or infinite noise."""
    return ratio.noise / ratio.signal if ratio.signal > 0 and math.isfinite(ratio.noise) else 0.0
