"""Where the elements of a weight meet those of its input: what each tap of a kernel sees on average, padding included.

A convolution adds up weight[k] * input[p] over all taps k of its kernel, p being the position that k meets. Summed over all
positions of the result, tap k meets each input position as often along one axis as that axis alone says, so the mean of what
it meets is x multiplied by one small matrix along each axis; positions in the padding hold zeros and add nothing. The geometry
is that of the ONNX operator specifications of sliding windows (attributes ``strides``, ``dilations``, ``pads``, ``auto_pad``,
and ``output_padding`` and ``output_shape`` where results are spread out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potc.quantize.plan import Window


def window_of(attributes: Mapping[str, Any], kernel: tuple[int, ...], spreads: bool) -> Window | None:
    """The window that an operator's attributes describe; None where every tap meets every position once, as with kernels of
    one element without strides. ``kernel``: the lengths of the weight's axes that are neither input nor output channels."""

    def numbers(name: str, count: int, default: int) -> tuple[int, ...]:
        return tuple(int(n) for n in attributes.get(name) or [default] * count)

    rank = len(kernel)
    window = Window(
        kernel,
        numbers("strides", rank, 1),
        numbers("dilations", rank, 1),
        numbers("pads", 2 * rank, 0),
        str(attributes.get("auto_pad") or "NOTSET"),
        spreads,
        numbers("output_padding", rank, 0),
        numbers("output_shape", 0, 0),
    )
    moves = any(s != 1 for s in window.strides) or any(window.output_padding) or window.output_shape
    pads = window.auto_pad == "NOTSET" and any(window.pads)
    return window if moves or pads or any(k != 1 for k in kernel) else None


def taps(window: Window, axis: int, length: int) -> np.ndarray:
    """Float64 [kernel, length]: how often each tap meets each position of one axis, divided by the length of the result.

    ``axis``: counted among the window's axes; ``length``: of the input along it. All zeros where the result is empty.
    """
    out, begin = _laid(window, axis, length)
    found = np.zeros((window.kernel[axis], length))
    stride, dilation = window.strides[axis], window.dilations[axis]
    for tap in range(window.kernel[axis]):
        offset = tap * dilation - begin
        if window.spreads:
            results = np.arange(length) * stride + offset
            found[tap, (results >= 0) & (results < out)] = 1
        else:
            positions = np.arange(out) * stride + offset
            found[tap, positions[(positions >= 0) & (positions < length)]] = 1
    return found / max(out, 1)


def _laid(window: Window, axis: int, length: int) -> tuple[int, int]:
    """The length of the result along an axis, and how far before the input it begins."""
    stride, rank = window.strides[axis], len(window.kernel)
    reach = (window.kernel[axis] - 1) * window.dilations[axis] + 1
    pads = window.pads if window.auto_pad == "NOTSET" else (0,) * (2 * rank)
    same = window.auto_pad in ("SAME_UPPER", "SAME_LOWER")
    if window.spreads:
        whole = (length - 1) * stride + reach + window.output_padding[axis]
        if not window.output_shape and not same:
            return max(whole - pads[axis] - pads[axis + rank], 0), pads[axis]
        # Kernels shorter than their stride leave less than ``length * stride``, and nothing is filled up.
        out = window.output_shape[axis - rank] if window.output_shape else min(length * stride, whole)
        cut = max(whole - out, 0)
    elif same:
        out = -(-length // stride)
        cut = max((out - 1) * stride + reach - length, 0)
    else:
        return max((length + pads[axis] + pads[axis + rank] - reach) // stride + 1, 0), pads[axis]
    return out, cut // 2 if window.auto_pad == "SAME_UPPER" else cut - cut // 2


def tap_means(values: np.ndarray, window: Window) -> np.ndarray:
    """Float64 [C, taps]: the mean of what each tap meets, over all positions and the whole batch.

    ``values``: [N, C, D1, ...] with one D for each axis of the window; taps are numbered like the elements of the kernel, the
    last axis fastest.
    """
    found = values.astype(np.float64)
    for axis in reversed(range(len(window.kernel))):
        # The last axis becomes taps, and the first of those behind the channels: so all come round once, in order.
        found = np.moveaxis(found @ taps(window, axis, found.shape[-1]).T, -1, 2)
    return found.mean(axis=0).reshape(found.shape[1], -1)


@dataclass(frozen=True, slots=True)
class Strip:
    """A convolution along one axis, channel by channel, whose result at k is the mean of what tap k of a window meets.
    ``weights``: float32 [elements]; ``pads``: before and behind."""

    weights: np.ndarray
    stride: int
    dilation: int
    pads: tuple[int, int]


def strip(window: Window, axis: int, length: int) -> Strip | None:
    """Of the result r, tap k meets k * dilation + r * stride, less the padding. Summed over r that is a convolution whose taps are
    the results, with stride and dilation exchanged. None where inputs are spread, or nothing is met."""
    out, before = _laid(window, axis, length)
    if window.spreads or not out:
        return None
    stride, dilation = window.strides[axis], window.dilations[axis]
    weights = np.full(out, 1 / out, np.float32)
    behind = (window.kernel[axis] - 1) * dilation + (out - 1) * stride + 1 - length - before
    if behind <= -dilation:  # one more result would fit in, less than a stride behind: so one more element keeps it out
        weights = np.append(weights, np.float32(0))
        behind += stride
    return Strip(weights, dilation, stride, (before, max(behind, 0)))


def matrices(window: Window, lengths: Sequence[int]) -> list[np.ndarray]:
    """What ``tap_means`` multiplies with, last axis first: float32 [length, kernel] each."""
    axes = reversed(range(len(window.kernel)))
    return [np.ascontiguousarray(taps(window, axis, lengths[axis]).T.astype(np.float32)) for axis in axes]
