"""Intervals and tests: exact where they can be, and as often right as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.evaluate.confidence import difference, exact_binomial, interval, mcnemar
from potc.evaluate.evaluation import Evaluation
from potc.evaluate.metrics.classification import auc, topk
from potc.evaluate.metrics.metric import Metric, mean

NUMBERS = Metric("numbers", lambda outputs, known: 0.0, mean)


def evaluation(metric: Metric, records: list[object]) -> Evaluation:
    return Evaluation(metric, metric.reduce(records), tuple(records), tuple(range(len(records))))


# scipy 1.17.1, binomtest(k, n).proportion_ci(0.95, "exact") and binomtest(b, b + w, 0.5).pvalue
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.30849710781876294),
        (7, 10, 0.3475471499399921, 0.9332604888222655),
        (479, 500, 0.9365130594670813, 0.9738164232238541),
        (10, 10, 0.6915028921812371, 1.0),
    ],
)
def test_exact_intervals(k: int, n: int, low: float, high: float) -> None:
    found = exact_binomial(k, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("b", "w", "p"), [(3, 4, 1.0), (10, 2, 0.03857421875), (0, 0, 1.0), (0, 6, 0.03125)])
def test_mcnemar(b: int, w: int, p: float) -> None:
    assert mcnemar(b, w) == pytest.approx(p, abs=1e-12)


@given(st.integers(1, 60), st.data())
def test_an_interval_holds_the_value(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    found = exact_binomial(k, n)
    assert 0 <= found.low <= k / n <= found.high <= 1


def test_right_and_wrong_is_exact_and_numbers_are_resampled() -> None:
    assert interval(evaluation(topk(), [1.0] * 7 + [0.0] * 3)).method == "exact binomial"
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = interval(evaluation(NUMBERS, list(values)))
    assert found.method == "bootstrap"
    half = 1.96 * values.std() / math.sqrt(400)
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)
    assert found == interval(evaluation(NUMBERS, list(values)))
    assert found != interval(evaluation(NUMBERS, list(values)), seed=1)


def test_draws_without_a_value_are_counted() -> None:
    records = [(np.array([0.1 * i]), np.array([i == 0])) for i in range(6)]
    found = interval(evaluation(auc(), list(records)), resamples=200)
    assert 40 < found.undefined < 100  # (5/6)^6 = 0.33 of 200 draws miss the only positive
    assert 0 <= found.low <= found.high <= 1


def test_pairs_are_compared_as_pairs() -> None:
    first, second = [1.0] * 80 + [0.0] * 20, [1.0] * 70 + [0.0] * 30
    found = difference(evaluation(topk(), list(first)), evaluation(topk(), list(second)))
    assert (found.better, found.worse, found.method) == (0, 10, "exact McNemar")
    assert found.value == pytest.approx(-0.1)
    assert found.p == pytest.approx(2 / 2**10)
    assert -0.17 < found.interval.low < -0.1 < found.interval.high < -0.03


def test_numbers_are_compared_by_a_paired_bootstrap() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(0, 10, 200)
    near = difference(evaluation(NUMBERS, list(base)), evaluation(NUMBERS, list(base + generator.normal(0.5, 1, 200))))
    assert near.p < 0.01  # far below the spread of either: only the pairs show it
    assert near.interval.low > 0
    same = difference(evaluation(NUMBERS, list(base)), evaluation(NUMBERS, list(base)))
    assert (same.value, same.p, same.interval.low, same.interval.high) == (0, 1, 0, 0)


def test_other_samples_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="different samples"):
        difference(evaluation(NUMBERS, [1.0]), evaluation(NUMBERS, [1.0, 2.0]))
