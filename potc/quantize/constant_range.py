"""The range of a constant, by channel or block where its type has such scales."""

from __future__ import annotations

import numpy as np

from potc.language.program import QType
from potc.quantize.blocks import block_limits
from potc.quantize.estimators import clipped, quantile_of, row_of, weight_borders
from potc.quantize.range_search import search_weights
from potc.quantize.statistic import ABS_MAX, MAX, MIN
from potc.quantize.tuning import RangeSettings


def constant_range(
    values: np.ndarray, qtype: QType, axis: int | None, block: int | None, settings: RangeSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits, float64, shaped like the scales, by the estimator of weights. Blocks are always covered whole."""
    low, high = limits(values, axis, block)
    if block is not None or not values.size:
        return low, high
    if settings.weight_estimator == "mse" and qtype.scale is None:
        low, high = search_weights(values, low, high, qtype, axis)
    borders = weight_borders(qtype, settings)
    if any(b.statistic not in (MIN, MAX) for b in borders):
        others = tuple(a for a in range(values.ndim) if a != axis)
        found: list[np.ndarray] = []
        for border, upper in zip(borders, (False, True), strict=True):
            row = row_of(border, upper=upper)
            extremes = {MIN: low, MAX: high, ABS_MAX: np.maximum(-low, high)}
            # A channel that is mostly zeros may have quantiles of 0: it keeps its extremes.
            measured = extremes[row] if row in extremes else quantile_of(values, row, others).astype(np.float64)
            found.append(measured)
        if str(borders[1].statistic).startswith("abs_"):
            found[0] = np.maximum(found[0], -found[1])
        empty = (found[0] >= 0) & (found[1] <= 0)
        low, high = np.where(empty, low, found[0]), np.where(empty, high, found[1])
    return clipped(low, high, *borders)


def limits(values: np.ndarray, axis: int | None, block: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Extremes per channel or block in float64. A channel of zeros takes those of the whole tensor, so that its scale means
    something.
    """
    if axis is not None and block is not None:
        low, high = block_limits(values, axis, block)
    else:
        others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
        low = np.asarray(values.min(axis=others, initial=0.0), np.float64)
        high = np.asarray(values.max(axis=others, initial=0.0), np.float64)
    dead = (low == 0) & (high == 0)
    return np.where(dead, low.min(initial=0.0), low), np.where(dead, high.max(initial=0.0), high)
