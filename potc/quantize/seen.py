"""What calibration notes at the model's ends, so that doubtful samples can be told: a few numbers, merged exactly."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

LOOKED_AT = 1 << 20  # elements of an output; of more, so many are taken, evenly spread
LARGEST_STEP = 2.0**127  # zeros are multiples of any number
MANTISSA = 24  # bits of a float32: what needs all of them lies on no grid worth the name
DIFFERENT = 2  # how many different values are kept: enough to know that not all are equal


@dataclass(frozen=True, slots=True)
class Input:
    """One input over ``samples`` samples: extremes, whether all numbers are ``whole``, whether it holds floats, its rank,
    checksums of up to two samples that differ, and the largest power of two that all numbers are multiples of (``step``; 0.0
    where that is no coarser than what float32 resolves).
    """

    samples: int
    low: float
    high: float
    whole: bool
    floating: bool
    rank: int
    different: tuple[int, ...]
    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """One float output: checksums of up to two results that differ, up to two places of the largest element that differ, and
    of how many elements it is the largest (the last axis).
    """

    samples: int
    different: tuple[int, ...]
    tops: tuple[int, ...]
    elements: int


@dataclass(frozen=True, slots=True)
class Seen:
    """By name of the model's inputs of numbers, and of its float outputs."""

    inputs: Mapping[str, Input] = field(default_factory=dict[str, Input])
    outputs: Mapping[str, Output] = field(default_factory=dict[str, Output])

    def to_json(self) -> dict[str, object]:
        inputs = {
            n: [i.samples, i.low, i.high, i.whole, i.floating, i.rank, list(i.different), i.step]
            for n, i in sorted(self.inputs.items())
        }
        outputs = {n: [o.samples, list(o.different), list(o.tops), o.elements] for n, o in sorted(self.outputs.items())}
        return {"inputs": inputs, "outputs": outputs}

    @staticmethod
    def from_json(value: Mapping[str, Mapping[str, list[object]]]) -> Seen:
        """The inverse of ``to_json``. Raises KeyError, TypeError or ValueError for what it did not write."""
        inputs: dict[str, Input] = {}
        for name, (samples, low, high, whole, floating, rank, different, step) in value["inputs"].items():
            ends = _float(low), _float(high)
            kind = whole is True, floating is True, _int(rank)
            inputs[name] = Input(_int(samples), *ends, *kind, _ints(different), _float(step))
        outputs: dict[str, Output] = {}
        for name, (samples, different, tops, elements) in value["outputs"].items():
            outputs[name] = Output(_int(samples), _ints(different), _ints(tops), _int(elements))
        return Seen(inputs, outputs)


def _int(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"not a count: {value!r}")
    return value


def _float(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"not a number: {value!r}")
    return float(value)


def _ints(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > DIFFERENT:
        raise ValueError("not a short list")
    return tuple(_int(v) for v in value)


def see(inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Seen:
    """What one sample says. Of outputs only floats are looked at; arrays without elements say nothing."""
    return Seen(
        {n: _input(a) for n, a in inputs.items() if a.dtype.kind in "fiub" and a.size},
        {n: _output(a) for n, a in outputs.items() if a.dtype.kind == "f" and a.size},
    )


def _input(array: np.ndarray) -> Input:
    low, high = float(array.min()), float(array.max())
    floating = array.dtype.kind == "f"
    whole = not floating or (low == math.floor(low) and bool((array == np.rint(array)).all()))
    return Input(1, low, high, whole, floating, array.ndim, (_checksum(array),), step_of(array))


def step_of(array: np.ndarray) -> float:
    """The largest power of two that all elements are multiples of; 0.0 where some need more bits than a grid leaves them, or
    are not finite. Sound that was recorded in 16 bits is a multiple of 2**-15."""
    flat = array.reshape(-1)
    if not flat.size:
        return LARGEST_STEP
    largest = max(abs(float(flat.min())), abs(float(flat.max())))
    if not math.isfinite(largest):
        return 0.0
    step = _step(
        flat[:: max(1, flat.size // 64)].astype(np.float64)
    )  # most floats need all their bits: a few of them tell
    if step == 0.0:
        return 0.0
    if flat.dtype == np.float32 and 2.0**-64 <= step <= 2.0**64:
        # All are multiples of what the few are: asked in float32, where dividing by a power of two moves no bit.
        counted = flat * np.float32(1 / step)
        if (np.rint(counted) == counted).all():
            return 0.0 if largest / step >= 2.0 ** (MANTISSA - 1) else step
    return _step(flat.astype(np.float64))


def _step(values: np.ndarray) -> float:
    found = values[values != 0]
    if not found.size:
        return LARGEST_STEP
    fraction, exponent = np.frexp(found)
    bits = np.ldexp(np.abs(fraction), 53).astype(np.int64)
    lowest = np.frexp((bits & -bits).astype(np.float64))[1] - 1  # the number of zeros below the last bit
    last, first = int((exponent - 53 + lowest).min()), int(exponent.max())
    return 0.0 if first - last >= MANTISSA else min(2.0**last, LARGEST_STEP)


def _output(array: np.ndarray) -> Output:
    flat = array.reshape(-1)
    taken = flat[:: math.ceil(flat.size / LOOKED_AT)]
    last = array.shape[-1] if array.ndim else 1
    # Where one row of numbers comes out, its largest element is what a classifier answers.
    top = (int(flat.argmax()),) if flat.size == last > 1 else ()
    return Output(1, (_checksum(taken),), top, last)


def _checksum(array: np.ndarray) -> int:
    unsigned = array + np.zeros((), array.dtype) if array.dtype.kind == "f" else array  # -0.0 is 0.0
    return zlib.crc32(np.ascontiguousarray(unsigned).tobytes())


def merge_seen(a: Seen, b: Seen) -> Seen:
    """What the samples of both say. Associative and commutative; ``Seen()`` is neutral."""
    inputs, outputs = dict(a.inputs), dict(a.outputs)
    for name, y in b.inputs.items():
        x = inputs.get(name)
        inputs[name] = y if x is None else _both_inputs(x, y)
    for name, y in b.outputs.items():
        x = outputs.get(name)
        outputs[name] = y if x is None else _both_outputs(x, y)
    return Seen(inputs, outputs)


def _both_inputs(x: Input, y: Input) -> Input:
    return Input(
        x.samples + y.samples,
        min(x.low, y.low),
        max(x.high, y.high),
        x.whole and y.whole,
        x.floating,
        max(x.rank, y.rank),
        _smallest(x.different, y.different),
        min(x.step, y.step),
    )


def _both_outputs(x: Output, y: Output) -> Output:
    return Output(
        x.samples + y.samples,
        _smallest(x.different, y.different),
        _smallest(x.tops, y.tops),
        max(x.elements, y.elements),
    )


def _smallest(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest of both: a rule that does not depend on an order."""
    return tuple(sorted({*a, *b})[:DIFFERENT])
