"""Which scales: the formulas of the literature, each kept only where less noise is expected with it.

- "cross-layer": sqrt(rows / columns), the ranges of the weights before and behind (Nagel et al., "Data-Free Quantization
  through Weight Equalization and Bias Correction", 2019, section 4.1).
- "smooth": activations^a / columns^(1 - a), a from a grid (Xiao et al., "SmoothQuant", 2022, equation 4).
- "align": activations alone, as the ancestor's ActivationChannelAlignment; means were moved before (``centre.py``).
- "best": all of these, and what lies between.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from potc.quantize.equalize.layers import Group, Network
from potc.quantize.equalize.noise import expected

SWEEPS = 4  # neighbours change what a group is worth: after so many rounds hardly anything moves
LEAST_GAIN = 0.98  # scales that are expected to leave more of the noise than this are not worth a change
WIDEST = 10.0  # octaves: no factor is above 1024 or below its reciprocal
HEADROOM = 0.25  # of the bits of a tensor stay free above a channel that was not among the largest
TINY = 1e-30
ALPHAS = tuple(k / 20 for k in range(1, 21))

# Exponents of activations, rows and columns: log scale = a * activations + b * rows - c * columns.
Exponents = tuple[float, float, float]
CROSS_LAYER: tuple[Exponents, ...] = ((0.0, 0.5, 0.5),)
SMOOTH: tuple[Exponents, ...] = tuple((a, 0.0, 1 - a) for a in ALPHAS)
ALIGN: tuple[Exponents, ...] = ((1.0, 0.0, 0.0),)
BETWEEN: tuple[Exponents, ...] = (
    (0.0, 1.0, 0.0),
    (0.0, 0.0, 1.0),
    (0.0, 0.75, 0.25),
    (0.0, 0.25, 0.75),
    (0.5, 0.5, 0.5),
    (0.25, 0.5, 0.5),
    (0.5, 0.25, 0.25),
    (1 / 3, 1 / 3, 1 / 3),
)
METHODS: dict[str, tuple[Exponents, ...]] = {
    "align": ALIGN,
    "cross-layer": CROSS_LAYER,
    "smooth": SMOOTH,
    "best": tuple(dict.fromkeys((*CROSS_LAYER, *SMOOTH, *ALIGN, *BETWEEN))),
}
QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)  # of a candidate's scales: which of them becomes 1


def find_scales(network: Network, method: str, exact: bool = False) -> np.ndarray:
    """Positive float64 [channels + 1]; 1 where nothing is gained. ``method``: one of ``METHODS``. ``exact``: powers of two only,
    which round nothing."""
    logs = np.zeros(network.count + 1)
    for _ in range(SWEEPS):
        before = logs
        for group in network.groups:
            logs = _choose(network, group, METHODS[method], logs, exact)
        if logs is before:
            break
    return np.exp2(logs)


def _choose(network: Network, group: Group, tried: tuple[Exponents, ...], logs: np.ndarray, exact: bool) -> np.ndarray:
    """The same array where no candidate is worth a change."""
    noise = expected(network, group, np.exp2(logs))
    best, least = None, LEAST_GAIN * noise(np.exp2(logs[group.channels]))
    for candidate in _candidates(network, group, tried, logs):
        for anchored in _anchored(candidate, group):
            own = _cautious(network, group, anchored)
            own = np.rint(own) if exact else own
            found = noise(np.exp2(own))
            if found < least:
                best, least = own, found
    if best is None:
        return logs
    new = np.exp2(logs)
    new[group.channels] = np.exp2(best)
    return np.log2(network.spread(new))


def _candidates(network: Network, group: Group, tried: tuple[Exponents, ...], logs: np.ndarray) -> Iterator[np.ndarray]:
    """Base-2 logarithms of scales, by ``group.channels``. What a group does not have is not asked for."""
    found = _ranges(network, group, logs)
    there = (group.stored, group.sources, group.sinks)
    for exponents in tried:
        if all(members for power, members in zip(exponents, there, strict=True) if power):
            a, b, c = exponents
            terms = [power * values for power, values in zip((a, b, -c), found, strict=True) if power]
            with np.errstate(invalid="ignore"):  # zeros before and behind: no number, so no scale
                total = np.sum(terms, axis=0)
            yield _middle(total)


def _middle(values: np.ndarray) -> np.ndarray:
    """With the median at 0. Channels that are zero somewhere keep their scale."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    return np.where(finite, values - np.median(values[finite]), 0.0)


def _anchored(candidate: np.ndarray, group: Group) -> Iterator[np.ndarray]:
    """Where other scales are fixed, a factor for all of the group is a choice of its own."""
    for quantile in QUANTILES if group.anchored else ():
        yield candidate - np.quantile(candidate, quantile)
    if not group.anchored:
        yield candidate


def _cautious(network: Network, group: Group, logs: np.ndarray) -> np.ndarray:
    """Within bounds; and no channel becomes one of the largest of a stored tensor that was not: what calibration saw little of
    may hold more."""
    logs = np.clip(logs, -WIDEST, WIDEST)
    scale = np.ones(network.count + 1)
    scale[group.channels] = np.exp2(logs)
    network.spread(scale)
    lowest = np.zeros(network.count + 1)
    for k in group.stored:
        stored = network.stored[k]
        values = np.maximum(-stored.low, stored.high)
        after = values / scale[stored.channels]
        share = np.maximum(values / max(float(values.max()), TINY), (stored.step + 1) ** -HEADROOM)
        np.maximum.at(lowest, stored.channels, values / (max(float(after.max()), TINY) * share))
    return np.clip(np.maximum(logs, np.log2(np.maximum(lowest[group.channels], 2.0**-WIDEST))), -WIDEST, WIDEST)


def _ranges(network: Network, group: Group, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Base-2 logarithms of the largest magnitudes of each channel, in units before the group's own scaling, each relative to
    its tensor: in stored tensors, in rows of the layers before, in columns of the layers behind. -inf: only zeros."""
    scale = np.exp2(logs)
    own = np.ones(network.count + 1)
    own[group.channels] = scale[group.channels]
    found = np.zeros((3, network.count + 1))
    for k in group.stored:
        stored = network.stored[k]
        values = np.maximum(-stored.low, stored.high)
        np.maximum.at(found[0], stored.channels, values / max(float(values.max()), TINY))
    for k in group.sources:
        layer = network.layers[k]
        values = layer.largest * scale[layer.into] / (scale[layer.out] / own[layer.out])
        np.maximum.at(found[1], layer.out, values / max(float(values.max()), TINY))
    for k in group.sinks:
        layer = network.layers[k]
        values = layer.largest * (scale[layer.into] / own[layer.into]) / scale[layer.out]
        np.maximum.at(found[2], layer.into, values / max(float(values.max()), TINY))
    with np.errstate(divide="ignore"):
        logarithms = np.log2(found)
    for channel in np.flatnonzero(network.power != 1):  # of a square: half as much, where its root says nothing itself
        base, power = network.base[channel], network.power[channel]
        logarithms[:, base] = np.maximum(logarithms[:, base], logarithms[:, channel] / power)
    activations, rows, columns = logarithms[:, group.channels]
    return activations, rows, columns
