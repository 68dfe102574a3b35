"""Plan x Ranges -> Params: every scale, zero point and stored code.

real = scale * (code - zero_point). The type of each tensor is chosen here, since some types are legal only for what was
measured (an unsigned symmetric type needs a minimum of 0). How a range becomes numbers is in ``range_params``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.language.program import Granularity, QType
from potc.quantize.blocks import block_limits, spread
from potc.quantize.calibrate import Ranges
from potc.quantize.correct import mean_shift
from potc.quantize.level import level
from potc.quantize.narrow import Narrowing, narrow
from potc.quantize.observe import ChannelMean, Statistic
from potc.quantize.plan import ConstantQuantizer, Correction, Plan, Quantizer
from potc.quantize.scale import ROUNDING, SMALLEST_NORMAL, is_symmetric, range_params, storage_dtype

ACTIVATION_SPAN = 255  # kernels that add into narrow lanes read 8-bit activations, shifted to start at 0
LARGEST_SCALE = 2.0**126  # a weight scale above it could leave float32 as a power of two
BIAS_LIMIT = 1 << 30  # half of int32: the other half is for the products that are added to the bias


@dataclass(frozen=True, slots=True)
class QuantParams:
    """``scale``: float32, a scalar array or [C] along ``axis``. ``zero_point``: same shape, dtype of the storage
    (int8 and uint8 for 4 and 2 bits). ``block``: how many elements along ``axis`` have one scale; the scale then has the
    shape that ``blocks`` describes.
    """

    qtype: QType
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    block: int | None = None


@dataclass(frozen=True, slots=True)
class Params:
    """What ends up in the model, beside the Plan it was solved for.

    ``activations`` by quantizer id; ``constants`` and their integer ``codes`` by index into ``Plan.constants``.
    ``activation_reasons`` and ``constant_reasons``: one sentence each, why this type and this scale.
    ``narrowing``: by index, where the scale of a constant had to grow so that no accumulator saturates.
    """

    activations: tuple[QuantParams, ...]
    constants: tuple[QuantParams, ...]
    codes: tuple[np.ndarray, ...]
    activation_reasons: tuple[str, ...]
    constant_reasons: tuple[str, ...]
    narrowing: Mapping[int, Narrowing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RangeSettings:
    """``preset``: which of the allowed types is taken. Of constants the first legal one, with "accuracy" the last. Of
    activations with "performance" the first, else the most expressive: the one with the smallest scale for what was
    measured, and the last of several such.

    ``estimator``: "max" covers every value seen. "mean" averages over samples, as POT's default range estimators do:
    symmetric types take the mean of the largest magnitudes, others the means of minima and of maxima.

    ``use_fast_bias``: biases take over what rounding the weights shifts on average (see ``correct.py``).
    """

    preset: str = "mixed"
    estimator: str = "max"
    use_fast_bias: bool = True

    def __post_init__(self) -> None:
        if self.preset not in ("performance", "mixed", "accuracy"):
            raise ValueError(f"no preset is called {self.preset!r}: performance, mixed or accuracy")
        if self.estimator not in ("max", "mean"):
            raise ValueError(f"no range estimator is called {self.estimator!r}: max or mean")


def solve_params(plan: Plan, ranges: Ranges, weights: Mapping[str, np.ndarray], settings: RangeSettings) -> Params:
    """Solves every quantizer of the plan. ``weights``: float values of each constant that the plan names, by tensor.

    Raises Rejected where no allowed type is legal for what was measured, where a bias fits no scale, and where a weight
    that could saturate an accumulator has a fixed scale; KeyError where ``ranges`` or ``weights`` lack a tensor.
    """
    activations, activation_reasons = [], []
    for quantizer in plan.quantizers:
        params, reason = _activation(quantizer, ranges, settings)
        activations.append(params)
        activation_reasons.append(reason)
    found: list[_Constant] = []
    for constant in plan.constants:
        values = np.asarray(weights[constant.tensor])
        if constant.factors:
            found.append(_derived(constant, values, activations, found))
        else:
            found.append(_constant(constant, values, settings))
    codes = [_codes(c) for c in found]
    if settings.use_fast_bias:
        for correction in plan.corrections:
            _correct(correction, ranges, found, codes)
    narrowing = {i: c.narrowing for i, c in enumerate(found) if c.narrowing is not None}
    return Params(
        tuple(activations),
        tuple(c.params for c in found),
        tuple(codes),
        tuple(activation_reasons),
        tuple(c.reason for c in found),
        narrowing,
    )


# ---------------------------------------------------------------------------------------------- activations


def _activation(quantizer: Quantizer, ranges: Ranges, settings: RangeSettings) -> tuple[QuantParams, str]:
    """The outer limits of all observed tensors are taken first, then solved once: so zero is exact for every member."""
    statistics = [ranges.by_tensor[t] for t in quantizer.observed]
    seen = [s for s in statistics if s.samples]
    lowest, highest = min((s.min for s in seen), default=0.0), max((s.max for s in seen), default=0.0)
    name = quantizer.tensors[0]
    types = _legal(quantizer.types, lowest)
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
    reason = f"{_which(qtype, types, settings.preset)}, for values in {float(low):.6g} to {float(high):.6g}"
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


def _legal(types: Sequence[QType], lowest: float) -> tuple[QType, ...]:
    """Types whose codes start at the zero point are legal only where no value is negative."""
    return tuple(t for t in types if lowest >= 0 or (0 if t.symmetric else t.zero_point) != t.low)


def _which(qtype: QType, types: Sequence[QType], preset: str) -> str:
    spelled = f"{qtype.storage} {'sym' if qtype.symmetric else 'asym'}"
    if len(types) == 1:
        return f"{spelled}: the only legal type"
    which = "first" if qtype is types[0] else "last" if qtype is types[-1] else "finest"
    return f"{spelled}: the {which} of {len(types)} legal types ({preset})"


# ---------------------------------------------------------------------------------------------- constants


@dataclass(slots=True)
class _Constant:
    """A constant while it is being solved: a bias may still raise its scales."""

    constant: ConstantQuantizer
    values: np.ndarray
    params: QuantParams
    reason: str
    narrowing: Narrowing | None = None


def _constant(constant: ConstantQuantizer, values: np.ndarray, settings: RangeSettings) -> _Constant:
    if not np.isfinite(values).all():
        raise reject(
            "non-finite-weights", f"the constant `{constant.tensor}` holds NaN or infinity", node=constant.node
        )
    types = _legal(constant.types, float(values.min(initial=0.0)))
    saturates = any(lane.lanes > 1 for lane in constant.lanes)
    if saturates:  # only codes that shrink towards 0 with a larger scale of their own channel can be made safe
        types = tuple(
            t
            for t in types
            if t.floating or (t.symmetric and not t.zero_point and t.granularity is not Granularity.PER_BLOCK)
        )
    if not types:
        why = (
            "could saturate an accumulator: that needs a symmetric type without blocks"
            if saturates
            else "has negative values"
        )
        code = "saturating-accumulator" if saturates else "no-legal-type"
        raise reject(code, f"`{constant.tensor}` {why}, and no such type is allowed", node=constant.node)
    qtype = types[-1] if settings.preset == "accuracy" else types[0]
    axis = constant.axis_of(qtype)
    block = qtype.block if axis is not None else None
    low, high = _limits(values, axis, block)
    scale, zero_point = range_params(low, high, qtype)
    params = QuantParams(qtype, scale, zero_point, axis, block)
    return _narrowed(_Constant(constant, values, params, _which(qtype, types, settings.preset)))


def _limits(values: np.ndarray, axis: int | None, block: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Extremes per channel or block in float64. A channel of zeros takes those of the whole tensor, so that its scale means
    something.
    """
    if axis is not None and block is not None:
        low, high = block_limits(values, axis, block)
    else:
        others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
        low = np.asarray(values.min(axis=others, initial=0.0), np.float64)
        high = np.asarray(values.max(axis=others, initial=0.0), np.float64)
    dead = (low == 0) & (high == 0)
    return np.where(dead, low.min(initial=0.0), low), np.where(dead, high.max(initial=0.0), high)


def _narrowed(solved: _Constant) -> _Constant:
    """Scales grow where neighbouring products could saturate (see narrow.py)."""
    constant, params = solved.constant, solved.params
    if not constant.lanes or params.qtype.floating or params.block is not None:
        return solved
    narrowing = narrow(solved.values, params.scale, params.axis, constant.lanes, ACTIVATION_SPAN)
    if narrowing.overflow:
        solved = replace(solved, reason=f"{solved.reason}; {narrowing.overflow}")
    if not narrowing.at_risk:
        return replace(solved, narrowing=narrowing)
    if params.qtype.scale is not None:
        message = f"`{constant.tensor}` could saturate an accumulator, and its rule fixes the scale"
        raise reject("saturating-accumulator", message, node=constant.node)
    scale = narrowing.scale
    if params.qtype.power_of_two:  # the next power of two above a safe scale is safe as well
        scale = np.exp2(np.ceil(np.log2(scale.astype(np.float64)))).astype(np.float32)
    factor = scale.astype(np.float64) / params.scale.astype(np.float64)
    narrowing = replace(narrowing, scale=scale, factor=factor)
    reason = (
        f"{solved.reason}; {narrowing.at_risk} of {scale.size} channels narrowed so that no sum of neighbours saturates"
    )
    return replace(solved, params=replace(params, scale=scale), reason=reason, narrowing=narrowing)


# ---------------------------------------------------------------------------------------------- derived scales


def _derived(
    constant: ConstantQuantizer, values: np.ndarray, activations: Sequence[QuantParams], found: Sequence[_Constant]
) -> _Constant:
    """A bias: its scale is the product of its factors' scales.

    Where that product is too small for the bias to fit into half of the storage, or below float32's normal numbers, the
    scale of that channel's weights is raised until it fits. Larger scales never make codes larger, so what ``narrow``
    guaranteed stays true.
    """
    if not np.isfinite(values).all():
        raise reject(
            "non-finite-weights", f"the constant `{constant.tensor}` holds NaN or infinity", node=constant.node
        )
    qtype = constant.types[0]
    limit = min(BIAS_LIMIT, qtype.high, -qtype.low)
    held = [found[i] for kind, i in constant.factors if kind == "constant"]
    for factor in held:
        if factor.params.block is not None:
            message = (
                f"the scale of `{constant.tensor}` is derived from `{factor.constant.tensor}`, which has one per block"
            )
            raise reject("unsupported-type", message, node=constant.node, help="let the bias stay float by `none`")
    product = np.float64(1.0)
    for kind, index in constant.factors:
        product = product * (activations[index] if kind == "activation" else found[index].params).scale.astype(
            np.float64
        )
    axis = None if product.ndim == 0 else _bias_axis(constant, values, product.size)
    others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values.astype(np.float64)).max(axis=others, initial=0.0)
    factor = np.maximum(largest / limit, SMALLEST_NORMAL) / product
    raised = int(np.count_nonzero(factor > 1))
    reason = f"{qtype.storage}: the product of {len(constant.factors)} scales"
    if raised:
        owner = next((c for c in reversed(held) if c.params.qtype.scale is None), None)
        if owner is None or float((owner.params.scale * factor).max()) > LARGEST_SCALE:
            message = (
                f"the bias `{constant.tensor}` does not fit into {qtype.storage}, and no factor of its scale may grow"
            )
            raise reject("bias-overflow", message, node=constant.node)
        grown = _raise_scale(owner, factor)
        product = product * grown
        reason += (
            f"; {raised} scale{'s' if raised > 1 else ''} of `{owner.constant.tensor}` raised so that the bias fits"
        )
    scale = np.minimum(product, np.finfo(np.float32).max).astype(np.float32)
    zero_point = np.zeros(scale.shape, storage_dtype(qtype.storage))
    return _Constant(constant, values, QuantParams(qtype, scale, zero_point, axis), reason)


def _bias_axis(constant: ConstantQuantizer, values: np.ndarray, channels: int) -> int:
    axis = constant.axis if constant.axis is not None else values.ndim - 1
    if axis < 0 or values.shape[axis] != channels:
        message = f"`{constant.tensor}` has shape {list(values.shape)}, its factors have {channels} scales"
        raise reject("unsupported-type", message, node=constant.node)
    return axis


def _raise_scale(owner: _Constant, factor: np.ndarray) -> np.ndarray:
    """Multiplies the owner's scales by ``factor`` where that is above 1. Returns the float64 factors that came
    about.
    """
    before = owner.params.scale.astype(np.float64)
    wanted = np.maximum(factor, 1.0)
    wanted = wanted if before.ndim else wanted.max()
    after = before * wanted
    if owner.params.qtype.power_of_two:
        after = np.exp2(np.ceil(np.log2(after)))
    scale = after.astype(np.float32)
    scale = np.where(scale < after, np.nextafter(scale, np.float32(np.inf)), scale).astype(np.float32)
    zero_point = owner.params.zero_point
    if not is_symmetric(owner.params.qtype) and not owner.params.qtype.shared_zero_point:
        low, high = _limits(owner.values, owner.params.axis)
        _, zero_point = range_params(low, high, replace(owner.params.qtype, scale=None), scale)
    owner.params = replace(owner.params, scale=scale, zero_point=zero_point)
    owner.reason += "; raised for a bias"
    return scale.astype(np.float64) / before


# ---------------------------------------------------------------------------------------------- codes


def _codes(solved: _Constant) -> np.ndarray:
    """Rounded to nearest, then leveled: no channel's sum shifts, and no group of neighbours becomes able to saturate."""
    params, values = solved.params, solved.values
    codes = quantize(values, params)
    if not solved.constant.lanes or not is_symmetric(params.qtype) or not codes.size:
        return codes
    if params.qtype.floating or params.block is not None:
        return codes
    # The narrowest lanes decide which codes may move; with one lane per sum any may.
    lanes = max(solved.constant.lanes, key=lambda a: a.lanes)
    bounds = (params.qtype.low, params.qtype.high)
    return level(codes, values, params.scale, params.axis, lanes, ACTIVATION_SPAN, bounds)


def _correct(correction: Correction, ranges: Ranges, found: Sequence[_Constant], codes: list[np.ndarray]) -> None:
    """Codes of a bias that also carries the mean of its kernel's rounding error."""
    mean = ranges.means.get(correction.tensor, ChannelMean()).mean
    weight, bias = found[correction.weight], found[correction.bias]
    if mean is None or weight.params.axis is None or weight.params.block is not None:
        return
    error = weight.values - dequantize(codes[correction.weight], weight.params).astype(np.float64)
    shift = mean_shift(error, weight.params.axis, correction.summed, mean)
    if shift is not None and shift.size == bias.values.size:
        values = bias.values.astype(np.float64) + shift.reshape(bias.values.shape)
        codes[correction.bias] = quantize(values, bias.params)
        bias.reason += "; corrected by the mean of the rounding error"


def quantize(values: np.ndarray, params: QuantParams) -> np.ndarray:
    """Codes in the dtype of the storage: round half to even of values / scale (in float64) + zero point, clamped to the
    type's limits, as ONNX QuantizeLinear defines it. Values must be finite.
    """
    scale, zero_point = _aligned(values, params)
    codes = values.astype(np.float64) / scale
    if not params.qtype.floating:  # numpy rounds to the grid of a float storage, to even as well
        codes = np.rint(codes) + zero_point
    return np.clip(codes, params.qtype.low, params.qtype.high).astype(storage_dtype(params.qtype.storage))


def dequantize(codes: np.ndarray, params: QuantParams) -> np.ndarray:
    """float32 values scale * (code - zero_point), as ONNX DequantizeLinear defines it."""
    scale, zero_point = _aligned(codes, params)
    return ((codes.astype(np.float64) - zero_point) * scale).astype(np.float32)


def _aligned(values: np.ndarray, params: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point in float64, shaped to broadcast against ``values``."""
    scale, zero_point = params.scale.astype(np.float64), params.zero_point.astype(np.float64)
    if params.axis is not None and params.block is not None:
        length = values.shape[params.axis]
        return (
            spread(scale, params.axis, params.block, length),
            spread(zero_point, params.axis, params.block, length),
        )
    shape = [1] * values.ndim
    if params.axis is not None:
        shape[params.axis] = -1
    return scale.reshape(shape), zero_point.reshape(shape)
