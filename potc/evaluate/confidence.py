"""How sure a measured value is: intervals for one model, and tests of the difference of two on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from potc.evaluate.evaluation import Evaluation
from potc.evaluate.metrics.metric import Metric, Record

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """``method``: "exact binomial" or "bootstrap"; ``undefined``: how many resamples had no value (one class only, say)."""

    low: float
    high: float
    method: str
    undefined: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """``value``: of the second model minus that of the first. ``p``: two-sided, of no difference. ``better`` and ``worse``: samples
    that only one of the two gets right; None where samples are not right or wrong."""

    value: float
    interval: Interval
    p: float
    method: str
    better: int | None = None
    worse: int | None = None


def interval(evaluation: Evaluation, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Of 95 %. Exact for samples that are right or wrong (Clopper and Pearson 1934), else the percentiles of a bootstrap over
    samples (Efron 1979), drawn by ``seed``."""
    counted = right_or_wrong(evaluation)
    if counted is not None:
        return exact_binomial(int(counted.sum()), len(counted))
    return _percentiles(_bootstrap(evaluation.metric, [evaluation.records], resamples, seed)[0])


def difference(first: Evaluation, second: Evaluation, resamples: int = RESAMPLES, seed: int = 0) -> Difference:
    """Of two models on the same samples. Its interval is a paired bootstrap's, and so is ``p``, unless samples are right or wrong:
    then it is McNemar's exact test (binomial, two-sided). Raises ValueError for different samples."""
    if first.indices != second.indices:
        raise ValueError("the two models saw different samples")
    a, b = _bootstrap(first.metric, [first.records, second.records], resamples, seed)
    drawn = b - a
    value = second.value - first.value
    was, now = right_or_wrong(first), right_or_wrong(second)
    if was is not None and now is not None:
        better, worse = int((now > was).sum()), int((now < was).sum())
        return Difference(value, _percentiles(drawn), mcnemar(better, worse), "exact McNemar", better, worse)
    drawn_known = drawn[np.isfinite(drawn)]
    least = min(int((drawn_known <= 0).sum()), int((drawn_known >= 0).sum()))
    p = min(1.0, 2 * (least + 1) / (len(drawn_known) + 1))
    return Difference(value, _percentiles(drawn), p, "paired bootstrap")


def highest_drop(
    first: Evaluation, second: Evaluation, level: float, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """What the second model loses at most against the first on any samples like these, with the one-sided confidence ``level``;
    NaN where no resample has a value. Raises ValueError for different samples.

    Samples that are right or wrong: the exact upper limit of the share that the second model alone gets wrong minus the exact
    lower limit of the share that it alone gets right, each at half of what ``level`` leaves (Bonferroni), so few samples are never
    flattering. Others: the percentile of a paired bootstrap."""
    if first.indices != second.indices:
        raise ValueError("the two models saw different samples")
    was, now = right_or_wrong(first), right_or_wrong(second)
    if was is not None and now is not None:
        worse, better = (exact_binomial(int(n), len(was), level) for n in ((now < was).sum(), (now > was).sum()))
        return worse.high - better.low
    a, b = _bootstrap(first.metric, [first.records, second.records], resamples, seed)
    lost = a - b if first.metric.higher_is_better else b - a
    known = lost[np.isfinite(lost)]
    return float(np.quantile(known, level)) if known.size else math.nan


def samples_to_show(drop: float, level: float) -> int:
    """From how many samples on, right or wrong, ``highest_drop`` can be as low as ``drop``: where not one is lost."""
    return math.ceil(math.log((1 - level) / 2) / math.log1p(-drop)) if 0 < drop < 1 else 0


def right_or_wrong(evaluation: Evaluation) -> np.ndarray | None:
    """Records [n] of 0 and 1 as booleans; None for any other."""
    if not evaluation.metric.scored_alone:
        return None
    records = np.asarray(evaluation.records, np.float64)
    return records.astype(bool).astype(np.int8) if np.isin(records, (0, 1)).all() else None


def exact_binomial(successes: int, trials: int, level: float = LEVEL) -> Interval:
    """The shares for which so many successes, or more extreme numbers, have a chance of (1 - level) / 2 on each side."""
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else _bisect(lambda p: 1 - _binomial_cdf(successes - 1, trials, p) < tail)
    high = 1.0 if successes == trials else _bisect(lambda p: _binomial_cdf(successes, trials, p) > tail)
    return Interval(low, high, "exact binomial")


def mcnemar(better: int, worse: int) -> float:
    """Two-sided: the chance that a fair coin differs from its mean as much as the two counts do."""
    return min(1.0, 2 * _binomial_cdf(min(better, worse), better + worse, 0.5))


def _bisect(below: Callable[[float], bool]) -> float:
    """Where a monotone question turns from true to false, between 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _binomial_cdf(successes: int, trials: int, p: float) -> float:
    if p <= 0 or successes >= trials:
        return 1.0
    if p >= 1:
        return 0.0
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(successes + 1)
    )
    return min(1.0, math.fsum(math.exp(x) for x in logs))


def _bootstrap(metric: Metric, models: Sequence[Sequence[Record]], resamples: int, seed: int) -> list[np.ndarray]:
    """Values [resamples] of each model on the same draws of samples with replacement; NaN where a draw has no value."""
    count = len(models[0])
    generator = np.random.default_rng(seed)
    values = [np.empty(resamples) for _ in models]
    columns = [np.asarray(m, np.float64) if metric.scored_alone else None for m in models]
    for i in range(resamples):
        drawn = generator.integers(0, count, count)
        for records, column, row in zip(models, columns, values, strict=True):
            row[i] = _value(metric, records, drawn) if column is None else column[drawn].mean()
    return values


def _value(metric: Metric, records: Sequence[Record], drawn: np.ndarray) -> float:
    try:
        return float(metric.reduce([records[k] for k in drawn]))
    except (ValueError, ZeroDivisionError):  # a draw without one of the classes, or of empty samples only
        return math.nan


def _percentiles(values: np.ndarray) -> Interval:
    known = values[np.isfinite(values)]
    if not known.size:
        return Interval(math.nan, math.nan, "bootstrap", len(values))
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), "bootstrap", len(values) - len(known))
