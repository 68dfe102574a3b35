"""Leveling: sums stay, and nothing that could not saturate becomes able to."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from potc.quantize.level import largest, level
from potc.quantize.narrow import narrow, unsafe_groups
from potc.quantize.plan import Lanes

SHAPES = st.sampled_from([(3, 5), (2, 3, 2, 2), (4, 1, 3, 3), (1, 7), (2, 4)])
BOUNDS = (-127, 127)


def lanes_of(rank: int, count: int = 2) -> Lanes:
    return Lanes("i16", count, (*range(2, rank), 1))


def own_scale(weights: np.ndarray) -> np.ndarray:
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    return np.maximum(largest / np.float32(127), np.float32(1e-6)).astype(np.float32)


def spread(scale: np.ndarray, rank: int) -> np.ndarray:
    return scale.astype(np.float64).reshape(-1, *[1] * (rank - 1))


def rounded(weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weights / spread(scale, weights.ndim)), -127, 127).astype(np.int8)


@given(st.data(), SHAPES, st.integers(2, 3))
@settings(max_examples=150, deadline=None)
def test_no_group_can_saturate_and_sums_stay(data: st.DataObject, shape: tuple[int, ...], count: int) -> None:
    weights = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))
    lanes, scale = lanes_of(len(shape), count), own_scale(weights)
    scale = narrow(weights, scale, 0, (lanes,), 255).scale
    settled = rounded(weights, scale)
    even = level(settled, weights, scale, 0, lanes, 255, BOUNDS)
    assert even.dtype == np.int8 and even.shape == shape
    assert unsafe_groups(even, 0, lanes, 255) == 0
    assert np.abs(even.astype(int)).max() <= 127
    axes = tuple(range(1, len(shape)))
    error = np.abs((weights / spread(scale, len(shape)) - settled).sum(axes))
    assert (np.abs((weights / spread(scale, len(shape)) - even).sum(axes)) <= np.maximum(error, 0.5) + 1e-6).all()


def test_exact_codes_are_left_alone() -> None:
    weights = np.array([[127, 1, 64, 64, -100, 100]], np.float32)
    codes, lanes = weights.astype(np.int8), Lanes("i16", 2, (1,))
    np.testing.assert_array_equal(level(codes, weights, np.ones(1, np.float32), 0, lanes, 255, BOUNDS), codes)


def test_the_code_nearest_to_the_next_integer_moves() -> None:
    weights = np.array([[1.4, 1.45, 1.3, 1.2]], np.float32)
    codes = np.ones((1, 4), np.int8)
    moved = level(codes, weights, np.ones(1, np.float32), 0, Lanes("i32", 1, (1,)), 255, BOUNDS)
    assert moved.tolist() == [[1, 2, 1, 1]]


def test_codes_stay_within_their_bounds() -> None:
    weights = np.array([[127.4, 127.4, 127.4, 127.4]], np.float32)
    codes = np.full((1, 4), 127, np.int8)
    lanes = Lanes("i32", 1, (1,))
    np.testing.assert_array_equal(level(codes, weights, np.ones(1, np.float32), 0, lanes, 255, BOUNDS), codes)


@given(hnp.arrays(np.float64, (3, 6), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.25, 0.5])), st.integers(1, 8))
def test_of_equal_values_the_first_are_the_largest(values: np.ndarray, count: int) -> None:
    taken = largest(values, np.full(3, count))
    expected = (-values).argsort(-1, kind="stable")[:, :count]
    for row in range(3):
        assert np.flatnonzero(taken[row]).tolist() == sorted(expected[row].tolist())
