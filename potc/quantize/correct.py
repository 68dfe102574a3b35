"""Bias correction: what rounding the weights of a layer shifts its output by, on average.

The output is linear in the weights and in the input, so the mean of its error over positions and samples needs only the mean
of what each tap of the kernel meets in each input channel: E[sum_k (W - W') x_k] = sum_k (W - W') E[x_k] (Nagel et al.,
"Data-Free Quantization through Weight Equalization and Bias Correction", 2019, section 4.2; here with measured means, padding
included: see ``windows.py``).
"""

from __future__ import annotations

import numpy as np


def mean_output(weights: np.ndarray, out: int, summed: int, mean: np.ndarray, channels: int) -> np.ndarray | None:
    """Float64 [``channels``]: the mean of what a layer without a bias returns, by output channel.

    ``weights``: output channels along ``out``, input channels along ``summed``; of a layer with groups one of both axes holds
    those of one group only. ``mean``: [C] or [C, taps], of all input channels; taps are the other axes of the weights in order,
    the last one fastest. None if the shapes do not fit together.
    """
    if not weights.size or not mean.size:
        return None
    taps = np.moveaxis(weights, (out, summed), (0, 1)).reshape(weights.shape[out], weights.shape[summed], -1)
    seen = mean.reshape(len(mean), -1).astype(np.float64)
    outputs, inputs, _ = taps.shape
    groups = channels // outputs if inputs == len(seen) else len(seen) // inputs
    if not groups or taps.shape[2] != seen.shape[1] or len(seen) % groups or channels % groups:
        return None
    if (outputs, inputs) == (channels, len(seen) // groups):
        layout = "goik"
        taps = taps.reshape(groups, channels // groups, inputs, -1)
    elif (outputs, inputs) == (channels // groups, len(seen)):
        layout = "ogik"
        taps = taps.reshape(outputs, groups, inputs // groups, -1)
    else:
        return None
    by_group = seen.reshape(groups, len(seen) // groups, -1)
    return np.einsum(f"{layout},gik->go", taps.astype(np.float64, copy=False), by_group, optimize=True).reshape(
        channels
    )
