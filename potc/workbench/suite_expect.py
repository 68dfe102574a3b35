"""What goes into the model of a case, and what a bit-exact device makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from potc.execute.session import SessionError, first_line, open_session
from potc.quantize.numbers import QuantParams
from potc.sketch.oracle import random_inputs
from potc.workbench.exact import DEQUANTIZE, QUANTIZE, Evaluation, Exact, Grid, NotComputable
from potc.workbench.suite_build import Compiled, Unbuildable

RANDOM = 3  # samples of random codes
TRIES = 12  # random samples that are drawn for one that can't be misunderstood

Codes = Callable[[QuantParams, int], np.ndarray]  # codes for so many elements


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor that the model stores. ``codes``: its name among the tensors of the compiled model; ``end``: the model
    returns it. ``source``: the float tensor that is rounded."""

    tensor: str
    codes: str
    source: str
    grid: Grid
    end: bool


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
    grids = _input_grids(compiled)
    base = random_inputs(proto, seed, whole=0)
    floats = [n for n, a in base.items() if a.dtype.kind == "f"]

    def corner(make: Codes, spare: float) -> Mapping[str, np.ndarray]:
        return {n: _on_codes(a, grids.get(n), make, spare) for n, a in base.items()}

    smallest, largest = corner(_lowest, -1.0), corner(_highest, 1.0)
    yield "smallest codes", smallest
    yield "largest codes", largest
    yield "zeros", corner(_zero, 0.0)
    yield "ends in turn", corner(_ends_in_turn, 0.5)
    if len(floats) > 1:
        low = {n for k, n in enumerate(sorted(floats)) if k % 2}
        yield "ends against each other", {n: (smallest if n in low else largest)[n] for n in base}
    for k in range(RANDOM * TRIES):
        make = _random(np.random.default_rng((seed, k, 5)))
        noise = random_inputs(proto, seed * 64 + 32 + k)
        yield f"random {k}", {n: _on_codes(a, grids.get(n), make, None) for n, a in noise.items()}
    if grids:
        noise = random_inputs(proto, seed + 1, whole=0)
        yield "beyond the range", {n: a if n not in grids else _beyond_range(a, grids[n]) for n, a in noise.items()}
    if grids and all(is_power_of_two(params.scale) for params in grids.values()):
        yield "halves", {n: a if n not in grids else _halves(a, grids[n]) for n, a in base.items()}


def _lowest(params: QuantParams, size: int) -> np.ndarray:
    return np.full(size, params.qtype.low)


def _highest(params: QuantParams, size: int) -> np.ndarray:
    return np.full(size, params.qtype.high)


def _zero(params: QuantParams, size: int) -> np.ndarray:
    return np.full(size, int(params.zero_point))


def _ends_in_turn(params: QuantParams, size: int) -> np.ndarray:
    return np.where(np.arange(size) % 2, params.qtype.low, params.qtype.high)


def _random(generator: np.random.Generator) -> Codes:
    return lambda params, size: generator.integers(params.qtype.low, params.qtype.high + 1, size)


def _on_codes(array: np.ndarray, params: QuantParams | None, make: Codes, spare: float | None) -> np.ndarray:
    """An array of real numbers that are codes; ``spare``: the number where nothing is stored, None for those given."""
    if array.dtype.kind != "f" or (params is None and spare is None):
        return array
    if params is None:
        return np.full_like(array, spare)
    whole = make(params, array.size) - int(params.zero_point)
    return (whole.astype(np.float64) * float(params.scale)).reshape(array.shape).astype(array.dtype)


def is_power_of_two(scale: np.ndarray) -> bool:
    return bool(np.all(np.frexp(scale)[0] == 0.5))


def _beyond_range(array: np.ndarray, params: QuantParams) -> np.ndarray:
    span = float(params.scale) * (params.qtype.high - params.qtype.low)
    signs = np.where(np.arange(array.size) % 2, 1, -1).reshape(array.shape)
    return (signs * span * 2).astype(array.dtype)


def _halves(array: np.ndarray, params: QuantParams) -> np.ndarray:
    """In the middle between two codes, from the zero point upwards."""
    zero = int(params.zero_point)
    room = max(1, min(params.qtype.high - zero - 1, 200))
    middle = (np.arange(array.size) % room).reshape(array.shape) + 0.5
    return (middle * float(params.scale)).astype(array.dtype)


def _input_grids(compiled: Compiled) -> dict[str, QuantParams]:
    """Model inputs that are stored as they come."""
    names = {v.name for v in compiled.scene.model.inputs}
    return {
        i.tensor: compiled.params.activations[i.quantizer]
        for i in compiled.plan.insertions
        if i.tensor in names and not compiled.params.activations[i.quantizer].qtype.floating
    }


# ---------------------------------------------------------------------------------------------- what comes out


def expect(compiled: Compiled, seed: int) -> Expected:
    """Runs the samples. Raises Unbuildable where the results can't be computed, are not finite, or where onnxruntime is
    further away than one code."""
    try:
        exact = Exact(compiled.proto)
        stored = stored_tensors(compiled.proto, exact)
        simulated = _Simulated(compiled, stored)
        runs = [_Run(name, feed, exact.run(feed)) for name, feed in feeds_of(compiled, seed)]
    except NotComputable as error:
        raise Unbuildable(str(error)) from error
    runs = [run for run in runs if run.found.finite]
    loose = [s for s in stored if not s.end and s.tensor not in simulated.exact]
    kept: list[_Run] = []
    largest = 0
    for run in _chosen(runs, loose):
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

    def is_undecided(self, before: Sequence[Stored]) -> bool:
        """True if a tensor before the results lies near a tie."""
        return any(bool(self.found.near_tie[s.codes].any()) for s in before)


def _chosen(runs: Sequence[_Run], before: Sequence[Stored]) -> list[_Run]:
    """All corners, and of the random samples as many as are wanted, those first that can be read in one way only."""
    corners = [r for r in runs if not r.name.startswith("random")]
    randoms = sorted((r for r in runs if r.name.startswith("random")), key=lambda r: r.is_undecided(before))[:RANDOM]
    decided = [r for r in corners if not r.is_undecided(before)]
    return [*(decided or corners), *(replace(r, name=f"random {k + 1}") for k, r in enumerate(randoms))]


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
        found.append(Stored(end or node.input[0], node.output[0], node.input[0], exact.grid(k), end is not None))
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
