"""Which layer costs how much: the noise of each kernel alone, and what reaches the model's outputs of it.

Noise is counted as its power relative to the signal, N / S = sum (x' - x)^2 / sum x^2, the inverse of the SQNR. Errors of
different layers are nearly independent, so their powers add up at the output (Lin, Talathi and Annapureddy, "Fixed Point
Quantization of Deep Convolutional Networks", 2016, section 3). Three models run on a few samples:

- the float model, with every kernel a second time on the same float inputs and with rounded constants: what rounding a layer
  alone does to its result, d_k;
- the compiled model as it is written, in float arithmetic between the quantizers: what the results are, and the error at the
  outputs that is to be explained, N;
- the float model with d_k added to the result of layer k: what reaches the outputs, N_k. The share of k is N_k / N, over the
  samples that were disturbed. One run is one layer on one sample, and ``RUNS`` of them are made.

With up to ``RUNS`` layers the shares are measured. With more, neighbours are disturbed together in as many groups, and the share
of a group is split by the layers' own N / S: an estimate, as if all noise inside of a group reached its end in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from potc.data.dataset import Dataset
from potc.data.kept import some
from potc.evaluate.measures import Sqnr
from potc.evaluate.sources import Point, Source, compiled_name, disturbed, sources_of, watched
from potc.execute.session import InferenceSession, open_session
from potc.graph.model import Model
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import Plan
from potc.quantize.scale import storage_dtype

SAMPLES = 8
RUNS = 32  # of the disturbed float model: two passes over 16 samples

Values = Mapping[str, Any]  # of a run, by tensor


@dataclass(frozen=True, slots=True)
class Account:
    """One source of noise (see ``sources.py``), over ``samples`` samples.

    ``sqnr_db``: its result in the compiled model against the float model, by tensor; ``alone_db``: the same if nothing but this
    source were rounded; ``share``: of the error at the model's outputs, None if there is none or no float output;
    ``clipped``: values of the float model beyond the range of their quantizer, of ``values`` values that are stored.
    """

    source: Source
    sqnr_db: Mapping[str, float]
    alone_db: float
    share: float | None
    clipped: int
    values: int


@dataclass(frozen=True, slots=True)
class Accounts:
    """In the order of the graph. ``measured``: False where shares are split inside of groups of neighbours.

    ``explained``: sum of the shares: about 1 where errors are independent, less where they enlarge each other, more where they
    cancel. ``disturbed``: samples of which each layer's noise was followed to the outputs.
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
    samples: int = SAMPLES,
    runs: int = RUNS,
) -> Accounts:
    """``prepared``: the float model that the plan speaks of. The model runs ``samples`` times in float with doubled kernels,
    ``samples`` times compiled, and ``runs`` times disturbed.
    """
    sources = sources_of(plan, prepared.proto)
    book = _Book(prepared, plan, params, compiled, sources)
    noisy = [i for i, s in enumerate(sources) if not s.silent]
    groups = [list(map(int, g)) for g in np.array_split(noisy, min(runs, len(noisy)))] if noisy else []
    followed = min(samples, runs // len(groups)) if groups else 0
    seen = 0
    for seen, (_, feed) in enumerate(some(dataset, samples), 1):
        book.add(feed, groups if seen <= followed else None)
    return book.close(seen, min(seen, followed), groups)


class _Book:
    """The models, and what was counted so far."""

    def __init__(
        self, prepared: Model, plan: Plan, params: Params, compiled: bytes, sources: tuple[Source, ...]
    ) -> None:
        self._proto, self._sources, self._params = prepared.proto, sources, params
        self._watched = watched(self._proto, plan, params, sources)
        self._float = open_session(self._watched.model, optimize=True, threads=1)
        proto = onnx.ModelProto.FromString(compiled)
        points = [p for s in sources for p in s.points]
        self._compiled_names = {p: compiled_name(p, proto) for p in points}
        self._compiled = open_session(_exposing(proto, self._compiled_names.values()), optimize=False, threads=1)
        self._disturbed: InferenceSession | None = None
        self._noise: Mapping[Point, str] = {}
        self._outputs = [o.name for o in self._proto.graph.output]
        self.tallies = [_Tally() for _ in sources]
        self._whole: dict[str, Sqnr] = {}
        self._groups: dict[tuple[int, str], Sqnr] = {}

    def add(self, feed: Values, groups: Sequence[Sequence[int]] | None) -> None:
        given, rounded = self._watched.given, self._watched.rounded
        names = list(dict.fromkeys((*self._outputs, *given.values(), *rounded.values())))
        wanted = [n for n in names if n not in feed]
        floats = {**feed, **dict(zip(wanted, self._float.run(wanted, dict(feed)), strict=True))}
        names = [n for n in dict.fromkeys((*self._outputs, *self._compiled_names.values())) if n not in feed]
        results = {**feed, **dict(zip(names, self._compiled.run(names, dict(feed)), strict=True))}
        changes: dict[Point, tuple[np.ndarray, np.ndarray]] = {}
        for source, tally in zip(self._sources, self.tallies, strict=True):
            for point in source.points:
                value, made = np.asarray(floats[given[point.tensor]]), np.asarray(floats[rounded[point.tensor]])
                if value.dtype.kind != "f":
                    continue
                if point.quantizer is not None:
                    solved = self._params.activations[point.quantizer]
                    tally.clipped += clipped(value, solved)
                    tally.values += value.size
                    made = stored(made, solved)
                tally.alone.add(value, made)
                found = results[self._compiled_names[point]]
                tally.result.setdefault(point.tensor, Sqnr()).add(value, np.asarray(found))
                if not source.silent:
                    changes[point] = made, value
        if groups is not None:
            noise = {point: _difference(*change) for point, change in changes.items()}
            self._follow(feed, floats, results, noise, groups)

    def _follow(
        self,
        feed: Values,
        floats: Values,
        results: Values,
        noise: Mapping[Point, np.ndarray],
        groups: Sequence[Sequence[int]],
    ) -> None:
        """One run per group: what its noise alone does to the outputs."""
        outputs = [n for n in self._outputs if n not in feed and np.asarray(floats[n]).dtype.kind == "f"]
        if self._disturbed is None:
            kinds = {p: helper.np_dtype_to_tensor_dtype(v.dtype) for p, v in noise.items()}
            made = disturbed(self._proto, kinds)
            self._disturbed, self._noise = open_session(made.model, optimize=True, threads=1), made.noise
        for name in outputs:
            self._whole.setdefault(name, Sqnr()).add(np.asarray(floats[name]), np.asarray(results[name]))
        for number, group in enumerate(groups):
            points = [p for i in group for p in self._sources[i].points]
            more = {self._noise[p]: noise[p] for p in points if p in noise}
            for name, value in zip(outputs, self._disturbed.run(outputs, {**feed, **more}), strict=True):
                self._groups.setdefault((number, name), Sqnr()).add(np.asarray(floats[name]), np.asarray(value))

    def close(self, samples: int, followed: int, groups: Sequence[Sequence[int]]) -> Accounts:
        whole = _relative(self._whole.values())
        shares: list[float | None] = [0.0 if whole else None] * len(self._sources)
        for number, group in enumerate(groups if whole else ()):
            power = _relative(s for (n, _), s in self._groups.items() if n == number) / whole
            own = [_relative([self.tallies[i].alone]) for i in group]
            for i, part in zip(group, own, strict=True):
                shares[i] = power * (part / sum(own) if sum(own) else 1 / len(own))
        accounts = tuple(
            Account(
                source, {t: s.db for t, s in tally.result.items()}, tally.alone.db, share, tally.clipped, tally.values
            )
            for source, tally, share in zip(self._sources, self.tallies, shares, strict=True)
        )
        known = [s for s in shares if s is not None]
        measured = all(len(g) == 1 for g in groups)
        return Accounts(samples, followed, measured, sum(known) if known else None, accounts)


def clipped(values: np.ndarray, params: QuantParams) -> int:
    """How many values have no code of their own within the type's limits: the nearest one is the first or the last."""
    codes = _codes(values, params)
    return int(np.count_nonzero((codes < params.qtype.low) | (codes > params.qtype.high)))


def stored(values: np.ndarray, params: QuantParams) -> np.ndarray:
    """``values`` after QuantizeLinear and DequantizeLinear, in float32 arithmetic as runtimes compute it."""
    scale, zero_point = _aligned(params, values.ndim)
    codes = np.clip(_codes(values, params), params.qtype.low, params.qtype.high)
    if params.qtype.floating:
        codes = codes.astype(storage_dtype(params.qtype.storage)).astype(np.float32)
    return ((codes - zero_point) * scale).astype(values.dtype)


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


def _difference(changed: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Zero where either is infinite or NaN."""
    finite = np.isfinite(changed) & np.isfinite(value)
    return np.where(finite, changed - np.where(finite, value, 0), 0).astype(value.dtype)


def _relative(ratios: Iterable[Sqnr]) -> float:
    """Sum of noise power / signal power; what has no signal, or infinite noise, does not count."""
    return sum(r.noise / r.signal for r in ratios if r.signal > 0 and math.isfinite(r.noise))


def _exposing(proto: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """A model that returns these tensors as well."""
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    more = onnx.ModelProto()
    more.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(names) if n not in known)
    return proto.SerializeToString() + more.SerializeToString()
