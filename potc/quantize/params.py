"""Plan x Ranges -> Params: every scale, zero point and stored code.

real = scale * (code - zero_point). The type of each tensor is chosen here, since some types are legal only for what was
measured (an unsigned symmetric type needs a minimum of 0). How a range becomes numbers is in ``range_params``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from potc.diagnostics.diagnostic import reject
from potc.execute.aside import Scratch, Shelf
from potc.language.program import Granularity
from potc.quantize.activations import legal_types, solve_activation, which
from potc.quantize.blocks import spread
from potc.quantize.channel_means import ChannelMean
from potc.quantize.constant_range import constant_range, limits
from potc.quantize.correct import mean_output
from potc.quantize.estimators import aggregate
from potc.quantize.level import level
from potc.quantize.moments import SecondMoments
from potc.quantize.narrow import Narrowing, narrow, slices
from potc.quantize.numbers import QuantParams
from potc.quantize.plan import ConstantQuantizer, Correction, Plan, Product
from potc.quantize.ranges import Ranges
from potc.quantize.round import second_order
from potc.quantize.scale import SMALLEST_NORMAL, is_symmetric, range_params, storage_dtype
from potc.quantize.statistic import MAX, MIN
from potc.quantize.tuning import RangeSettings, Tuning

ACTIVATION_SPAN = 255  # kernels that add into narrow lanes read 8-bit activations, shifted to start at 0
LARGEST_SCALE = 2.0**126  # a weight scale above it could leave float32 as a power of two
BIAS_LIMIT = 1 << 30  # half of int32: the other half is for the products that are added to the bias


@dataclass(frozen=True, slots=True)
class Params:
    """What ends up in the model, beside the Plan it was solved for.

    ``activations`` by quantizer id; ``constants`` and their integer ``codes`` by index into ``Plan.constants``.
    ``activation_reasons`` and ``constant_reasons``: one sentence each, why this type and this scale.
    ``narrowing``: by index, where the scale of a constant had to grow so that no accumulator saturates. ``second_order``: by
    index of each weight that was to be rounded by second moments, "", or why it was not. ``shifts``: by index of each
    corrected bias, what was added to it, float64 in its shape.
    """

    activations: tuple[QuantParams, ...]
    constants: tuple[QuantParams, ...]
    codes: Sequence[np.ndarray]
    activation_reasons: tuple[str, ...]
    constant_reasons: tuple[str, ...]
    narrowing: Mapping[int, Narrowing] = field(default_factory=dict)
    second_order: Mapping[int, str] = field(default_factory=dict[int, str])
    shifts: Mapping[int, np.ndarray] = field(default_factory=dict[int, np.ndarray])


def solve_params(
    plan: Plan,
    ranges: Ranges,
    weights: Mapping[str, np.ndarray],
    tuning: Tuning,
    moments: SecondMoments | None = None,
    scratch: Scratch | None = None,
) -> Params:
    """Solves every quantizer of the plan. ``weights``: float values of each constant that the plan names, by tensor.
    ``moments``: of what weights multiply, which the rounding "gptq" needs; what has none is leveled. ``scratch``: where codes
    are kept, if not in memory; then weights are asked for again each time that they are needed.

    Raises Rejected where no allowed type is legal for what was measured, where a bias fits no scale, and where a weight
    that could saturate an accumulator has a fixed scale; KeyError where ``ranges`` or ``weights`` lack a tensor.
    """
    activations, activation_reasons = [], []
    for quantizer in plan.quantizers:
        params, reason = solve_activation(quantizer, ranges, tuning.ranges)
        activations.append(params)
        activation_reasons.append(reason)
    for product in plan.products:
        if all(kind == "activation" for kind, _ in product.factors):
            _fit(product, ranges, activations, activation_reasons)
    found: list[_Constant] = []
    # A network that is written out step by step reads one weight everywhere: solved once.
    alike: dict[ConstantQuantizer, _Constant] = {}
    for constant in plan.constants:
        if constant.factors:
            found.append(_derived(constant, weights, activations, found, _peak(constant, ranges)))
            continue
        key = replace(constant, node="", port=0, origins=())
        if key not in alike:
            alike[key] = _constant(constant if tuning.narrow else _unbounded(constant), weights, tuning.ranges)
        found.append(replace(alike[key], constant=constant))
    for product in plan.products:
        _fit_weight(product, ranges, activations, found)
    if not tuning.narrow:
        found = [replace(c, constant=_unbounded(c.constant)) for c in found]
    codes = list[np.ndarray]() if scratch is None else Shelf(scratch)
    for i, solved in enumerate(found):
        codes.append(_codes(i, solved, tuning.rounding.method, moments))
    shifts: dict[int, np.ndarray] = {}
    if tuning.bias.method != "none":
        for correction in plan.corrections:
            shift = _correct(correction, ranges, found, codes)
            if shift is not None:
                shifts[correction.bias] = shift
    narrowing = {i: c.narrowing for i, c in enumerate(found) if c.narrowing is not None}
    return Params(
        tuple(activations),
        tuple(c.params for c in found),
        tuple(codes) if isinstance(codes, list) else codes,
        tuple(activation_reasons),
        tuple(c.reason for c in found),
        narrowing,
        {} if moments is None else moments.outcome,
        shifts,
    )


# ---------------------------------------------------------------------------------------------- constants


@dataclass(slots=True)
class _Constant:
    """A constant while it is being solved: a bias may still raise its scales."""

    constant: ConstantQuantizer
    weights: Mapping[str, np.ndarray]  # of all constants; who asks twice may get it read twice
    params: QuantParams
    reason: str
    narrowing: Narrowing | None = None

    @property
    def values(self) -> np.ndarray:
        return np.asarray(self.weights[self.constant.tensor])


def _unbounded(constant: ConstantQuantizer) -> ConstantQuantizer:
    """As if no sum of it could saturate."""
    return replace(constant, lanes=tuple(lane for lane in constant.lanes if lane.lanes == 1))


def _constant(constant: ConstantQuantizer, weights: Mapping[str, np.ndarray], settings: RangeSettings) -> _Constant:
    values = np.asarray(weights[constant.tensor])
    if not np.isfinite(values).all():
        raise reject(
            "non-finite-weights", f"the constant `{constant.tensor}` holds NaN or infinity", node=constant.node
        )
    types = legal_types(constant.types, float(values.min(initial=0.0)))
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
    low, high = constant_range(values, qtype, axis, block, settings)
    scale, zero_point = range_params(low, high, qtype)
    params = QuantParams(qtype, scale, zero_point, axis, block)
    return _narrowed(_Constant(constant, weights, params, which(qtype, types, settings.preset)))


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
    constant: ConstantQuantizer,
    weights: Mapping[str, np.ndarray],
    activations: Sequence[QuantParams],
    found: Sequence[_Constant],
    peak: float = 0.0,
) -> _Constant:
    """A bias: its scale is the product of its factors' scales.

    Where that product is too small for the bias to fit into half of the storage, for sums of magnitude ``peak`` to fit into
    all of it, or below float32's normal numbers, the scale of that channel's weights is raised until it fits. Larger scales
    never make codes larger, so what ``narrow`` guaranteed stays true.
    """
    values = np.asarray(weights[constant.tensor])
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
    factors = [(activations[i] if kind == "activation" else found[i].params).scale for kind, i in constant.factors]
    if len({s.size for s in factors if s.ndim}) > 1:
        counts = " and ".join(str(s.size) for s in factors if s.ndim)
        message = f"the scale of `{constant.tensor}` is derived from {counts} scales, one for each channel"
        raise reject(
            "unsupported-type", message, node=constant.node, help="allow scales of channels only where none are summed"
        )
    product = np.float64(1.0)
    for kind, index in constant.factors:
        product = product * (activations[index] if kind == "activation" else found[index].params).scale.astype(
            np.float64
        )
    axis = None if product.ndim == 0 else _bias_axis(constant, values, product.size)
    others = None if axis is None else tuple(a for a in range(values.ndim) if a != axis)
    largest = np.abs(values.astype(np.float64)).max(axis=others, initial=0.0)
    factor = np.maximum(np.maximum(largest / limit, peak / qtype.high), SMALLEST_NORMAL) / product
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
        what = "the bias and all sums fit" if peak else "the bias fits"
        reason += f"; {raised} scale{'s' if raised > 1 else ''} of `{owner.constant.tensor}` raised so that {what}"
    scale = np.minimum(product, np.finfo(np.float32).max).astype(np.float32)
    zero_point = np.zeros(scale.shape, storage_dtype(qtype.storage))
    return _Constant(constant, weights, QuantParams(qtype, scale, zero_point, axis), reason)


def _fit(product: Product, ranges: Ranges, activations: list[QuantParams], reasons: list[str]) -> None:
    """Raises the scales of two computed tensors alike until the sums of their products fit; where only one may grow, that one."""
    factor = float(_overflow(product, ranges, activations, ()).max())
    free = dict.fromkeys(
        i for _, i in product.factors if activations[i].qtype.symmetric and activations[i].qtype.scale is None
    )
    for index in free if factor > 1 else ():
        params = activations[index]
        scale = params.scale.astype(np.float64) * factor ** (1 / len(free))
        scale = np.exp2(np.ceil(np.log2(scale))) if params.qtype.power_of_two else scale
        activations[index] = replace(params, scale=_above(scale))
        reasons[index] += "; raised so that all sums of products fit"


def _fit_weight(
    product: Product, ranges: Ranges, activations: Sequence[QuantParams], found: Sequence[_Constant]
) -> None:
    """Raises the scales of a weight without a bias until its sums fit."""
    held = [found[i] for kind, i in product.factors if kind == "constant"]
    owner = next((c for c in held if c.params.qtype.scale is None and c.params.block is None), None)
    if owner is None:
        return
    factor = _overflow(product, ranges, activations, found)
    if factor.max() > 1:
        _raise_scale(owner, factor, "so that all sums fit")


def _overflow(
    product: Product, ranges: Ranges, activations: Sequence[QuantParams], found: Sequence[_Constant]
) -> np.ndarray:
    """How many times the accumulator the largest sum is: float64, by channel of the weight where that has such scales."""
    step = np.float64(1.0)
    for kind, i in product.factors:
        step = step * (activations[i].scale.max() if kind == "activation" else found[i].params.scale).astype(np.float64)
    return np.asarray(_peak(product, ranges) / (np.maximum(step, SMALLEST_NORMAL) * product.most))


def _peak(constant: ConstantQuantizer | Product, ranges: Ranges) -> float:
    """The largest magnitude of the sums that a bias is part of, with the room that 16-bit ranges have; 0 where nobody looked. (What
    the ancestor calls overflow correction takes the largest one seen.)"""
    seen = ranges.by_tensor[constant.sums] if constant.sums else None
    if seen is None or not seen.samples:
        return 0.0
    ends = (aggregate(seen.rows[MIN], "beyond", upper=False), aggregate(seen.rows[MAX], "beyond"))
    return max(abs(float(end)) for end in ends)


def _bias_axis(constant: ConstantQuantizer, values: np.ndarray, channels: int) -> int:
    axis = constant.axis if constant.axis is not None else values.ndim - 1
    if axis < 0 or values.shape[axis] != channels:
        message = f"`{constant.tensor}` has shape {list(values.shape)}, its factors have {channels} scales"
        raise reject("unsupported-type", message, node=constant.node)
    return axis


def _above(scale: np.ndarray) -> np.ndarray:
    """float32, rounded up."""
    nearest = scale.astype(np.float32)
    return np.where(nearest < scale, np.nextafter(nearest, np.float32(np.inf)), nearest).astype(np.float32)


def _raise_scale(owner: _Constant, factor: np.ndarray, why: str = "for a bias") -> np.ndarray:
    """Multiplies the owner's scales by ``factor`` where that is above 1. Returns the float64 factors that came
    about.
    """
    before = owner.params.scale.astype(np.float64)
    wanted = np.maximum(factor, 1.0)
    wanted = wanted if before.ndim else wanted.max()
    after = before * wanted
    if owner.params.qtype.power_of_two:
        after = np.exp2(np.ceil(np.log2(after)))
    scale = _above(after)
    zero_point = owner.params.zero_point
    if not is_symmetric(owner.params.qtype) and not owner.params.qtype.shared_zero_point:
        low, high = limits(owner.values, owner.params.axis)
        _, zero_point = range_params(low, high, replace(owner.params.qtype, scale=None), scale)
    owner.params = replace(owner.params, scale=scale, zero_point=zero_point)
    owner.reason += f"; raised {why}"
    return scale.astype(np.float64) / before


# ---------------------------------------------------------------------------------------------- codes


def _codes(index: int, solved: _Constant, method: str, moments: SecondMoments | None) -> np.ndarray:
    """Rounded to nearest, then leveled (no channel's sum shifts) or by second moments; no group of neighbours becomes able to
    saturate.
    """
    params, values = solved.params, solved.values
    codes = quantize(values, params)
    if method == "nearest" or params.qtype.floating or not codes.size:
        return codes
    lanes = solved.constant.lanes
    if method == "gptq" and moments is not None and (known := moments.of(index)) is not None:
        solved.reason += f"; rounded by second moments of {known.columns} columns"
        return second_order(values, codes, *_aligned(values, params), params.qtype, lanes, ACTIVATION_SPAN, known)
    if not lanes or not is_symmetric(params.qtype) or params.block is not None:
        return codes
    # The narrowest lanes decide which codes may move; with one lane per sum any may.
    narrowest = max(lanes, key=lambda a: a.lanes)
    bounds = (params.qtype.low, params.qtype.high)
    return level(codes, values, params.scale, params.axis, narrowest, ACTIVATION_SPAN, bounds)


def _correct(
    correction: Correction, ranges: Ranges, found: Sequence[_Constant], codes: list[np.ndarray] | Shelf
) -> np.ndarray | None:
    """Codes of a bias that also carries the mean of its kernel's rounding error. Returns what was added."""
    mean = ranges.means.get(correction.seen, ChannelMean()).mean
    if mean is None:
        return None
    weight, bias = found[correction.weight], found[correction.bias]
    error = weight.values.astype(np.float64)
    stored = codes[correction.weight]
    scale, zero_point = _aligned(error, weight.params)
    for some in slices(error.shape):
        error[some] -= _real(stored, scale, zero_point, some)
    shift = mean_output(error, correction.out, correction.summed, mean, bias.values.size)
    if shift is None:
        return None
    shift = shift.reshape(bias.values.shape)
    codes[correction.bias] = quantize(bias.values.astype(np.float64) + shift, bias.params)
    bias.reason += "; corrected by the mean of the rounding error"
    return shift


def quantize(values: np.ndarray, params: QuantParams) -> np.ndarray:
    """Codes in the dtype of the storage: round half to even of values / scale (in float64) + zero point, clamped to the
    type's limits, as ONNX QuantizeLinear defines it. Values must be finite.
    """
    scale, zero_point = _aligned(values, params)
    found = np.empty(values.shape, storage_dtype(params.qtype.storage))
    for some in slices(values.shape):
        codes = np.asarray(values[some].astype(np.float64) / _part(scale, some))
        if not params.qtype.floating:  # numpy rounds to the grid of a float storage, to even as well
            codes = np.rint(codes, out=codes)
            codes += _part(zero_point, some)
        found[some] = np.clip(codes, params.qtype.low, params.qtype.high, out=codes).astype(found.dtype)
    return found


def dequantize(codes: np.ndarray, params: QuantParams) -> np.ndarray:
    """float32 values scale * (code - zero_point), as ONNX DequantizeLinear defines it."""
    scale, zero_point = _aligned(codes, params)
    found = np.empty(codes.shape, np.float32)
    for some in slices(codes.shape):
        found[some] = _real(codes, scale, zero_point, some)
    return found


def _real(codes: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, some: tuple[slice, ...]) -> np.ndarray:
    """A part of the values that ``codes`` stand for, float32."""
    values = np.asarray(codes[some].astype(np.float64))
    values -= _part(zero_point, some)
    values *= _part(scale, some)
    return values.astype(np.float32)


def _part(broadcast: np.ndarray, some: tuple[slice, ...]) -> np.ndarray:
    """What belongs to a part of an array, of one that broadcasts against it: axes of length 1 stay."""
    return broadcast[tuple(s if length > 1 else slice(None) for s, length in zip(some, broadcast.shape, strict=True))]


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
