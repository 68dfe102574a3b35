"""Latency in turns: which runs count, what the ratio is, and how sure it is."""

from __future__ import annotations

import random

import pytest

from potc.evaluate.latency import measure, median_interval


class Machine:
    """A clock that only the two models move; in odd rounds the machine is ten times as slow."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def runs(self, name: str, seconds: float, turn: int) -> None:
        self.order.append(name)
        self.now += seconds * (10 if turn % 2 else 1)


def test_slow_moments_do_not_move_the_ratio() -> None:
    machine = Machine()
    found = measure(
        lambda turn: machine.runs("a", 0.006, turn),
        lambda turn: machine.runs("b", 0.002, turn),
        rounds=20,
        warmup=3,
        clock=lambda: machine.now,
    )
    assert (found.ratio, found.low, found.high) == pytest.approx((3, 3, 3))
    assert found.first_ms == pytest.approx(33)
    assert found.rounds == 20
    assert len(machine.order) == 46
    assert machine.order[:4] == ["b", "a", "a", "b"]


def test_runs_before_the_counted_ones_do_not_count() -> None:
    machine = Machine()
    found = measure(
        lambda turn: machine.runs("a", 100.0 if turn < 2 else 0.004, 0),
        lambda turn: machine.runs("b", 0.002, 0),
        rounds=6,
        warmup=2,
        clock=lambda: machine.now,
    )
    assert found.first_ms == pytest.approx(4)
    assert found.high == pytest.approx(2)


@pytest.mark.parametrize("count", [6, 25, 100])
def test_the_interval_holds_the_true_median(count: int) -> None:
    """Of 1000 drawings from a skewed distribution, at least 92 % (3 standard errors below 95 %) do."""
    draw = random.Random(count)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([draw.expovariate(1.0) for _ in range(count)])
        hits += low <= 0.6931471805599453 <= high
    assert hits >= 920
    assert median_interval(list(range(count)))[1] - median_interval(list(range(count)))[0] <= 1.2 * count**0.5 * 2
