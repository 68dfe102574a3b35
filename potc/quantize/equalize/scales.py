"""Which scales: the formulas of the literature, and the choice between them by the noise that is expected.

- cross-layer: sqrt(rows / columns), ranges of the weights before and behind (Nagel et al., "Data-Free Quantization through
  Weight Equalization and Bias Correction", 2019, section 4.1).
- smooth: activations^a / columns^(1 - a) (Xiao et al., "SmoothQuant", 2022, equation 4), a from a grid.
- channel-alignment: activations alone, as POT's ActivationChannelAlignment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from potc.quantize.equalize.layers import Group, Network
from potc.quantize.equalize.noise import expected

SWEEPS = 4
LEAST_GAIN = 0.98  # scales that are expected to leave more of the noise than this are not worth a change
WIDEST = 10.0  # binary orders of magnitude
HEADROOM = float(__import__("os").environ.get("HEAD","4"))
ALPHAS = tuple(k / 20 for k in range(1, 21))
# Exponents of activations, rows and columns that are tried: log scale = a * activations + b * rows - c * columns.
MIXED = ((0.0, 0.5, 0.5), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.5), (1 / 3, 1 / 3, 1 / 3), (0.25, 0.5, 0.5), (0.5, 0.25, 0.25), (0.0, 0.75, 0.25), (0.0, 0.25, 0.75))


@dataclass(frozen=True, slots=True)
class Bounds:
    """``lowest``: by channel, what its scale must reach at least (0: nothing); ``held``: channels that keep their scale."""

    lowest: np.ndarray
    held: np.ndarray


def find_scales(network: Network, bounds: Bounds, methods: Sequence[str], exact: bool) -> np.ndarray:
    """Float64 [channels + 1]. ``exact``: powers of two, by which floats are multiplied without rounding."""
    logs = np.zeros(network.count + 1)
    for _ in range(SWEEPS):
        changed = False
        for group in network.groups:
            chosen = _choose(network, group, bounds, methods, logs, exact)
            if chosen is not None:
                logs, changed = chosen, True
        if not changed:
            break
    return np.exp2(logs)


def _choose(
    network: Network, group: Group, bounds: Bounds, methods: Sequence[str], logs: np.ndarray, exact: bool
) -> np.ndarray | None:
    noise = expected(network, group, np.exp2(logs))
    best, least = None, LEAST_GAIN * noise(np.exp2(logs[group.channels]))
    for candidate in _candidates(network, group, methods, logs):
        for tried in _anchored(candidate, group, bounds):
            own = _cautious(network, group, tried)
            own = np.rint(own) if exact else own
            found = noise(np.exp2(own))
            if found < least:
                best, least = own, found
    if best is None:
        return None
    new = logs.copy()
    new[group.channels] = best
    return new


def _cautious(network: Network, group: Group, logs: np.ndarray) -> np.ndarray:
    """No channel becomes one of the largest of a stored tensor that was not: what calibration saw little of may hold more."""
    scale = np.ones(network.count + 1)
    scale[group.channels] = np.exp2(logs)
    lowest = np.zeros(network.count + 1)
    for k in group.stored:
        stored = network.stored[k]
        values = np.maximum(-stored.low, stored.high)
        after = values / scale[stored.channels]
        share = np.maximum(values / max(float(values.max()), 1e-30), 1 / HEADROOM)
        np.maximum.at(lowest, stored.channels, values / (max(float(after.max()), 1e-30) * share))
    return np.maximum(logs, np.log2(np.maximum(lowest[group.channels], 2.0**-WIDEST)))


def _candidates(network: Network, group: Group, methods: Sequence[str], logs: np.ndarray) -> Iterator[np.ndarray]:
    activations, rows, columns = _ranges(network, group, logs)
    exponents: list[tuple[float, float, float]] = []
    if "cross-layer" in methods and group.sources:
        exponents.append((0.0, 0.5, 0.5))
    if "smooth" in methods and group.stored:
        exponents += [(a, 0.0, 1 - a) for a in ALPHAS]
    if "channel-alignment" in methods and group.stored:
        exponents.append((1.0, 0.0, 0.0))
    if "auto" in methods:
        exponents += [*MIXED, *((a, 0.0, 1 - a) for a in ALPHAS)]
    for a, b, c in dict.fromkeys(exponents):
        terms = [k * logs3 for k, logs3 in ((a, activations), (b, rows), (-c, columns)) if k]
        yield np.clip(_middle(np.sum(terms, axis=0)), -WIDEST, WIDEST)


def _middle(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    return np.where(finite, values - np.median(values[finite]), 0.0)


def _anchored(candidate: np.ndarray, group: Group, bounds: Bounds) -> Iterator[np.ndarray]:
    """Where some scales are bounded, a factor for all others is a choice of its own."""
    bounded = bounds.lowest[group.channels]
    if not group.anchored and not bounded.any():
        yield candidate
        return
    lowest = np.log2(np.maximum(bounded, 2.0**-WIDEST))
    for quantile in (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0):
        moved = np.maximum(candidate - np.quantile(candidate, quantile), np.ceil(lowest))
        yield np.clip(moved, -WIDEST, WIDEST)


def _ranges(network: Network, group: Group, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logarithms of the largest magnitudes of each channel, in units before the group's own scaling, each relative to its
    tensor: in stored tensors, in rows of the layers before, in columns of the layers behind. -inf or inf: nothing there."""
    scale = np.exp2(logs)
    own = np.ones(network.count + 1)
    own[group.channels] = scale[group.channels]
    found = np.zeros((3, network.count + 1))
    for k in group.stored:
        stored = network.stored[k]
        values = np.maximum(-stored.low, stored.high)
        np.maximum.at(found[0], stored.channels, values / max(float(values.max()), 1e-30))
    for k in group.sources:
        layer = network.layers[k]
        values = layer.largest * scale[layer.into] / (scale[layer.out] / own[layer.out])
        np.maximum.at(found[1], layer.out, values / max(float(values.max()), 1e-30))
    for k in group.sinks:
        layer = network.layers[k]
        values = layer.largest * (scale[layer.into] / own[layer.into]) / scale[layer.out]
        np.maximum.at(found[2], layer.into, values / max(float(values.max()), 1e-30))
    with np.errstate(divide="ignore"):
        logs3 = np.log2(found[:, group.channels])
    for k, there in enumerate((group.stored, group.sources, group.sinks)):
        if not there:
            logs3[k] = 0.0
    return logs3[0], logs3[1], logs3[2]
