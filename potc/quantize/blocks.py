"""Scales per block: each scale belongs to a run of elements along one axis, at every place of the other axes.

That is what ONNX calls blocked quantization (DequantizeLinear, opset 21): the scales have the shape of the tensor, with
the axis divided by the block's length and rounded up. The last run may be shorter.
"""

from __future__ import annotations

import numpy as np


def block_limits(values: np.ndarray, axis: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest value of each block, in float64, shaped like the scales."""
    if not values.shape[axis]:
        empty = np.zeros(values.shape, np.float64)
        return empty, empty
    starts = np.arange(0, values.shape[axis], block)
    exact = values.astype(np.float64)
    return np.minimum.reduceat(exact, starts, axis), np.maximum.reduceat(exact, starts, axis)


def spread(per_block: np.ndarray, axis: int, block: int, length: int) -> np.ndarray:
    """One number for each element: the inverse of taking blocks of an axis that is ``length`` long."""
    return np.take(np.repeat(per_block, block, axis), np.arange(length), axis)
