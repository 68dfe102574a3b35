"""Narrowing: no unsafe group is left, no scale is larger than it must be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from potc.quantize.narrow import narrow, rows_of, unsafe_groups
from potc.quantize.plan import Lanes

SHAPES = st.sampled_from([(3, 5), (2, 3, 2, 2), (4, 1, 3, 3), (1, 7), (2, 4)])


def order_of(rank: int) -> tuple[int, ...]:
    return (*range(2, rank), 1)


def codes_at(weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.rint(weights.astype(np.float64) / scale.astype(np.float64).reshape(-1, *[1] * (weights.ndim - 1))).astype(
        np.int64
    )


def base_scale(weights: np.ndarray) -> np.ndarray:
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    return np.maximum(largest / np.float32(127), np.float32(1e-6)).astype(np.float32)


def brute_force_unsafe(row: np.ndarray, lanes: int) -> bool:
    """Tries every combination of the extreme activation codes on each group of a flattened row."""
    for start in range(0, len(row), lanes):
        group = row[start : start + lanes]
        for activations in itertools.product((0, 255), repeat=len(group)):
            if not -32768 <= int(np.dot(group, activations)) <= 32767:
                return True
    return False


@given(st.data(), SHAPES, st.integers(2, 4))
@settings(max_examples=150, deadline=None)
def test_result_is_safe_and_minimal(data: st.DataObject, shape: tuple[int, ...], count: int) -> None:
    weights = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-1, 1, width=32)))
    lanes = Lanes("i16", count, order_of(len(shape)))
    scale = base_scale(weights)
    result = narrow(weights, scale, 0, (lanes,), 255)
    assert (result.scale >= scale).all()
    assert result.scale.dtype == np.float32
    after = codes_at(weights, result.scale)
    one_less = codes_at(weights, np.nextafter(result.scale, np.float32(0)))
    for channel in range(shape[0]):
        flat = after[channel].transpose([a - 1 for a in lanes.order]).reshape(-1)
        assert not brute_force_unsafe(flat, count)
        if result.scale[channel] > scale[channel]:
            flat = one_less[channel].transpose([a - 1 for a in lanes.order]).reshape(-1)
            assert brute_force_unsafe(flat, count)
    assert result.at_risk == np.count_nonzero(result.scale > scale)


@given(hnp.arrays(np.int8, (3, 6), elements=st.integers(-127, 127)))
def test_unsafe_groups_agrees_with_every_activation(codes: np.ndarray) -> None:
    expected = sum(
        brute_force_unsafe(codes[c, k : k + 2].astype(np.int64), 2) for c in range(3) for k in range(0, 6, 2)
    )
    assert unsafe_groups(codes, 0, Lanes("i16", 2, (1,)), 255) == expected


def test_pairs_that_just_fit_are_left_alone() -> None:
    weights = np.array([[127, 1, 0, 64, 64, -127], [-127, -1, 100, 28, 127, -128]]) / 127
    result = narrow(weights, np.full(2, 1 / 127, np.float32), 0, (Lanes("i16", 2, (1,)),), 255)
    assert result.at_risk == 0
    assert (result.factor == 1).all()


def test_one_scale_per_tensor_covers_the_worst_channel() -> None:
    weights = np.array([[1, 1], [0.1, 0.1]], np.float32)
    result = narrow(weights, np.array(1 / 127, np.float32), None, (Lanes("i16", 2, (1,)),), 255)
    assert result.scale.shape == ()
    assert result.at_risk == 1
    assert unsafe_groups(codes_at(weights, np.full(2, result.scale)), 0, Lanes("i16", 2, (1,)), 255) == 0


def test_weights_of_zero_and_without_elements() -> None:
    for weights in (np.zeros((2, 4), np.float32), np.zeros((2, 0), np.float32), np.zeros((0, 4), np.float32)):
        result = narrow(weights, np.ones(weights.shape[0], np.float32), 0, (Lanes("i16", 2, (1,)),), 255)
        assert result.at_risk == 0


@pytest.mark.parametrize(("length", "fits"), [(66_000, True), (66_400, False)])
def test_the_widest_accumulator_is_only_checked(length: int, fits: bool) -> None:
    weights = np.ones((1, length), np.float32)
    result = narrow(weights, np.full(1, 1 / 127, np.float32), 0, (Lanes("i32", 1, (1,)),), 255)
    assert result.at_risk == 0
    assert (result.overflow == "") is fits


def test_rows_follow_the_order_of_the_axes() -> None:
    weights = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert rows_of(weights, 0, (2, 3, 1))[1, 0].tolist() == weights[1].transpose(1, 2, 0).reshape(-1).tolist()
    assert rows_of(weights, None, (2, 3, 1)).shape == (1, 2, 12)
    assert rows_of(np.zeros((5, 4, 3)), 2, (1,)).shape == (3, 5, 4)
