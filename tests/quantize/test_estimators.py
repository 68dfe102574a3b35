"""Statistics, aggregators and presets, held against numpy on the values themselves; the searches against trying everything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from potc.language.program import Granularity, QType
from potc.quantize.activations import solve_activation
from potc.quantize.constant_range import constant_range
from potc.quantize.estimators import aggregate, estimate, growth, quantile_of, rows_for
from potc.quantize.histogram import Histogram
from potc.quantize.plan import Quantizer
from potc.quantize.range_search import search, search_weights, squared_error
from potc.quantize.ranges import Ranges
from potc.quantize.scale import range_params
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import AGGREGATORS, STATISTICS, Border, RangeSettings

U8 = QType("u8", 0, 255, False)
U8_128 = QType("u8", 0, 255, False, zero_point=128)
U8_SYM = QType("u8", 0, 255, True)
I8_SYM = QType("i8", -127, 127, True)
I16_SYM = QType("i16", -32768, 32767, True)
F8 = QType("f8e4m3", -448, 448, True)
CHANNELS = Granularity.PER_CHANNEL
FLOAT32 = st.floats(-1e6, 1e6, width=32)
SAMPLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=FLOAT32)


def statistic(samples: np.ndarray, qtype: QType, settings: RangeSettings, axis: int | None = None) -> Statistic:
    """As calibration makes it; ``samples``: [S, ...]."""
    others = None if axis is None else tuple(a for a in range(samples.ndim - 1) if a != axis)
    lows, highs = (np.array([f(s, axis=others) for s in samples]) for f in (np.min, np.max))
    rows = [r for r in rows_for(qtype, settings) if r not in ("min", "max", "abs_max")]
    return Statistic.of_samples(lows, highs, {r: np.array([quantile_of(s, r, others) for s in samples]) for r in rows})


OF_ONE: dict[str, Callable[[np.ndarray, float], float]] = {
    "min": lambda s, q: s.min(),
    "max": lambda s, q: s.max(),
    "abs_max": lambda s, q: np.abs(s).max(),
    "quantile": np.quantile,
    "abs_quantile": lambda s, q: np.quantile(np.abs(s), q),
}


def inner(x: np.ndarray) -> np.ndarray:
    kept = x[(x >= np.quantile(x, 0.01)) & (x <= np.quantile(x, 0.99))]
    return kept if len(kept) else x


OF_ALL: dict[str, Callable[[np.ndarray], float]] = {
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "median": np.median,
    "mean_no_outliers": lambda x: np.mean(inner(x)),
    "median_no_outliers": lambda x: np.median(inner(x)),
    "hl_estimator": lambda x: np.median([a + b for a, b in combinations(x, 2)]) / 2 if len(x) > 1 else x[0],
    "beyond": lambda x: np.median(x) + (np.max(x) - np.median(x)) * max(2, 4.97517 / (np.log(len(x)) + 0.37)),
}


def test_nothing_is_left_out() -> None:
    assert set(OF_ONE) == set(STATISTICS)
    assert set(OF_ALL) == set(AGGREGATORS)


@given(SAMPLES, st.sampled_from(STATISTICS), st.sampled_from(AGGREGATORS), st.sampled_from([0.0, 1e-4, 0.05, 0.3]))
def test_a_border_is_an_aggregate_of_one_number_a_sample(
    samples: np.ndarray, name: str, aggregator: str, outside: float
) -> None:
    settings = RangeSettings(activation_max=Border(name, aggregator, outside), activation_min=Border("min", "min"))
    low, high = estimate(statistic(samples, U8, settings), U8, settings)
    exact = samples.astype(np.float64)
    expected = OF_ALL[aggregator](
        np.array([OF_ONE[name](s, 1 - outside) for s in exact]).astype(np.float32).astype(float)
    )
    tolerance = 1e-5 * max(1.0, float(np.abs(exact).max()))
    assert float(high) == pytest.approx(max(expected, float(exact.min())), abs=tolerance)
    assert low <= high


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=FLOAT32), st.sampled_from(AGGREGATORS))
def test_channels_are_aggregated_one_by_one(values: np.ndarray, aggregator: str) -> None:
    row = np.sort(values)
    both = aggregate(np.stack([row, row * 2], axis=1), aggregator)
    assert both[0] == aggregate(row, aggregator)
    assert both[1] == pytest.approx(2 * float(aggregate(row, aggregator)), rel=1e-6, abs=1e-30)


def test_fine_types_have_room_for_what_no_sample_showed() -> None:
    rest = [[0, 2], [0, 2]] * 5
    samples = np.array([[-1, 2], [0, 5], *rest], np.float32)  # medians of the extremes: 0 and 2
    plain = RangeSettings(activation_min=Border("min", "min"), activation_max=Border("max", "max"))
    for qtype, settings, expected in (
        (I16_SYM, RangeSettings(), (-2, 8)),
        (I16_SYM, plain, (-1, 5)),
        (U8, RangeSettings(), (-1, 5)),
        (I8_SYM, RangeSettings(), (-1, 5)),
    ):
        assert estimate(statistic(samples, qtype, settings), qtype, settings) == expected
    channels = replace(I16_SYM, granularity=CHANNELS, axis=0)
    low, high = estimate(statistic(samples, channels, RangeSettings(), axis=0), channels, RangeSettings())
    assert (low.tolist(), high.tolist()) == ([-2, 2], [0, 8])


@pytest.mark.parametrize(("count", "times"), [(1, 2), (3, 3.39), (5, 2.51), (9, 2), (100, 2)])
def test_few_samples_leave_more_room(count: int, times: float) -> None:
    row = np.zeros(count, np.float32)
    row[-1] = 1
    expected = 1 if count == 1 else times  # of one sample nothing is known
    assert float(aggregate(row, "beyond")) == pytest.approx(expected, abs=0.01)


def test_behind_a_limit_nothing_is_added() -> None:
    samples = np.array([[0, 6], [0, 6], [0, 6], [0, 3]], np.float32)
    assert estimate(statistic(samples, I16_SYM, RangeSettings()), I16_SYM, RangeSettings()) == (0, 6)


def test_pairs_of_very_many_samples_are_thinned() -> None:
    row = np.arange(9000, dtype=np.float32)
    assert float(aggregate(row, "hl_estimator")) == pytest.approx(4499.5, abs=4)


@given(
    hnp.arrays(np.float32, st.sampled_from([1, 2, 5, 4095, 9000]), elements=st.floats(-9, 9, width=32), fill=FLOAT32),
    st.sampled_from(["quantile", "abs_quantile"]),
    st.sampled_from([0.0, 1e-4, 0.01, 0.5, 0.9, 0.9999, 1.0]),
)
def test_quantiles_are_those_of_numpy(values: np.ndarray, kind: str, share: float) -> None:
    taken = (np.abs(values) if kind == "abs_quantile" else values).astype(np.float64)
    expected = np.quantile(taken, share)
    assert float(quantile_of(values, f"{kind} {share!r}")) == pytest.approx(expected, rel=1e-6, abs=1e-6)


# Two samples of two channels each: every number that a preset may pick is a different one.
TWO = np.array([[[-4, -1, 0, 8], [-2, 0, 1, 2]], [[-1, 0, 0, 4], [-8, 0, 0, 6]]], np.float32)
PRESETS = {
    "default, symmetric": ("default", I8_SYM, -8, 8),
    "default, centred": ("default", U8_128, -8, 8),
    "default, asymmetric": ("default", U8, -6, 7),
    "max": ("max", U8, -8, 8),
    "mean is default": ("mean", U8, -6, 7),
    "default, symmetric channels": ("default", replace(I8_SYM, granularity=CHANNELS, axis=0), [-4, -8], [8, 8]),
    "default, asymmetric channels": ("default", replace(U8, granularity=CHANNELS, axis=0), [-4, -8], [8, 6]),
    "mse covers channels": ("mse", replace(U8, granularity=CHANNELS, axis=0), [-4, -8], [8, 6]),
}


@pytest.mark.parametrize(("estimator", "qtype", "low", "high"), PRESETS.values(), ids=PRESETS)
def test_presets(estimator: str, qtype: QType, low: object, high: object) -> None:
    settings = RangeSettings(estimator=estimator)
    axis = qtype.axis if isinstance(qtype.axis, int) else None
    found = estimate(statistic(TWO, qtype, settings, axis), qtype, settings)
    assert [f.tolist() for f in found] == [low, high]


def test_the_quantile_preset() -> None:
    settings = RangeSettings(estimator="quantile")
    samples = np.linspace(-1, 3, 20001, dtype=np.float32)[None]
    low, high = estimate(statistic(samples, U8, settings), U8, settings)
    assert (float(low), float(high)) == pytest.approx((-1 + 4e-4, 3 - 4e-4), abs=1e-6)
    low, high = estimate(statistic(samples, I8_SYM, settings), I8_SYM, settings)
    assert (float(low), float(high)) == pytest.approx((-1, np.quantile(np.abs(samples), 0.9999)), abs=1e-6)


CLIPPED = [
    (Border(), Border(clipping_value=6), -8, 6),
    (Border(clipping_value=-2), Border(), -2, 8),
    (Border(clipping_value=0), Border(clipping_value=0), 0, 0),
    (Border("min", "median"), Border("max", "median", clipping_value=100), -6, 7),
]


@pytest.mark.parametrize(("lower", "upper", "low", "high"), CLIPPED)
def test_clipping_values_and_overrides(lower: Border, upper: Border, low: float, high: float) -> None:
    settings = RangeSettings(activation_min=lower, activation_max=upper)
    assert [float(f) for f in estimate(statistic(TWO, U8, settings), U8, settings)] == [low, high]


def test_growth_is_what_halving_the_samples_costs_on_average() -> None:
    row = np.array([1, 2, 4, 7, 11, 20], np.float32)
    expected = np.mean([max(chosen) for chosen in combinations(row.tolist(), 3)])
    assert growth(row) == pytest.approx(20 - expected)
    assert growth(row[:1]) == 0
    assert growth(np.ones(9, np.float32)) == 0


# ---------------------------------------------------------------------------------------------- searches

LAPLACE = np.random.default_rng(1).laplace(size=12_000).astype(np.float32)
LOPSIDED = np.concatenate([np.abs(LAPLACE), LAPLACE[:200] / 4])
WIDE = np.concatenate([LAPLACE, np.full(2, 400, np.float32)])


def error(values: np.ndarray, low: float, high: float, qtype: QType) -> float:
    scale, zero_point = range_params(np.float64(low), np.float64(high), qtype)
    codes = np.clip(np.rint(values.astype(float) / scale) + zero_point, qtype.low, qtype.high)
    return float(np.square((codes - zero_point) * scale - values).mean())


@pytest.mark.parametrize("values", [LAPLACE, LOPSIDED, WIDE], ids=["laplace", "lopsided", "wide"])
@pytest.mark.parametrize("qtype", [U8, U8_128, I8_SYM, replace(I8_SYM, power_of_two=True)], ids=str)
def test_the_least_squared_error_is_found(values: np.ndarray, qtype: QType) -> None:
    low, high = min(float(values.min()), 0.0), float(values.max())
    found = search(Histogram.of_values(values), low, high, qtype, "mse")
    assert low <= found[0] <= 0 <= found[1] <= high
    grid = [(low * a, high * b) for a in np.arange(1, 17) / 16 for b in np.arange(1, 17) / 16]
    best = min(error(values, *ends, qtype) for ends in grid)
    assert error(values, *found, qtype) <= best * 1.02
    assert error(values, *found, qtype) <= error(values, low, high, qtype)


@pytest.mark.parametrize("qtype", [U8, I8_SYM])
def test_entropy_cuts_off_what_hardly_occurs(qtype: QType) -> None:
    _, high = search(Histogram.of_values(WIDE), float(WIDE.min()), 400.0, qtype, "entropy")
    assert high < 200
    uniform = np.linspace(0, 1, 50_000, dtype=np.float32)
    assert search(Histogram.of_values(uniform), 0.0, 1.0, U8, "entropy")[1] > 0.95


UNSEARCHED = {
    "more codes than bins": (LAPLACE, I16_SYM),
    "nothing but zeros": (np.zeros(5, np.float32), U8),
    "a fixed scale": (LAPLACE, replace(I8_SYM, scale=0.5)),
}


@pytest.mark.parametrize(("values", "qtype"), UNSEARCHED.values(), ids=UNSEARCHED)
@pytest.mark.parametrize("estimator", ["mse", "entropy"])
def test_what_a_search_can_not_tell_stays(values: np.ndarray, qtype: QType, estimator: str) -> None:
    assert search(Histogram.of_values(values), -3.0, 5.0, qtype, estimator) == (-3, 5)


@pytest.mark.parametrize("estimator", ["mse", "entropy"])
def test_types_that_no_search_judges_have_the_room_of_the_default(estimator: str) -> None:
    """Samples that calibration did not see go beyond: with 16 bits, what is cut off there is nearly all of the error."""
    quantizer = Quantizer(0, ("x",), ("x",), (I16_SYM,), ())
    scales: list[float] = []
    for settings in (RangeSettings(), RangeSettings(estimator=estimator)):
        seen = replace(statistic(TWO, I16_SYM, settings), histogram=Histogram.of_values(TWO))
        scales.append(float(solve_activation(quantizer, Ranges({"x": seen}, {}), settings)[0].scale))
    assert scales[1] == scales[0]
    assert scales[1] > 8 / 32767


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=FLOAT32), st.sampled_from([U8, I8_SYM, U8_128, F8]))
def test_searches_stay_inside_of_what_was_seen(values: np.ndarray, qtype: QType) -> None:
    low, high = float(values.min()), float(values.max())
    for estimator in ("mse", "entropy"):
        found = search(Histogram.of_values(values), low, high, qtype, estimator)
        assert min(low, 0) <= found[0] <= found[1] <= max(high, 0)
        assert found == search(Histogram.of_values(values[::-1]), low, high, qtype, estimator)


def test_squared_errors_of_floats_are_those_of_their_grid() -> None:
    centres, counts = np.array([0.3, 448.0]), np.array([1.0, 1.0])
    error_ = squared_error(centres, counts, np.array([-448.0]), np.array([448.0]), F8)
    assert error_[0] == pytest.approx((0.3125 - 0.3) ** 2, rel=1e-6)


# ---------------------------------------------------------------------------------------------- weights

W8 = replace(I8_SYM, granularity=CHANNELS, axis="out")
W4 = replace(W8, storage="i4", low=-7, high=7)


def test_weights_are_searched_channel_by_channel() -> None:
    values = np.stack([LAPLACE[:500], np.linspace(-1, 1, 500, dtype=np.float32)])
    low, high = constant_range(values, W4, 0, None, RangeSettings(weight_estimator="mse"))
    assert high[0] < 0.8 * np.abs(values[0]).max()
    assert max(-low[1], high[1]) > 0.9
    for channel in range(2):
        ends = float(values[channel].min()), float(values[channel].max())
        found = error(values[channel], float(low[channel]), float(high[channel]), W4)
        assert found <= error(values[channel], *ends, W4)
    alone = search_weights(values[0], np.float64(values[0].min()), np.float64(values[0].max()), W4, None)
    assert [float(a) for a in alone] == [low[0], high[0]]


def test_quantiles_of_weights() -> None:
    values = np.zeros((3, 1000), np.float32)
    values[0] = np.linspace(-1, 2, 1000)
    values[1, 0] = 5  # all quantiles are 0: the extremes stay
    settings = RangeSettings(weight_estimator="quantile", weight_max=Border(outlier_prob=0.01))
    _, high = constant_range(values, W8, 0, None, settings)
    assert high[0] == pytest.approx(np.quantile(np.abs(values[0]), 0.99), rel=1e-6)
    assert high[1] == 5
    low, high = constant_range(values[0], replace(U8, granularity=Granularity.PER_TENSOR), None, None, settings)
    assert (float(low), float(high)) == pytest.approx(tuple(np.quantile(values[0], [1e-4, 0.99])), rel=1e-5)
    low, _ = constant_range(values, W8, 0, None, RangeSettings(weight_min=Border(clipping_value=-0.5)))
    assert low[0] == -0.5


# ---------------------------------------------------------------------------------------------- words

WORDS = {
    "quantile,mean,outlier_prob=1e-3": Border("quantile", "mean", 1e-3),
    "abs_max": Border("abs_max"),
    "clipping_value=6": Border(clipping_value=6),
    "max, hl_estimator , clipping_value=-1.5": Border("max", "hl_estimator", None, -1.5),
}


@pytest.mark.parametrize(("text", "border"), WORDS.items())
def test_borders_are_read(text: str, border: Border) -> None:
    assert Border.parse(text) == border


FAULTY = ["avg", "max,avg", "max,mean,min", "outlier_prob=x", "outlier_prob=0.5", "clipping_value=inf", "q=1", ""]


@pytest.mark.parametrize("text", FAULTY)
def test_faulty_borders_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Border.parse(text)


@pytest.mark.parametrize(
    "words",
    [{"estimator": "median"}, {"weight_estimator": "entropy"}, {"estimator": "mse", "activation_max": Border("max")}],
    ids=str,
)
def test_what_does_not_go_together_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="estimator"):
        RangeSettings(**words)  # type: ignore[arg-type]
