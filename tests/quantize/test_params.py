"""Scales, zero points and codes: laws over all ranges and types, and edge cases as data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Rejected
from potc.language.program import Granularity, QType
from potc.quantize.numbers import QuantParams
from potc.quantize.params import BIAS_LIMIT, dequantize, quantize, solve_params
from potc.quantize.plan import ConstantQuantizer, Lanes, Origin, Plan, Quantizer
from potc.quantize.ranges import Ranges
from potc.quantize.scale import SMALLEST_SCALE, range_params
from potc.quantize.statistic import Statistic, merge
from potc.quantize.tuning import RangeSettings, Tuning

U8_SYM = QType("u8", 0, 255, True)
U8_128 = QType("u8", 0, 255, False, zero_point=128)
U8 = QType("u8", 0, 255, False)
I8 = QType("i8", -128, 127, False)
I8_SYM = QType("i8", -127, 127, True)
I16_SYM = QType("i16", -32768, 32767, True)
TWOS = replace(I8_SYM, power_of_two=True)
W8 = replace(I8_SYM, granularity=Granularity.PER_CHANNEL, axis="out")
BIAS = QType("i32", -(2**31), 2**31 - 1, True, Granularity.PER_CHANNEL, "out")
ORIGINS = (Origin("cpu.conv", "cpu.rules:1", "test"),)
TYPES = st.sampled_from([U8_SYM, U8_128, U8, I8, I8_SYM, I16_SYM, TWOS])
FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
TOP = float(np.finfo(np.float32).max)
MOST = st.floats(-TOP / 2, TOP / 2, width=32)  # at the end of float32 the scale is capped


def params(low: float, high: float, qtype: QType) -> QuantParams:
    scale, zero_point = range_params(np.float64(low), np.float64(high), qtype)
    return QuantParams(qtype, scale, zero_point, None)


@given(FLOAT32, FLOAT32, TYPES)
@settings(max_examples=400)
def test_scale_is_finite_and_positive_and_zero_is_exact(a: float, b: float, qtype: QType) -> None:
    found = params(min(a, b), max(a, b), qtype)
    assert found.scale.dtype == np.float32
    assert np.isfinite(found.scale)
    assert found.scale >= np.float32(SMALLEST_SCALE)
    assert qtype.low <= int(found.zero_point) <= qtype.high
    assert dequantize(quantize(np.zeros(1), found), found)[0] == 0
    assert np.isfinite(dequantize(np.array([qtype.low, qtype.high]), found)).all()


@given(MOST, MOST, TYPES, st.floats(0, 1))
@settings(max_examples=400)
def test_error_is_at_most_half_a_step_inside_the_range(a: float, b: float, qtype: QType, where: float) -> None:
    low, high = min(a, b), max(a, b)
    if qtype is U8_SYM:
        low = max(low, 0.0)
        high = max(high, 0.0)
    value = np.array([low * (1 - where) + high * where])
    found = params(low, high, qtype)
    step = float(found.scale)
    asymmetric = not qtype.symmetric and qtype.zero_point is None
    rounding = step / 2 if asymmetric else 0.0  # a rounded zero point shifts the range by up to half a step
    error = abs(float(dequantize(quantize(value, found), found)[0]) - value[0])
    assert error <= (step / 2 + rounding) * (1 + 1e-4) + abs(value[0]) * 2**-21  # float32 itself


@given(st.floats(0, TOP, width=32, exclude_min=True), st.sampled_from([U8_SYM, U8, I8]))
def test_the_top_code_does_not_pass_the_top_of_the_range(high: float, qtype: QType) -> None:
    found = params(0.0, high, qtype)
    top = found.scale * np.float32(qtype.high - int(found.zero_point))
    assert top <= np.float32(high) or found.scale == np.float32(SMALLEST_SCALE)
    assert top >= high * (1 - 1e-6)


@given(FLOAT32, FLOAT32)
def test_powers_of_two_cover_the_range_and_no_more_than_needed(a: float, b: float) -> None:
    found = params(min(a, b), max(a, b), TWOS)
    assert np.frexp(found.scale)[0] == 0.5
    largest = max(abs(a), abs(b))
    assert float(found.scale) * 127 >= largest or largest > TOP / 2
    assert float(found.scale) * 127 < 2 * largest or largest == 0 or found.scale == np.float32(SMALLEST_SCALE)


EDGES = {
    "relu6": (0, 6, U8, np.nextafter(np.float32(6 / 255), np.float32(1)), 0, 1e-6),
    "zeros only count as 0 to 1": (0, 0, U8_SYM, 1 / 255, 0, 1e-6),
    "constant above 0 is widened to 0": (3, 3, U8, 3 / 255, 0, 1e-6),
    "constant below 0 is widened to 0": (-3, -3, U8, 3 / 255, 255, 1e-6),
    "zero point 128 is symmetric about it": (-1, 2, U8_128, 2 / 127, 128, 1e-6),
    "signed symmetric": (-4, 2, I8_SYM, 4 / 127, 0, 1e-6),
    "signed asymmetric": (0, 2, I8, 2 / 255, -128, 1e-6),
    "off-centre zero point": (-1, 10, QType("u8", 0, 255, False, zero_point=55), 10 / 200, 55, 1e-6),
    "fixed scale is kept": (-1, 9, QType("i8", -128, 127, True, scale=0.25), 0.25, 0, 0),
    "fixed scale, free zero point": (-1, 1, QType("u8", 0, 255, False, scale=0.0625), 0.0625, 16, 0),
    "denormals meet the floor": (0, 1e-42, U8, SMALLEST_SCALE, 0, 0),
    "the largest float32": (-TOP, TOP, U8, TOP / 128, 128, 1e-6),
    "power of two, exactly": (-1.984375, 0, TWOS, 1 / 64, 0, 0),
    "power of two, just above": (-1.985, 0, TWOS, 1 / 32, 0, 0),
}


@pytest.mark.parametrize(("low", "high", "qtype", "scale", "zero_point", "tolerance"), EDGES.values(), ids=EDGES)
def test_edges(low: float, high: float, qtype: QType, scale: float, zero_point: int, tolerance: float) -> None:
    found = params(low, high, qtype)
    assert float(found.scale) == pytest.approx(scale, rel=tolerance, abs=0)
    assert int(found.zero_point) == zero_point


def test_halves_round_to_even_and_codes_are_clamped() -> None:
    found = QuantParams(I8, np.array(1, np.float32), np.array(0, np.int8), None)
    assert quantize(np.array([0.5, 1.5, 2.5, -0.5, 300, -300]), found).tolist() == [0, 2, 2, 0, 127, -128]


# ---------------------------------------------------------------------------------------------- whole plans


def statistic(*samples: tuple[float, float]) -> Statistic:
    found = Statistic()
    for low, high in samples:
        found = merge(found, Statistic.of_sample(low, high))
    return found


def plan_of(types: tuple[QType, ...], *constants: ConstantQuantizer, tensors: tuple[str, ...] = ("x",)) -> Plan:
    return Plan("cpu", (Quantizer(0, tensors, tensors, types, ORIGINS),), (), constants, (), ())


def weight(types: tuple[QType, ...] = (W8,), lanes: tuple[Lanes, ...] = ()) -> ConstantQuantizer:
    return ConstantQuantizer("w", "n", 1, types, 0, "weight", (), lanes, ORIGINS)


def bias(axis: int | None = 0) -> ConstantQuantizer:
    return ConstantQuantizer("b", "n", 2, (BIAS,), axis, "bias", (("activation", 0), ("constant", 0)), (), ORIGINS)


CHOICES = [
    ("performance", (0, 6), "u8 sym", 0),
    ("mixed", (0, 6), "u8 asym", 0),
    ("performance", (-1, 6), "u8 asym", 128),
    ("accuracy", (-1, 6), "u8 asym", 36),
]


@pytest.mark.parametrize(("preset", "sample", "spelled", "zero_point"), CHOICES)
def test_the_preset_chooses_among_legal_types(
    preset: str, sample: tuple[float, float], spelled: str, zero_point: int
) -> None:
    solved = solve_params(
        plan_of((U8_SYM, U8_128, U8)), Ranges({"x": statistic(sample)}), {}, Tuning(RangeSettings(preset))
    )
    assert int(solved.activations[0].zero_point) == zero_point
    assert solved.activation_reasons[0].startswith(spelled)
    assert ("passed over" in solved.activation_reasons[0]) is (sample[0] < 0)


def test_no_legal_type_is_told() -> None:
    with pytest.raises(Rejected, match="no-legal-type"):
        solve_params(plan_of((U8_SYM,)), Ranges({"x": statistic((-1, 1))}), {}, Tuning())


ESTIMATES = [("max", U8, -4, 8), ("mean", U8, -3, 6), ("max", I8_SYM, -8, 8), ("mean", I8_SYM, -6, 6)]


@pytest.mark.parametrize(("estimator", "qtype", "low", "high"), ESTIMATES)
def test_estimators_take_the_outer_limits_of_a_class(estimator: str, qtype: QType, low: float, high: float) -> None:
    ranges = Ranges({"x": statistic((-4, 1), (-2, 1)), "y": statistic((0, 8), (0, 4))})
    solved = solve_params(plan_of((qtype,), tensors=("x", "y")), ranges, {}, Tuning(RangeSettings("mixed", estimator)))
    expected, zero_point = range_params(np.float64(low), np.float64(high), qtype)
    assert solved.activations[0].scale == expected
    assert solved.activations[0].zero_point == zero_point


def test_a_tensor_that_was_always_empty_has_a_scale() -> None:
    assert solve_params(plan_of((U8,)), Ranges({"x": Statistic()}), {}, Tuning()).activations[0].scale > 0


def test_dead_channels_take_the_scale_of_the_layer() -> None:
    values = np.array([[0, 0], [1, -2], [0.5, 0]], np.float32)
    solved = solve_params(plan_of((U8,), weight()), Ranges({"x": statistic((0, 1))}), {"w": values}, Tuning())
    scale = solved.constants[0].scale
    assert scale[0] == scale[1] > scale[2] > 0
    assert solved.codes[0].tolist() == [[0, 0], [64, -127], [127, 0]] or solved.codes[0].tolist() == [
        [0, 0],
        [63, -127],
        [127, 0],
    ]


def test_a_bias_has_the_product_of_its_factors() -> None:
    values = {"w": np.ones((3, 4), np.float32), "b": np.array([1, -1, 0], np.float32)}
    solved = solve_params(plan_of((U8,), weight(), bias()), Ranges({"x": statistic((0, 2))}), values, Tuning())
    product = solved.activations[0].scale.astype(np.float64) * solved.constants[0].scale
    assert np.allclose(solved.constants[1].scale, product, rtol=1e-7)
    assert solved.codes[1].dtype == np.int32
    assert np.allclose(dequantize(solved.codes[1], solved.constants[1]), values["b"], atol=1e-4)


@pytest.mark.parametrize(
    "qtype", [W8, replace(W8, granularity=Granularity.PER_TENSOR, axis=None), replace(W8, power_of_two=True)]
)
@pytest.mark.parametrize("small", [1e-9, 1e-30, 1e-44])
def test_a_bias_that_does_not_fit_raises_the_scale_of_its_weights(qtype: QType, small: float) -> None:
    values = {"w": np.full((2, 4), small, np.float32), "b": np.array([100, 0], np.float32)}
    solved = solve_params(plan_of((U8,), weight((qtype,)), bias()), Ranges({"x": statistic((0, 1))}), values, Tuning())
    assert np.abs(solved.codes[1].astype(np.int64)).max() <= BIAS_LIMIT + 1
    assert dequantize(solved.codes[1], solved.constants[1])[0] == pytest.approx(100, rel=1e-6)
    assert "raised" in solved.constant_reasons[0]
    assert "fits" in solved.constant_reasons[1]
    assert (solved.codes[0] == quantize(values["w"], solved.constants[0])).all()


def test_a_bias_that_can_not_fit_is_told() -> None:
    values = {"w": np.ones((1, 1), np.float32), "b": np.array([1e9], np.float32)}
    fixed = replace(W8, scale=1e-6)
    with pytest.raises(Rejected, match="bias-overflow"):
        solve_params(plan_of((U8,), weight((fixed,)), bias()), Ranges({"x": statistic((0, 1))}), values, Tuning())


PAIR = Lanes("i16", 2, (1,))
SATURATING = {
    "fixed scale": ((replace(W8, scale=1 / 127),), "saturating-accumulator"),
    "asymmetric only": ((replace(W8, symmetric=False),), "saturating-accumulator"),
}


@pytest.mark.parametrize(("types", "code"), SATURATING.values(), ids=SATURATING)
def test_weights_that_must_saturate_are_told(types: tuple[QType, ...], code: str) -> None:
    values = {"w": np.ones((1, 2), np.float32)}
    with pytest.raises(Rejected, match=code):
        solve_params(plan_of((U8,), weight(types, (PAIR,))), Ranges({"x": statistic((0, 1))}), values, Tuning())


def test_narrowing_is_reported_and_applied() -> None:
    values = {"w": np.array([[1, 1], [1, -1]], np.float32)}
    plan = plan_of((U8,), weight((W8,), (PAIR,)))
    solved = solve_params(plan, Ranges({"x": statistic((0, 1))}), values, Tuning())
    assert solved.codes[0].tolist() == [[64, 64], [127, -127]]
    assert solved.narrowing[0].at_risk == 1
    assert "1 of 2 channels" in solved.constant_reasons[0]


def test_a_bias_beyond_any_weight_scale_is_told() -> None:
    values = {"w": np.ones((1, 1), np.float32), "b": np.array([TOP], np.float32)}
    with pytest.raises(Rejected, match="bias-overflow"):
        solve_params(plan_of((U8,), weight(), bias()), Ranges({"x": statistic((0, 1e-30))}), values, Tuning())


def test_scales_whose_product_passes_float32_stay_finite() -> None:
    values = {"w": np.full((1, 2), 1e30, np.float32), "b": np.ones(1, np.float32)}
    solved = solve_params(plan_of((U8,), weight(), bias()), Ranges({"x": statistic((0, TOP))}), values, Tuning())
    assert np.isfinite(solved.constants[1].scale).all()
    assert solved.codes[1].tolist() == [0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("tensor", ["w", "b"])
def test_constants_must_be_finite(tensor: str, bad: float) -> None:
    values = {"w": np.ones((1, 2), np.float32), "b": np.ones(1, np.float32)}
    values[tensor][...] = bad
    with pytest.raises(Rejected, match="non-finite-weights"):
        solve_params(plan_of((U8,), weight(), bias()), Ranges({"x": statistic((0, 1))}), values, Tuning())


@pytest.mark.parametrize("settings_", [("fast", "max"), ("mixed", "median")])
def test_unknown_settings_are_refused(settings_: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=f"{settings_[0]}|{settings_[1]}"):
        RangeSettings(*settings_)
