"""Statistics merge exactly, whatever the split and the order."""

from __future__ import annotations

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.quantize.statistic import Statistic, merge

FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
SAMPLES = st.lists(st.tuples(FLOAT32, FLOAT32).map(sorted), max_size=8)


def statistic(samples: list[list[float]]) -> Statistic:
    return reduce(merge, (Statistic.of_sample(low, high) for low, high in samples), Statistic())


def text(found: Statistic) -> str:
    return json.dumps(found.to_json(), allow_nan=False)


@given(SAMPLES, SAMPLES, SAMPLES)
def test_merging_is_associative_and_commutative(a: list, b: list, c: list) -> None:
    x, y, z = map(statistic, (a, b, c))
    assert text(merge(x, y)) == text(merge(y, x))
    assert text(merge(merge(x, y), z)) == text(merge(x, merge(y, z)))
    assert merge(x, Statistic()) == x


@given(SAMPLES, st.randoms(), st.integers(0, 8))
def test_any_split_and_order_gives_the_same_bits(samples: list, random: object, cut: int) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert text(merge(statistic(shuffled[:cut]), statistic(shuffled[cut:]))) == text(statistic(samples))
    together = Statistic.of_samples([low for low, _ in samples], [high for _, high in samples])
    assert together == statistic(samples)


@given(SAMPLES)
def test_json_is_exact(samples: list) -> None:
    found = statistic(samples)
    assert Statistic.from_json(json.loads(text(found))) == found


def test_channels_are_merged_one_by_one_and_saved() -> None:
    a = Statistic.of_samples([[0, -1], [1, -2]], [[2, 0], [3, 5]])
    b = Statistic.of_samples([[-9, 0]], [[0, 7]])
    both = merge(a, b)
    assert (both.low.tolist(), both.high.tolist(), both.min, both.max) == ([-9, -2], [3, 7], -9, 7)
    assert both.rows["max"].tolist() == [[0, 0], [2, 5], [3, 7]]
    assert Statistic.from_json(json.loads(text(both))) == both


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_what_is_no_range_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="range"):
        Statistic.of_sample(low, high)
    with pytest.raises(ValueError, match="statistic"):
        Statistic.from_json({"samples": 1, "min": low, "max": high, "rows": {}})


BROKEN = {
    "another length": {"rows": {"max": "2:AAAAAAAAAAA="}},
    "not sorted": {"samples": 2, "rows": {"max": "2:AACAPwAAAAA="}},
    "no base64": {"rows": {"max": "1:#"}},
    "a negative count": {"samples": -1},
    "no histogram": {"histogram": 3},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_content_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"statistic|base64|not"):
        Statistic.from_json({"samples": 1, "min": 0.0, "max": 1.0, "rows": {}, **change})


def test_different_kinds_are_not_merged() -> None:
    with pytest.raises(ValueError, match="merged"):
        merge(Statistic.of_sample(0, 1), Statistic.of_samples([0], [1], {"quantile 0.5": np.zeros(1)}))
