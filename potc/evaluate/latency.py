"""How long two models take, measured in turns: a slow moment of the machine hits both alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NORMAL_95 = 1.96  # standard deviations that 95 % of a normal distribution lie within


@dataclass(frozen=True, slots=True)
class Paired:
    """Medians in milliseconds, and the ratio of the first to the second: its median over the rounds, within ``low`` and
    ``high`` with 95 % confidence."""

    first_ms: float
    second_ms: float
    ratio: float
    low: float
    high: float
    rounds: int


def measure(
    first: Callable[[int], object],
    second: Callable[[int], object],
    rounds: int,
    warmup: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Runs both in each round, in turns the one and the other before. ``clock``: seconds. The number of the round is
    passed on, so that both get the same input; ``warmup`` rounds are not counted: they allocate."""
    times: tuple[list[float], list[float]] = ([], [])
    both = (first, second)
    for turn in range(warmup + rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            began = clock()
            both[which](turn)
            if turn >= warmup:
                times[which].append(clock() - began)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    low, high = median_interval(ratios)
    a, b = (1e3 * statistics.median(t) for t in times)
    return Paired(a, b, statistics.median(ratios), low, high, rounds)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the true median lies with 95 % confidence, whatever the distribution.

    Ranks by the normal approximation of the binomial distribution (W. J. Conover, Practical Nonparametric Statistics,
    section 3.2); with fewer than six values the smallest and the largest, which is less than 95 %.
    """
    ordered = sorted(values)
    count = len(ordered)
    reach = NORMAL_95 * math.sqrt(count) / 2
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return ordered[low], ordered[high]
