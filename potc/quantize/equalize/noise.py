"""How much noise quantization will add to what the layers behind a group return, for scales that are tried.

Rounding adds step^2 / 12 to whatever is stored, or all of its power where that is less. Noise of a channel reaches the
layers that read it by their weights; all is relative to the power of what they return. Steps are in scaled units, powers in
those before: so a channel that is made smaller gets more noise, and its column in the next layer finer steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from potc.quantize.equalize.layers import Addend, Group, Layer, Network, Stored

TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Expected:
    """The noise of one group as a function of its scales, all others given. Build it with ``expected``."""

    network: Network
    group: Group
    scale: np.ndarray  # [channels + 1]: those of the group are overwritten by what is tried
    gain: np.ndarray  # [channels + 1]: how much of a channel's noise power arrives, as a share of the signal
    signals: tuple[np.ndarray, ...]  # of each sink, [O]: power of the result, with the mean of all added

    def __call__(self, own: np.ndarray) -> float:
        """``own``: positive scales of ``group.channels``. Comparable between scales of one group only."""
        scale = self.scale.copy()
        scale[self.group.channels] = own
        self.network.spread(scale)
        noise = np.zeros(scale.size)
        for k in self.group.stored:
            _add(noise, self.network.stored[k].channels, stored_noise(self.network.stored[k], scale))
        for k in self.group.sources:
            _add(noise, *_source_noise(self.network, self.network.layers[k], scale))
        for k in self.group.addends:
            _add(noise, self.network.addends[k].channels, _addend_noise(self.network.addends[k], scale))
        total = float(self.gain @ noise)
        for k, signal in zip(self.group.sinks, self.signals, strict=True):
            total += _sink_noise(self.network, self.network.layers[k], scale, signal)
        return total


def expected(network: Network, group: Group, scale: np.ndarray) -> Expected:
    """``scale``: [channels + 1], of all channels."""
    gain = np.zeros(scale.size)
    signals: list[np.ndarray] = []
    for k in group.sinks:
        layer = network.layers[k]
        signal = (layer.square * layer.power).sum(axis=1)
        signal = signal + signal.mean() + TINY
        signals.append(signal)
        _add(gain, layer.into, layer.square / signal[:, None] / signal.size)
    return Expected(network, group, scale, gain, tuple(signals))


def _add(total: np.ndarray, channels: np.ndarray, values: np.ndarray) -> None:
    total += np.bincount(channels.ravel(), np.broadcast_to(values, channels.shape).ravel(), total.size)


def stored_noise(stored: Stored, scale: np.ndarray) -> np.ndarray:
    """Expected squared error of each channel of a stored tensor."""
    if not stored.step:
        return np.zeros(stored.channels.shape)
    return np.minimum(np.square(stored_step(stored, scale) * scale[stored.channels]) / 12, stored.power)


def stored_step(stored: Stored, scale: np.ndarray) -> float:
    """From one code to the next, in scaled units."""
    own = scale[stored.channels]
    low, high = min(0.0, float((stored.low / own).min())), max(0.0, float((stored.high / own).max()))
    return (2 * max(-low, high) if stored.centred else high - low) / stored.step


def _addend_noise(addend: Addend, scale: np.ndarray) -> np.ndarray:
    if not addend.step:
        return np.zeros(addend.values.shape)
    own = scale[addend.channels]
    step = 2 * float((addend.values / own).max(initial=0.0)) / addend.step
    return np.minimum(np.square(step * own) / 12, np.square(addend.values))


def _source_noise(network: Network, layer: Layer, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Channels of the result with the squared error that rounding of the weight gives them."""
    if not layer.step or (layer.per_row and layer.by_row):  # each row has a scale of its own: nothing to choose
        return layer.out[:, 0], np.zeros(layer.out.shape[0])
    into = scale[layer.into]
    if layer.by_row:
        rows, own = (layer.largest * into).max(axis=1), scale[layer.out[:, 0]]
        step = max(2 * float((rows / own).max()) / layer.step, _least_step(network, layer, scale))
        heard = (layer.power / np.square(into)).sum(axis=1)
        most = (layer.square * layer.power).sum(axis=1)
        return layer.out[:, 0], np.minimum(layer.kernel * np.square(step * own) / 12 * heard, most)
    return layer.out, weight_noise(network, layer, scale) * layer.power


def _sink_noise(network: Network, layer: Layer, scale: np.ndarray, signal: np.ndarray) -> float:
    """Noise of the result by rounding of the weight, as a share of its signal, the mean of all rows."""
    if not layer.step:
        return 0.0
    if not (layer.by_column and layer.by_row):
        return float((weight_noise(network, layer, scale) * layer.power / signal[:, None]).sum() / signal.size)
    own, out = scale[layer.into[0]], scale[layer.out[:, 0]]
    rows = (layer.largest * own).max(axis=1) / out
    steps = 2 * (rows if layer.per_row else np.broadcast_to(rows.max(), rows.shape)) / layer.step
    steps = np.maximum(steps, _least_step(network, layer, scale))
    spread = float((np.square(steps * out) / signal).mean())
    most = (layer.square / signal[:, None]).mean(axis=0)
    return float((np.minimum(layer.kernel * spread / 12 / np.square(own), most) * layer.power[0]).sum())


def _least_step(network: Network, layer: Layer, scale: np.ndarray) -> float:
    """The step of a weight with which the largest sum is the accumulator's largest code; 0.0 where no sums limit it."""
    sums = layer.sums
    if sums is None:
        return 0.0
    stored = network.stored[sums.stored] if sums.stored >= 0 else None
    step = sums.step if stored is None else stored_step(stored, scale)
    return float((sums.largest[:, None] / scale[layer.out]).max()) / max(step * sums.codes, TINY)


def weight_noise(network: Network, layer: Layer, scale: np.ndarray) -> np.ndarray:
    """Expected squared error of each matrix element (all its kernel positions)."""
    factor = scale[layer.into] / scale[layer.out]
    step = 2 * (layer.largest * factor).max(axis=1 if layer.per_row else None, keepdims=True) / layer.step
    step = np.maximum(step, _least_step(network, layer, scale))
    return np.minimum(layer.kernel * np.square(step / factor) / 12, layer.square)
