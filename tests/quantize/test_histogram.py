"""Histograms: counts do not depend on splits or orders, and quantiles are where they should be."""

from __future__ import annotations

import json
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potc.quantize.histogram import BINS, Histogram, merge_histograms

FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = st.lists(st.one_of(FLOAT32, st.floats(-8, 8, width=32)), max_size=30)


def histogram(values: list[float]) -> Histogram:
    return Histogram.of_values(np.array(values, np.float32))


def same(a: Histogram, b: Histogram) -> bool:
    return (a.exponent, a.zeros, a.counts.tolist()) == (b.exponent, b.zeros, b.counts.tolist())


@given(VALUES, st.lists(st.integers(0, 30), max_size=4), st.randoms())
def test_counts_are_equal_for_any_split_order_and_tree(values: list, cuts: list, random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    places = sorted({0, *cuts, len(values)})
    parts = [histogram(shuffled[a:b]) for a, b in pairwise(places)]
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert same(reduce(merge_histograms, parts, Histogram.empty()), histogram(values))
    right = reduce(lambda whole, part: merge_histograms(part, whole), reversed(parts), Histogram.empty())
    assert same(right, histogram(values))


@given(VALUES)
def test_every_value_lies_in_its_bin(values: list) -> None:
    found = histogram(values)
    edges = found.edges()
    expected = np.zeros(2 * BINS, np.int64)
    for value in values:
        if value != 0:
            expected[np.searchsorted(edges, value, side="right") - 1] += 1
    assert found.counts.tolist() == expected.tolist()
    assert found.total == len(values)


@given(VALUES)
def test_json_is_exact(values: list) -> None:
    found = histogram(values)
    assert same(Histogram.from_json(json.loads(json.dumps(found.to_json()))), found)


@given(VALUES.filter(bool), st.floats(0, 1))
def test_quantiles_lie_within_a_bin_of_the_values(values: list, share: float) -> None:
    found = histogram(values)
    ordered = sorted(values)
    below = ordered[max(0, int(np.ceil(share * len(values))) - 1)]
    above = ordered[min(len(values) - 1, int(np.floor(share * len(values))))]
    width = 2.0**found.exponent
    assert below - width <= found.quantile(share) <= above + width


def test_zeros_are_counted_apart() -> None:
    found = histogram([0.0, -0.0, 1e-45, -1e-45])
    assert (found.zeros, int(found.counts.sum())) == (2, 2)
    assert histogram([]).quantile(0.5) == 0
    assert histogram([0, 0, 0, 3]).quantile(0.5) == 0


def test_many_values_are_counted_in_parts() -> None:
    values = np.arange(-200_000, 300_000, dtype=np.float32)
    found = Histogram.of_values(values.reshape(5, -1))
    assert found.total == values.size
    assert found.outside(-100_000, 100_000) == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        histogram([1, bad])


STORED = histogram([1, 2]).to_json()
BROKEN = {
    "exponent": {"exponent": 1 << 40},
    "a float": {"exponent": 1.5},
    "zeros": {"zeros": -1},
    "no base64": {"counts": "#"},
    "not compressed": {"counts": "AAAA"},
    "cut off": {"counts": str(STORED["counts"])[:20]},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_broken_content_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Histogram.from_json({**STORED, **change})
