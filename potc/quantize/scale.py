"""From a range of real numbers to a scale and a zero point.

Sources: the asymmetric formula is that of the ONNX operator DynamicQuantizeLinear, generalised from u8; the symmetric
one is that of the int8 scheme in "Integer quantization for deep learning inference" (Wu et al., 2020), section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from potc.language.program import QType

FLOATS: Mapping[str, int] = {"f8e4m3": TensorProto.FLOAT8E4M3FN, "f8e5m2": TensorProto.FLOAT8E5M2}
SMALLEST_NORMAL = 2.0**-126
SMALLEST_SCALE = 2.0**-63  # the product of two scales is still a normal float32, so no bias scale vanishes
ROUNDING = 2.0**-20  # a range that sticks out by no more than this (relative) does so only because of rounding


def storage_dtype(storage: str) -> np.dtype:
    """Numpy's type for "u8", "i16", "f8e4m3", ...; integers below 8 bits are held in 8."""
    if storage in FLOATS:
        return np.dtype(helper.tensor_dtype_to_np_dtype(FLOATS[storage]))
    return np.dtype(f"{'int' if storage[0] == 'i' else 'uint'}{max(8, int(storage[1:]))}")


def is_symmetric(qtype: QType) -> bool:
    """True if the zero point does not depend on the range and codes reach equally far both ways, or up from 0 only."""
    if qtype.symmetric:
        return True
    return qtype.zero_point is not None and abs((qtype.high - qtype.zero_point) - (qtype.zero_point - qtype.low)) <= 1


def range_params(
    low: np.ndarray, high: np.ndarray, qtype: QType, scale: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scale (float32) and zero point (dtype of the storage) for values in [low, high], elementwise over float64 arrays.

    The range is widened to hold 0, which a code represents exactly. In float64:

    - symmetric: scale = max(-low, high) / min(type.high - z, z - type.low), with z = 0, or 128 where the type fixes it;
      unsigned with z = 0: scale = high / type.high;
    - zero point fixed off the centre: the smallest scale that covers both ends;
    - asymmetric: scale = (high - low) / (type.high - type.low), zero point = round(type.low - low / scale), clamped;
    - one zero point for all scales: the mean of the zero points that each would have, rounded; then the smallest scales
      that cover their ends around it;
    - ``power_of_two``: the next 2**k above;
    - a scale fixed by the type, or given as ``scale``, is kept.

    A range of nothing but 0 counts as [0, 1]. Scales are never below 2**-63, and every code stands for a
    finite float32 (which costs a step only where a range reaches the end of float32). A scale that reaches past
    ``low`` or ``high`` by rounding alone is lowered by an ulp or two: runtimes drop a Clip only if the quantizer's
    range is inside it.
    """
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    if qtype.symmetric and not qtype.signed and not qtype.zero_point:
        low = np.zeros_like(low)  # an estimate below 0 of a tensor that has no negative value
    high = np.where((low == 0) & (high == 0), 1.0, high)
    if qtype.shared_zero_point:
        qtype = replace(qtype, shared_zero_point=False, zero_point=_shared_zero_point(low, high, qtype))
    if qtype.scale is not None:
        exact = np.full(np.shape(high), qtype.scale, np.float64)
    elif scale is not None:
        exact = np.asarray(scale, np.float64)
    else:
        exact = np.maximum(_exact_scale(low, high, qtype), SMALLEST_SCALE)
        if qtype.power_of_two:
            exact = _power_of_two(exact)
    zero_point = _zero_point(low, exact, qtype)
    if qtype.scale is None and scale is None:
        exact = _finite(exact, zero_point, qtype)
    rounded = np.asarray(exact).astype(np.float32)
    if qtype.scale is None and scale is None and not qtype.power_of_two:
        rounded = _inside(rounded, zero_point, low, high, qtype)
    return np.asarray(rounded, np.float32), np.asarray(zero_point).astype(storage_dtype(qtype.storage))


def _shared_zero_point(low: np.ndarray, high: np.ndarray, qtype: QType) -> int:
    """One zero point for many scales; it leaves room on the sides where there are values."""
    own = qtype.scale if qtype.scale is not None else np.maximum(_exact_scale(low, high, qtype), SMALLEST_SCALE)
    mean = float(np.mean(qtype.low - low / own)) if np.size(low) else float(qtype.low)
    lowest = qtype.low + bool(np.any(low < 0))
    highest = qtype.high - bool(np.any(high > 0))
    return int(np.clip(np.rint(mean), lowest, highest))


def _fixed_zero(qtype: QType) -> int | None:
    return qtype.zero_point if qtype.zero_point is not None else 0 if qtype.symmetric else None


def _exact_scale(low: np.ndarray, high: np.ndarray, qtype: QType) -> np.ndarray:
    zero = _fixed_zero(qtype)
    if zero is None:
        return (high - low) / (qtype.high - qtype.low)
    above, below = qtype.high - zero, zero - qtype.low
    if below <= 0:
        return high / above
    if above <= 0:
        return -low / below
    if is_symmetric(qtype):
        return np.maximum(-low, high) / min(above, below)
    return np.maximum(high / above, -low / below)


def _power_of_two(scale: np.ndarray) -> np.ndarray:
    """2**ceil(log2(scale)), exactly."""
    mantissa, exponent = np.frexp(scale)
    return np.ldexp(1.0, np.where(mantissa == 0.5, exponent - 1, exponent))


def _finite(scale: np.ndarray, zero_point: np.ndarray, qtype: QType) -> np.ndarray:
    """Caps scales so that the code farthest from the zero point still stands for a float32."""
    reach = np.maximum(qtype.high - zero_point, zero_point - qtype.low)
    cap = np.finfo(np.float32).max * (1 - 2.0**-22) / reach  # below by more than the rounding to float32
    return np.minimum(scale, np.ldexp(1.0, np.frexp(cap)[1] - 1) if qtype.power_of_two else cap)


def _zero_point(low: np.ndarray, scale: np.ndarray, qtype: QType) -> np.ndarray:
    zero = _fixed_zero(qtype)
    if zero is not None:
        return np.full(np.shape(low), zero, np.int64)
    return np.clip(np.rint(qtype.low - low / scale), qtype.low, qtype.high).astype(np.int64)


def _inside(scale: np.ndarray, zero_point: np.ndarray, low: np.ndarray, high: np.ndarray, qtype: QType) -> np.ndarray:
    """Lowers scales by ulps until float32(scale * code) is inside [low, high], where only rounding keeps it outside.

    An end that the grid overshoots by design (a zero point that had to be rounded, a symmetric type) is left alone.
    """
    above = (qtype.high - zero_point).astype(np.float32)
    below = (qtype.low - zero_point).astype(np.float32)
    near_top = scale.astype(np.float64) * above <= high * (1 + ROUNDING)
    near_bottom = scale.astype(np.float64) * below >= low * (1 + ROUNDING)
    floor = np.float32(SMALLEST_SCALE)
    for _ in range(3):
        with np.errstate(over="ignore"):
            top, bottom = scale * above, scale * below
        outside = (near_top & (top > high)) | (near_bottom & (bottom < low))
        scale = np.where(outside & (scale > floor), np.nextafter(scale, np.float32(0)), scale).astype(np.float32)
    return scale
