"""Codes of one weight by second moments, whatever its layout: the axes, lanes and scales of a tensor as ``gptq`` takes them."""

from __future__ import annotations

import numpy as np

from potc.language.program import QType
from potc.quantize.gptq import Grid, Limited, rounded
from potc.quantize.moments import Moments
from potc.quantize.narrow import grouped, lane_limits, rows_of
from potc.quantize.plan import Lanes


def second_order(
    values: np.ndarray,
    nearest: np.ndarray,
    scale: np.ndarray,
    zero_point: np.ndarray,
    qtype: QType,
    lanes: tuple[Lanes, ...],
    activation_span: int,
    moments: Moments,
) -> np.ndarray:
    """Codes in the dtype of ``nearest``, within the limits of ``qtype``; no group of ``lanes`` may saturate that was safe.

    ``nearest``: the codes of ``values`` rounded to nearest; ``scale``, ``zero_point``: broadcast against ``values``.
    """
    axis, groups = moments.axis, moments.gram.shape[0]
    limits = tuple(
        Limited(_neighbours(values.shape, axis, lane), *lane_limits(lane, activation_span))
        for lane in lanes
        if lane.lanes > 1
    )
    steps, zeros = (_matrix(np.broadcast_to(a, values.shape), axis, groups) for a in (scale, zero_point))
    grid = Grid(steps, zeros, qtype.low, qtype.high, limits)
    codes = rounded(_matrix(values, axis, groups), moments.gram, moments.held, _matrix(nearest, axis, groups), grid)
    kept = [n for a, n in enumerate(values.shape) if a != axis]
    return np.ascontiguousarray(np.moveaxis(codes.reshape(-1, *kept), 0, axis), dtype=nearest.dtype)


def _matrix(array: np.ndarray, axis: int, groups: int) -> np.ndarray:
    """Float64 [G, O, K]: output channels along ``axis``, the weights of each in the order of the other axes."""
    return np.moveaxis(array, axis, 0).reshape(groups, array.shape[axis] // groups, -1).astype(np.float64)


def _neighbours(shape: tuple[int, ...], axis: int, lanes: Lanes) -> np.ndarray:
    """Int [K]: which group of lanes each weight of an output channel belongs to."""
    kept = [1 if a == axis else n for a, n in enumerate(shape)]
    places = np.arange(1, int(np.prod(kept, dtype=np.int64)) + 1).reshape(kept)
    groups = grouped(rows_of(places, axis, lanes.order), lanes.lanes)[0]
    found = np.empty(places.size, np.int64)
    for number, group in enumerate(groups):
        found[group[group > 0] - 1] = number
    return found
