"""One activation quantizer: from what its tensors held to a type, a scale and a zero point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.language.program import Granularity, QType
from potc.quantize.calibrate import Ranges
from potc.quantize.numbers import QuantParams
from potc.quantize.observe import Statistic
from potc.quantize.plan import Quantizer
from potc.quantize.scale import ROUNDING, is_symmetric, range_params
from potc.quantize.tuning import RangeSettings


def solve_activation(quantizer: Quantizer, ranges: Ranges, settings: RangeSettings) -> tuple[QuantParams, str]:
    """The outer limits of all observed tensors are taken first, then solved once: so zero is exact for every member."""
    statistics = [ranges.by_tensor[t] for t in quantizer.observed]
    seen = [s for s in statistics if s.samples]
    lowest, highest = min((s.min for s in seen), default=0.0), max((s.max for s in seen), default=0.0)
    name = quantizer.tensors[0]
    types = legal_types(quantizer.types, lowest)
    if not types:
        raise reject(
            "no-legal-type", f"`{name}` goes down to {lowest:.6g}, and every allowed type is unsigned", node=name
        )
    for qtype in types:
        if qtype.granularity is not Granularity.PER_TENSOR:
            raise reject("unsupported-type", f"`{name}`: activations have one scale per tensor", node=name)
    solved = [(t, *range_params(*_range(t, lowest, highest, seen, settings), t)) for t in types]
    if settings.preset in ("mixed", "accuracy"):
        finest = min(float(scale) for _, scale, _ in solved)
        solved = [entry for entry in solved if float(entry[1]) <= finest * (1 + ROUNDING)][-1:]
    qtype, scale, zero_point = solved[0]
    skipped = len(quantizer.types) - len(types)
    low, high = _range(qtype, lowest, highest, seen, settings)
    reason = f"{which(qtype, types, settings.preset)}, for values in {float(low):.6g} to {float(high):.6g}"
    if skipped:
        reason += f"; {skipped} unsigned type{'s' if skipped > 1 else ''} passed over, as values go below 0"
    return QuantParams(qtype, scale, zero_point, None), reason


def _range(
    qtype: QType, lowest: float, highest: float, seen: Sequence[Statistic], settings: RangeSettings
) -> tuple[np.ndarray, np.ndarray]:
    """The range that a type is solved for, by the estimator."""
    low, high = lowest, highest
    if settings.estimator == "mean" and seen:
        high = max(s.mean_abs_max if is_symmetric(qtype) else s.mean_max for s in seen)
        low = max(lowest, -high) if is_symmetric(qtype) else min(s.mean_min for s in seen)
    return np.asarray(low), np.asarray(high)


def legal_types(types: Sequence[QType], lowest: float) -> tuple[QType, ...]:
    """Types whose codes start at the zero point are legal only where no value is negative."""
    return tuple(t for t in types if lowest >= 0 or (0 if t.symmetric else t.zero_point) != t.low)


def which(qtype: QType, types: Sequence[QType], preset: str) -> str:
    spelled = f"{qtype.storage} {'sym' if qtype.symmetric else 'asym'}"
    if len(types) == 1:
        return f"{spelled}: the only legal type"
    which = "first" if qtype is types[0] else "last" if qtype is types[-1] else "finest"
    return f"{spelled}: the {which} of {len(types)} legal types ({preset})"
