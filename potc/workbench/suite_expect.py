"""What goes into the model of a case, and what a bit-exact device makes of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from potc.execute.session import SessionError, first_line, open_session
from potc.sketch.oracle import random_inputs
from potc.workbench.exact import DEQUANTIZE, QUANTIZE, Evaluation, Exact, Grid, NotComputable
from potc.workbench.suite_build import Compiled, Unbuildable

RANDOM = 3  # samples of random codes
TRIES = 12  # random samples that are drawn for one that can't be misunderstood

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """What a stored input can hold: codes from ``low`` to ``high``; scale and zero point broadcast against the input."""

    low: int
    high: int
    scale: np.ndarray
    zero_point: np.ndarray


Codes = Callable[[Range, Shape], np.ndarray]  # codes of that shape


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that the model stores. ``codes``: its name among the tensors of the compiled model; ``end``: the model
    returns it. ``source``: the float tensor that is rounded. ``axis``: of several scales, None for one."""

    tensor: str
    codes: str
    source: str
    grid: Grid
    end: bool
    axis: int | None


@dataclass(frozen=True, slots=True)
class Expected:
    """Inputs and results, the first axis of each array counting ``samples``.

    ``codes`` and ``near_tie`` are by stored tensor. ``exact``: tensors before which float32 rounds nothing, so that ties are
    decided as well. ``undecided``: samples in which a tensor before the results lies near a tie, so that a code of the
    results may differ anywhere. ``apart``: the largest difference to onnxruntime in codes.
    """

    samples: tuple[str, ...]
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    stored: tuple[Stored, ...]
    codes: Mapping[str, np.ndarray]
    near_tie: Mapping[str, np.ndarray]
    exact: frozenset[str]
    undecided: tuple[int, ...]
    apart: int


# ---------------------------------------------------------------------------------------------- what goes in


def feeds_of(compiled: Compiled, seed: int) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    """Samples with their names. Inputs that are stored lie exactly on codes, except where rounding and saturation of the
    inputs themselves is what is tried."""
    proto = compiled.scene.model.proto
    ranges = _input_ranges(compiled)
    base = random_inputs(proto, seed, whole=0)
    floats = [n for n, a in base.items() if a.dtype.kind == "f"]

    def corner(make: Codes, spare: float) -> Mapping[str, np.ndarray]:
        return {n: _on_codes(a, ranges.get(n), make, spare) for n, a in base.items()}

    smallest, largest = corner(_lowest, -1.0), corner(_highest, 1.0)
    yield "smallest codes", smallest
    yield "largest codes", largest
    yield "zeros", corner(_zero, 0.0)
    yield "ends in turn", corner(_ends_in_turn, 0.5)
    if len(floats) > 1:
        low = {n for k, n in enumerate(sorted(floats)) if k % 2}
        yield "ends against each other", {n: (smallest if n in low else largest)[n] for n in base}
    if ranges:
        noise = random_inputs(proto, seed + 1, whole=0)
        yield "beyond the range", {n: _on_codes(a, ranges.get(n), _beyond_range, None) for n, a in noise.items()}
    if ranges and all(is_power_of_two(held.scale) for held in ranges.values()):
        yield "halves", {n: _on_codes(a, ranges.get(n), _halves, None) for n, a in base.items()}
    for k in range(RANDOM * TRIES):
        make = _random(np.random.default_rng((seed, k, 5)))
        noise = random_inputs(proto, seed * 64 + 32 + k)
        yield f"random {k}", {n: _on_codes(a, ranges.get(n), make, None) for n, a in noise.items()}


def _lowest(held: Range, shape: Shape) -> np.ndarray:
    return np.full(shape, held.low)


def _highest(held: Range, shape: Shape) -> np.ndarray:
    return np.full(shape, held.high)


def _zero(held: Range, shape: Shape) -> np.ndarray:
    return np.broadcast_to(held.zero_point, shape)


def _ends_in_turn(held: Range, shape: Shape) -> np.ndarray:
    return np.where(_counted(shape) % 2, held.low, held.high)


def _random(generator: np.random.Generator) -> Codes:
    return lambda held, shape: generator.integers(held.low, held.high + 1, shape)


def _beyond_range(held: Range, shape: Shape) -> np.ndarray:
    return held.zero_point + np.where(_counted(shape) % 2, 2, -2) * (held.high - held.low)


def _halves(held: Range, shape: Shape) -> np.ndarray:
    """In the middle between two codes, from the zero point upwards."""
    room = max(1, min(held.high - int(held.zero_point.max(initial=0)) - 1, 200))
    return held.zero_point + _counted(shape) % room + 0.5


def _counted(shape: Shape) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape)


def _on_codes(array: np.ndarray, held: Range | None, make: Codes, spare: float | None) -> np.ndarray:
    """An array of real numbers that codes stand for; ``spare``: the number where nothing is stored, None for those given."""
    if array.dtype.kind != "f" or (held is None and spare is None):
        return array
    if held is None:
        return np.full_like(array, spare)
    return ((make(held, array.shape) - held.zero_point) * held.scale).astype(array.dtype)


def is_power_of_two(scale: np.ndarray) -> bool:
    return bool(np.all(np.frexp(scale)[0] == 0.5))


def _input_ranges(compiled: Compiled) -> dict[str, Range]:
    """Model inputs that are stored as they come."""
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in compiled.scene.model.inputs}
    found: dict[str, Range] = {}
    for insertion in compiled.plan.insertions:
        params = compiled.params.activations[insertion.quantizer]
        if insertion.tensor not in ranks or params.qtype.floating or params.block is not None:
            continue
        shape = [-1 if axis == params.axis else 1 for axis in range(ranks[insertion.tensor])]
        scale, zero = np.asarray(params.scale, np.float64), np.asarray(params.zero_point).astype(np.int64)
        if params.axis is not None:
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        found[insertion.tensor] = Range(params.qtype.low, params.qtype.high, scale, zero)
    return found


# ---------------------------------------------------------------------------------------------- what comes out


def expect(compiled: Compiled, seed: int) -> Expected:
    """Runs the samples. Raises Unbuildable where the results can't be computed, are not finite, or where onnxruntime is
    further away than one code."""
    try:
        exact = Exact(compiled.proto)
        stored = stored_tensors(compiled.proto, exact)
        simulated = _Simulated(compiled, stored)
        loose = [s for s in stored if not s.end and s.tensor not in simulated.exact]
        runs = _chosen((_Run(n, feed, exact.run(feed)) for n, feed in feeds_of(compiled, seed)), loose)
    except NotComputable as error:
        raise Unbuildable(str(error)) from error
    kept: list[_Run] = []
    largest = 0
    for run in runs:
        apart = simulated.compare(run.feed, run.found)
        largest = max(largest, min(apart, 1))
        if apart <= 1:
            kept.append(run)
        elif not run.is_undecided(loose):  # else one code before the results explains many behind it
            raise Unbuildable(f"onnxruntime is {apart} codes away: two readings of the operator disagree")
    if not kept:
        raise Unbuildable("no sample has finite results that can be read in one way only")
    halves = tuple(s for s in stored if s.tensor in simulated.exact)
    before = [s for s in stored if not s.end and s not in halves]
    outputs = [o.name for o in compiled.proto.graph.output]
    near = {s.tensor: np.stack([r.found.near_tie[s.codes] for r in kept]) & (s not in halves) for s in stored}
    return Expected(
        tuple(r.name for r in kept),
        {n: np.stack([r.feed[n] for r in kept]) for n in kept[0].feed},
        {n: np.stack([_float32(r.found.values[n]) for r in kept]) for n in outputs},
        stored,
        {
            s.tensor: np.stack([r.found.values[s.codes] for r in kept]).astype(numpy_storage(s.grid.storage))
            for s in stored
        },
        near,
        frozenset(s.tensor for s in halves),
        tuple(k for k, r in enumerate(kept) if r.is_undecided(before)),
        largest,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """One sample and everything that the model makes of it."""

    name: str
    feed: Mapping[str, np.ndarray]
    found: Evaluation

    @property
    def is_random(self) -> bool:
        return self.name.startswith("random")

    def is_undecided(self, before: Sequence[Stored]) -> bool:
        """True if a tensor before the results lies near a tie."""
        return any(bool(self.found.near_tie[s.codes].any()) for s in before)


def _chosen(runs: Iterator[_Run], before: Sequence[Stored]) -> list[_Run]:
    """Samples with finite results that can be read in one way only, those of random codes as many as are wanted; where there
    is none of that kind, some of the others."""
    corners: list[_Run] = []
    randoms: list[_Run] = []
    spare: list[_Run] = []
    for run in runs:
        if not run.found.finite:
            continue
        if run.is_undecided(before):
            spare.append(run)
            continue
        (randoms if run.is_random else corners).append(run)
        if len(randoms) == RANDOM:
            break
    chosen = [*corners, *randoms] or spare[: 2 * RANDOM]
    numbers = itertools.count(1)
    return [replace(r, name=f"random {next(numbers)}") if r.is_random else r for r in chosen]


def stored_tensors(proto: onnx.ModelProto, exact: Exact) -> tuple[Stored, ...]:
    """Every tensor that a QuantizeLinear makes, in the order of the nodes; the model's ends by the name of the output."""
    ends = {o.name for o in proto.graph.output}
    readers: dict[str, list[str]] = {}
    for node in proto.graph.node:
        if node.op_type == DEQUANTIZE:
            readers.setdefault(node.input[0], []).append(node.output[0])
    found: list[Stored] = []
    for k, node in enumerate(proto.graph.node):
        if node.op_type != QUANTIZE:
            continue
        end = next((name for name in readers.get(node.output[0], ()) if name in ends), None)
        grid = exact.grid(k)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if grid.scale.size > 1 else None
        found.append(Stored(end or node.input[0], node.output[0], node.input[0], grid, end is not None, axis))
    return tuple(found)


def numpy_storage(storage: str) -> np.dtype[np.generic]:
    """Numpy's type for codes; those of less than 8 bits are held in 8."""
    return np.dtype(f"{'int' if storage[0] == 'i' else 'uint'}{max(8, int(storage[1:]))}")


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


class _Simulated:
    """The model in onnxruntime, in float32 and without optimizations: another reading of every operator.

    ``exact``: stored tensors before which it computes what float64 gives, bit for bit, and whose scales are powers of two.
    """

    def __init__(self, compiled: Compiled, stored: tuple[Stored, ...]) -> None:
        proto = compiled.proto
        self.exact = {s.tensor for s in stored if is_power_of_two(s.grid.scale)}
        self._sources = {s.source: s.tensor for s in stored}
        self._codes = {s.codes for s in stored}
        inputs = {v.name for v in proto.graph.input}
        declared = [o.name for o in proto.graph.output]
        self._names = list(
            dict.fromkeys(n for n in (*self._sources, *(s.codes for s in stored), *declared) if n not in inputs)
        )
        shown = onnx.ModelProto()
        shown.CopyFrom(proto)
        shown.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in self._names if n not in declared)
        try:
            self._session = open_session(shown.SerializeToString(), optimize=False, threads=1)
        except SessionError as error:
            raise Unbuildable(f"onnxruntime does not take the model: {error}") from error

    def compare(self, feed: Mapping[str, np.ndarray], exact: Evaluation) -> int:
        """The largest difference of a code. Raises Unbuildable where shapes or values in float differ."""
        try:
            results = self._session.run(self._names, dict(feed))
        except Exception as error:  # onnxruntime's errors have no common base
            raise Unbuildable(f"onnxruntime can't run the model: {first_line(error)}") from error
        largest = 0
        for name, result in zip(self._names, map(np.asarray, results), strict=True):
            expected = exact.values[name]
            if expected.shape != result.shape:
                shapes = f"{list(result.shape)}, not {list(expected.shape)}"
                raise Unbuildable(f"onnxruntime gives `{name}` the shape {shapes}")
            if name in self._codes:
                largest = max(largest, int(np.abs(result.astype(np.int64) - expected).max(initial=0)))
            elif name in self._sources:
                if not np.array_equal(result.astype(np.float64), expected):
                    self.exact.discard(self._sources[name])
            elif not self._codes and not np.allclose(result, expected, rtol=1e-3, atol=1e-3 * _largest(expected)):
                raise Unbuildable(f"onnxruntime computes other values for `{name}`")
        return largest


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values.astype(np.float64)).max(initial=0.0))
