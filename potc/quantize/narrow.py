"""Weights that can't saturate: the smallest larger scale per output channel at which no accumulator can overflow.

Some kernels add ``lanes`` products into a narrow saturating register before widening. A group of neighbouring weights
is safe if its positive codes, and its negative codes, stay inside the register when every activation code is at its
largest: activation codes are unsigned there (signed ones are shifted to start at 0), so weights of one sign never help
the other.

Codes never grow in magnitude when the scale does, therefore every scale above a safe one is safe, and the smallest safe
one is found by bisection over float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from potc.quantize.plan import Lanes

PART = 1 << 16  # weights that are looked at together
PIECE = 1 << 20  # weights of which numbers of 64 bits are held at once, a few for each


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What became of one weight. ``scale``: the safe scales, float32 in the shape of those given.

    ``factor``: scale after / scale before, float64, in the same shape. ``at_risk``: number of scales that had to grow.
    ``overflow``: a sentence if the last, widest accumulator may overflow (nothing is done about that), else "".
    """

    scale: np.ndarray
    factor: np.ndarray
    at_risk: int
    overflow: str = ""


def narrow(
    values: np.ndarray, scale: np.ndarray, axis: int | None, lanes: tuple[Lanes, ...], activation_span: int
) -> Narrowing:
    """The smallest safe float32 scales, none smaller than the given one.

    ``values``: float weights; codes are round-half-even(values / scale) with zero point 0. ``scale``: float32, [C]
    along ``axis``, or a scalar with ``axis`` None. ``activation_span``: largest activation code minus smallest (255 for
    8 bits).
    With one lane nothing is narrowed; ``overflow`` says whether the sum over all of ``order`` could leave the storage.
    """
    before = np.asarray(scale, np.float32)
    after, overflow = before, ""
    for accumulator in lanes:
        if accumulator.lanes == 1 and _surely_fits(values, after, accumulator, activation_span):
            continue
        rows = rows_of(values, axis, accumulator.order)
        if accumulator.lanes > 1:
            limits = lane_limits(accumulator, activation_span)
            safe = _narrowed(rows, after.reshape(-1), accumulator.lanes, limits)
            after = safe.reshape(before.shape)
        else:
            overflow = overflow or _overflow(rows, after.reshape(-1), accumulator, activation_span)
    factor = after.astype(np.float64) / before.astype(np.float64)
    return Narrowing(after, factor, int(np.count_nonzero(factor > 1)), overflow)


def unsafe_groups(codes: np.ndarray, axis: int | None, lanes: Lanes, activation_span: int) -> int:
    """How many groups of neighbours could leave the storage, for any activations. ``codes``: integer weights, zero
    point 0.
    """
    groups = grouped(rows_of(codes, axis, lanes.order).astype(np.int64), lanes.lanes)
    low, high = lane_limits(lanes, activation_span)
    positive, negative = lane_sums(np.maximum(groups, 0)), lane_sums(np.minimum(groups, 0))
    return int(np.count_nonzero((positive > high) | (negative < low)))


def rows_of(values: np.ndarray, axis: int | None, order: tuple[int, ...]) -> np.ndarray:
    """``values`` as [C, R, K]: by scale (``axis``), everything that is never added up, and what is, in ``order``.

    C is 1 without an axis. An ``order`` that names ``axis`` itself (scales along the reduction) leaves K without it.
    """
    along = [a for a in order if a != axis]
    rest = [a for a in range(values.ndim) if a != axis and a not in along]
    front = [] if axis is None else [axis]
    moved = values.transpose(front + rest + along)
    channels = 1 if axis is None else values.shape[axis]
    apart, summed = (int(np.prod([values.shape[a] for a in axes], dtype=np.int64)) for axes in (rest, along))
    return moved.reshape(channels, apart, summed)


def lane_limits(lanes: Lanes, activation_span: int) -> tuple[int, int]:
    """The lowest and highest sum of weight codes of one sign that a group may have."""
    bits = int(lanes.storage[1:])
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if lanes.storage[0] == "i" else (0, (1 << bits) - 1)
    return -(-low // activation_span), high // activation_span


def grouped(rows: np.ndarray, lanes: int) -> np.ndarray:
    """[C, R, K] as [C, G, lanes]: groups start at the start of each row, a short last one is filled with zeros."""
    channels, height, length = rows.shape
    missing = -length % lanes
    if missing:
        rows = np.concatenate([rows, np.zeros((channels, height, missing), rows.dtype)], axis=2)
    return rows.reshape(channels, height * (rows.shape[2] // lanes), lanes)


def lane_sums(groups: np.ndarray) -> np.ndarray:
    """[..., lanes] added up over the lanes, in the same dtype. numpy's own sum takes many times as long over so few numbers."""
    total = groups[..., 0].copy()
    for lane in range(1, groups.shape[-1]):
        total += groups[..., lane]
    return total


def parts(shape: tuple[int, ...]) -> Iterator[slice]:
    """Ranges of the first axis, small enough for what is computed from them to stay in a processor's cache."""
    step = max(1, PART // max(1, math.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def slices(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Parts of an array along its longest axis, of about ``PIECE`` elements."""
    if math.prod(shape) <= PIECE:
        yield (slice(None),) * len(shape)
        return
    axis = shape.index(max(shape))
    step = max(1, PIECE * shape[axis] // math.prod(shape))
    for start in range(0, shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step), *(slice(None),) * (len(shape) - axis - 1))


def _narrowed(rows: np.ndarray, scale: np.ndarray, lanes: int, limits: tuple[int, int]) -> np.ndarray:
    """[C] float32 safe scales for [C, R, K] weights. No channel's depends on another's."""
    step = max(1, PIECE // max(1, math.prod(rows.shape[1:])))
    starts = range(0, len(rows), step)
    if len(starts) < 2:
        return _narrowed_piece(rows, scale, lanes, limits)
    pieces = (slice(start, start + step) for start in starts)
    return np.concatenate([_narrowed_piece(rows[some], scale[some], lanes, limits) for some in pieces])


def _narrowed_piece(rows: np.ndarray, scale: np.ndarray, lanes: int, limits: tuple[int, int]) -> np.ndarray:
    # float32 is enough to sort groups into safe and suspect: a margin below covers its rounding.
    groups = grouped(rows.astype(np.float32, copy=False), lanes)
    result = scale.copy()
    for sign, limit in ((1, limits[1]), (-1, -limits[0])):
        sums = np.empty(groups.shape[:2])
        for some in parts(groups.shape):
            sums[some] = lane_sums(np.maximum(groups[some] * np.float32(sign), 0).astype(np.float64))
        # A group's codes add up to its sum / scale, give or take half a code per lane.
        largest = sums.max(axis=1, initial=0.0)
        surely_unsafe = largest * (1 - 1e-6) / (limit + lanes / 2)
        floor = np.maximum(result.astype(np.float64), surely_unsafe)
        suspect = sums * (1 + 1e-6) > (limit - lanes / 2) * floor[:, None]
        channel, index = np.nonzero(suspect)
        before = result.copy()
        for first in range(0, len(channel), max(1, PIECE // lanes)):
            some = slice(first, first + max(1, PIECE // lanes))
            at = channel[some]
            exact = np.maximum(rows_at(rows, at, index[some], lanes) * sign, 0)
            np.maximum.at(result, at, _thresholds(exact, before[at], floor[at], limit))
    return result


def rows_at(rows: np.ndarray, channel: np.ndarray, index: np.ndarray, lanes: int) -> np.ndarray:
    """Groups ``index`` of channels ``channel`` in float64: [n, lanes]."""
    return grouped(rows, lanes)[channel, index].astype(np.float64)


def _thresholds(groups: np.ndarray, scale: np.ndarray, floor: np.ndarray, limit: int) -> np.ndarray:
    """[n] float32: the smallest scale >= ``scale`` at which the codes of each [n, lanes] non-negative group add up to
    <= limit.

    ``floor`` (float64) is a scale below which the channel is unsafe anyway. Non-negative float32 are ordered like their
    bits.
    """

    def is_safe(bits: np.ndarray) -> np.ndarray:
        steps = bits.astype(np.uint32).view(np.float32).astype(np.float64)
        return lane_sums(np.rint(groups / steps[:, None])) <= limit

    low = scale.view(np.uint32).astype(np.int64)
    start = is_safe(low)
    raised = np.nextafter(floor.astype(np.float32), np.float32(0)).view(np.uint32).astype(np.int64)
    low = np.where(is_safe(raised), low, np.maximum(low, raised))
    # Above twice its largest weight every code of a group is 0; float32 can always hold that, as scales leave room.
    enough, slack = groups.max(-1) * 2.01, limit - groups.shape[-1] / 2
    if slack > 0:  # each code is at most half a step more than its weight
        enough = np.minimum(enough, lane_sums(groups) * (1 + 1e-6) / slack)
    enough = np.minimum(enough, np.finfo(np.float32).max).astype(np.float32)
    high = np.maximum(enough.view(np.uint32).astype(np.int64), low)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        safe = is_safe(middle)
        high, low = np.where(safe, middle, high), np.where(safe, low, middle)
    return np.where(start, scale, high.astype(np.uint32).view(np.float32))


def _surely_fits(values: np.ndarray, scale: np.ndarray, lanes: Lanes, activation_span: int) -> bool:
    """A cheap bound: as many products as ``order`` has, each with the largest code of the whole tensor."""
    low, high = lane_limits(lanes, activation_span)
    largest = max(float(values.max(initial=0.0)), -float(values.min(initial=0.0))) / float(scale.min(initial=np.inf))
    return math.prod(values.shape[a] for a in lanes.order) * (largest + 0.5) <= min(high, -low)


def _overflow(rows: np.ndarray, scale: np.ndarray, lanes: Lanes, activation_span: int) -> str:
    low, high = lane_limits(lanes, activation_span)
    steps = scale.astype(np.float64)[:, None, None]
    positive = negative = 0.0
    height = max(1, PIECE // max(1, rows.shape[2]))  # of a channel that is too large to be looked at as a whole
    for some, first in product(parts(rows.shape), range(0, rows.shape[1], height)):
        codes = np.rint(rows[some, first : first + height] / (steps[some] if len(steps) > 1 else steps))
        positive = max(positive, np.maximum(codes, 0).sum(-1).max(initial=0))
        negative = min(negative, np.minimum(codes, 0).sum(-1).min(initial=0))
    if low <= negative and positive <= high:
        return ""
    return f"a sum of {rows.shape[2]} products could leave {lanes.storage}"
