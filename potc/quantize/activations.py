"""One activation quantizer: from what its tensors held to a type, a scale and a zero point."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.language.program import Granularity, QType
from potc.quantize.estimators import FINE_BITS, borders, clipped, estimate
from potc.quantize.histogram import Histogram, merge_histograms
from potc.quantize.numbers import QuantParams
from potc.quantize.plan import Quantizer
from potc.quantize.range_search import resolves, search
from potc.quantize.ranges import Ranges
from potc.quantize.scale import ROUNDING, range_params
from potc.quantize.seen import LARGEST_STEP
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import RangeSettings


def solve_activation(quantizer: Quantizer, ranges: Ranges, settings: RangeSettings) -> tuple[QuantParams, str]:
    """The outer limits of all observed tensors are taken first, then solved once: so zero is exact for every member."""
    seen = [s for s in (ranges.by_tensor[t] for t in quantizer.observed) if s.samples]
    lowest, highest = min((s.min for s in seen), default=0.0), max((s.max for s in seen), default=0.0)
    name = quantizer.tensors[0]
    types = legal_types(quantizer.types, lowest)
    if not types:
        raise reject(
            "no-legal-type", f"`{name}` goes down to {lowest:.6g}, and every allowed type is unsigned", node=name
        )
    for qtype in types:
        if qtype.granularity is not Granularity.PER_TENSOR and _axis(qtype) is None:
            message = f"`{name}`: an activation has one scale, or one for each channel of a known axis"
            raise reject("unsupported-type", message, node=name)
    qtype = types[0]
    if settings.preset in ("mixed", "accuracy") and len(types) > 1:
        # A search may clip the more the fewer codes a type has: it says nothing about which type is the finest.
        covering = np.asarray(lowest), np.asarray(highest)
        judged = [covering if settings.searches else _range(t, quantizer, ranges, seen, settings) for t in types]
        scales = [float(range_params(*r, t)[0].max()) for r, t in zip(judged, types, strict=True)]
        qtype = [t for t, scale in zip(types, scales, strict=True) if scale <= min(scales) * (1 + ROUNDING)][-1]
    low, high = _range(qtype, quantizer, ranges, seen, settings)
    scale, zero_point = range_params(low, high, qtype)
    step = _step(qtype, quantizer, ranges)
    if step is not None and step * qtype.low <= lowest and highest <= step * qtype.high:
        step = min(step, float(np.exp2(np.ceil(np.log2(float(scale))))))
        scale, low, high = np.asarray(step, np.float32), np.asarray(step * qtype.low), np.asarray(step * qtype.high)
    reason = f"{which(qtype, types, settings.preset)}, for values in {float(low.min()):.6g} to {float(high.max()):.6g}"
    if seen and (float(low.min()), float(high.max())) != (lowest, highest):
        reason += f" ({settings.estimator}; seen were {lowest:.6g} to {highest:.6g})"
    skipped = len(quantizer.types) - len(types)
    if skipped:
        reason += f"; {skipped} unsigned type{'s' if skipped > 1 else ''} passed over, as values go below 0"
    return QuantParams(qtype, scale, zero_point, _axis(qtype)), reason


def _step(qtype: QType, quantizer: Quantizer, ranges: Ranges) -> float | None:
    """The step of a model input whose numbers are all multiples of it: a scale that is it, or half of it, and so on, makes codes
    exact. Only types of many bits have codes for such numbers. None also for zeros, which say nothing."""
    if qtype.bits < FINE_BITS or not qtype.symmetric or qtype.scale is not None or _axis(qtype) is not None:
        return None
    seen = [ranges.seen.inputs.get(tensor) for tensor in quantizer.observed]
    only = seen[0] if len(seen) == 1 else None
    return only.step if only is not None and 0 < only.step < LARGEST_STEP else None


def _axis(qtype: QType) -> int | None:
    """The axis of the scales; None for one scale. A plan states axes as numbers."""
    return qtype.axis if qtype.granularity is Granularity.PER_CHANNEL and isinstance(qtype.axis, int) else None


def _range(
    qtype: QType, quantizer: Quantizer, ranges: Ranges, seen: Sequence[Statistic], settings: RangeSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The range that a type is solved for, by the estimator, and no wider than what the tensors can hold: float64, scalar
    arrays or [C]."""
    if not seen:
        return np.asarray(0.0), np.asarray(0.0)
    low, high = _estimated(qtype, quantizer, ranges, seen, settings)
    return (
        (low, high) if quantizer.within is None else (np.clip(low, *quantizer.within), np.clip(high, *quantizer.within))
    )


def _estimated(
    qtype: QType, quantizer: Quantizer, ranges: Ranges, seen: Sequence[Statistic], settings: RangeSettings
) -> tuple[np.ndarray, np.ndarray]:
    axis = _axis(qtype)
    if axis is not None:
        several = [ranges.by_channel[t, axis] for t in quantizer.observed]
        return _alive(*_outer([estimate(s, qtype, settings) for s in several if s.samples]))
    if not settings.searches or (settings.estimator != "percentile" and not resolves(qtype)):
        return _outer([estimate(s, qtype, settings) for s in seen])
    low, high = min(s.min for s in seen), max(s.max for s in seen)
    histogram = reduce(merge_histograms, (s.histogram for s in seen if s.histogram is not None), Histogram.empty())
    lower, upper = borders(qtype, settings)
    if settings.estimator == "percentile":
        low = max(low, histogram.quantile(lower.outlier_prob or 0.0))
        high = min(high, histogram.quantile(1 - (upper.outlier_prob or 0.0)))
    else:
        low, high = search(histogram, low, high, qtype, settings.estimator)
    return clipped(np.asarray(low), np.asarray(high), lower, upper)


def _outer(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The outer limits of several ranges."""
    return reduce(lambda a, b: (np.minimum(a[0], b[0]), np.maximum(a[1], b[1])), found)


def _alive(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A channel of zeros takes the limits of all channels, so that its scale means something."""
    dead = (low == 0) & (high == 0)
    return np.where(dead, low.min(initial=0.0), low), np.where(dead, high.max(initial=0.0), high)


def legal_types(types: Sequence[QType], lowest: float) -> tuple[QType, ...]:
    """Types whose codes start at the zero point are legal only where no value is negative."""
    return tuple(t for t in types if lowest >= 0 or (0 if t.symmetric else t.zero_point) != t.low)


def which(qtype: QType, types: Sequence[QType], preset: str) -> str:
    spelled = f"{qtype.storage} {'sym' if qtype.symmetric else 'asym'}"
    if len(types) == 1:
        return f"{spelled}: the only legal type"
    which = "first" if qtype is types[0] else "last" if qtype is types[-1] else "finest"
    return f"{spelled}: the {which} of {len(types)} legal types ({preset})"
