"""Rounding that shifts no channel's mean: the codes of each channel add up to what its weights add up to.

Inputs behind an activation function are positive on average, so a channel whose rounding errors do not cancel shifts the
mean of its output, and such shifts add up from layer to layer. Moving the few codes that lie nearest to the next integer
removes the shift where inputs have similar means: bias correction without data, at no cost in speed.
"""

from __future__ import annotations

import numpy as np

from potc.quantize.narrow import grouped, lane_limits, lane_sums, parts, rows_of
from potc.quantize.plan import Lanes


def level(
    codes: np.ndarray,
    values: np.ndarray,
    scale: np.ndarray,
    axis: int | None,
    lanes: Lanes,
    activation_span: int,
    bounds: tuple[int, int],
) -> np.ndarray:
    """Codes whose sum per scale is that of the weights, to half a code, as far as the limits allow.

    Where a sum is n codes off, the n codes that lie nearest to the next integer move there: at most one per group, only
    where the group stays safe, and only within ``bounds`` (lowest and highest code).
    """
    rows = np.array(_to_groups(codes, axis, lanes))
    exact = _to_groups(values, axis, lanes)
    steps = np.atleast_1d(scale).astype(np.float64)[:, None, None]
    limits = lane_limits(lanes, activation_span) if lanes.lanes > 1 else bounds
    padding = _padding(codes, axis, lanes)
    for some in parts(rows.shape):
        before = rows[some].astype(np.int64)
        rows[some] = _leveled(before, exact[some].astype(np.float64) / steps[some] - before, limits, bounds, padding)
    return _from_groups(rows, codes, axis, lanes)


def _leveled(
    rows: np.ndarray, residual: np.ndarray, limits: tuple[int, int], bounds: tuple[int, int], padding: np.ndarray
) -> np.ndarray:
    """The codes of a few scales, int64 [C, G, lanes], changed in place. ``residual``: what rounding left of each."""
    missing = np.rint(residual.sum((1, 2))).astype(np.int64)
    for sign, limit, bound in ((1, limits[1], bounds[1]), (-1, -limits[0], -bounds[0])):
        (chosen,) = np.nonzero(missing * sign > 0)
        if not len(chosen):
            continue
        signed = rows[chosen] * sign
        full = (lane_sums(np.maximum(signed, 0))[..., None] >= limit) & (signed >= 0)
        nearness = np.where(full | (signed >= bound) | padding, -np.inf, residual[chosen] * sign)
        lane = nearness.argmax(-1)
        best = np.take_along_axis(nearness, lane[..., None], -1)[..., 0]
        row, group = np.nonzero(largest(best, missing[chosen] * sign) & np.isfinite(best))
        rows[chosen[row], group, lane[row, group]] += sign
    return rows


def largest(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[C, G]: True for the ``count`` (>= 1) largest of each row; of equal ones the first are taken."""
    last = np.sort(-values, axis=-1)[np.arange(len(values)), np.minimum(count, values.shape[1]) - 1][:, None]
    above, equal = -values < last, -values == last
    return above | (equal & (equal.cumsum(-1) <= (count - above.sum(-1))[:, None]))


# ---------------------------------------------------------------------------------------------- groups and back


def _to_groups(array: np.ndarray, axis: int | None, lanes: Lanes) -> np.ndarray:
    """[C, G, lanes]: the groups of each scale, short ones filled with zeros."""
    return grouped(rows_of(array, axis, lanes.order), lanes.lanes)


def _permutation(rank: int, axis: int | None, lanes: Lanes) -> list[int]:
    along = [a for a in lanes.order if a != axis]
    rest = [a for a in range(rank) if a != axis and a not in along]
    return [*([] if axis is None else [axis]), *rest, *along]


def _summed(like: np.ndarray, axis: int | None, lanes: Lanes) -> int:
    return int(np.prod([like.shape[a] for a in lanes.order if a != axis], dtype=np.int64))


def _from_groups(rows: np.ndarray, like: np.ndarray, axis: int | None, lanes: Lanes) -> np.ndarray:
    """The inverse of ``_to_groups``: an array of the shape and dtype of ``like``."""
    order = _permutation(like.ndim, axis, lanes)
    length = _summed(like, axis, lanes)
    height = like.size // max(1, rows.shape[0] * length)
    unpadded = rows.reshape(rows.shape[0], height, rows.size // max(1, rows.shape[0] * height))[:, :, :length]
    shape = [like.shape[a] for a in order]
    return np.ascontiguousarray(unpadded.reshape(shape).transpose(np.argsort(order)), dtype=like.dtype)


def _padding(like: np.ndarray, axis: int | None, lanes: Lanes) -> np.ndarray:
    """[1, G, lanes]: True where a group holds a zero that is no weight."""
    length = _summed(like, axis, lanes)
    channels = 1 if axis is None else like.shape[axis]
    height = like.size // max(1, channels * length)
    real = np.ones((1, height, length), np.int8)
    return grouped(real, lanes.lanes) == 0
