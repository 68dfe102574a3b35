"""Fast bias correction: what rounding the weights of a layer shifts its output by, on average.

The output's error is linear in the weights' error, so its mean over positions and samples needs only the mean of each input
channel: E[sum_k (W - W') x_k] = sum_k (W - W') E[x_k] (Nagel et al., "Data-Free Quantization through Weight Equalization
and Bias Correction", 2019, section 4.2; here with the measured means). Positions that padding fills count as the mean.
"""

from __future__ import annotations

import numpy as np


def mean_shift(error: np.ndarray, out: int, summed: int, mean: np.ndarray) -> np.ndarray | None:
    """Float64 [O]: the mean of the output that is lost per output channel.

    ``error``: float weights minus dequantized ones, output channels along ``out``, input channels (of one group, where the
    layer has groups) along ``summed``. ``mean``: [C], of all input channels. None if the shapes do not fit together.
    """
    rest = tuple(a for a in range(error.ndim) if a not in (out, summed))
    matrix = error.sum(axis=rest, dtype=np.float64)
    if out > summed:
        matrix = matrix.T
    channels, inputs = matrix.shape
    groups = len(mean) // max(1, inputs)
    if inputs * groups != len(mean) or groups == 0 or channels % groups:
        return None
    by_group = mean.reshape(groups, 1, inputs)
    return (matrix.reshape(groups, channels // groups, inputs) * by_group).sum(-1).reshape(channels)
