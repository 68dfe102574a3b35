"""The range with the least error, searched on a histogram or on weights.

- ``mse``: the mean squared error between values and what their codes stand for. Sources: Sung, Shin and Hwang, "Resiliency of
  deep neural networks under quantization" (2015), section 3; Choukroun et al., "Low-bit quantization of neural networks for
  efficient inference" (2019), section 3.1.
- ``entropy``: the Kullback-Leibler divergence of what the codes can tell apart from what was there. Source: Migacz, "8-bit
  inference with TensorRT" (GPU Technology Conference 2017), "entropy calibration"; here for types with a zero point as well.

Candidates are shares of the range that was seen: first of both ends alike, then of each end alone. All of a step are judged at
once, as one matrix of candidates and bins. The same histogram gives the same range.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from potc.language.program import QType
from potc.quantize.histogram import BINS, Histogram
from potc.quantize.scale import is_symmetric, range_params, storage_dtype

SHARES = np.arange(1, 65) / 64  # of the range that was seen
FINER = np.arange(-7, 9) / 512  # around the best of them
RESOLVED = BINS // 4  # more codes than that, on one side, are finer than what was counted
UNSEEN = 1e-4  # of a count: what a code that stands for nothing counts, so that the divergence is finite

Loss = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.ndarray, QType], np.ndarray
]  # centres, counts, lows, highs, type


def resolves(qtype: QType) -> bool:
    """True if a histogram tells more than the codes of a type: else a search could not judge what is clipped."""
    return qtype.high - qtype.low <= 2 * RESOLVED


def search(histogram: Histogram, low: float, high: float, qtype: QType, estimator: str) -> tuple[float, float]:
    """The best range inside [low, high], which is what was seen, and 0; that range itself where a search could not tell.

    ``estimator``: "mse" or "entropy". Types with more codes than bins are left alone: clipping gains them nothing.
    """
    centres, counts = histogram.held()
    if not resolves(qtype) or qtype.scale is not None or not len(centres):
        return low, high
    low, high = min(low, 0.0), max(high, 0.0)
    loss = squared_error if estimator == "mse" else divergence

    def best(lows: np.ndarray, highs: np.ndarray) -> tuple[float, float]:
        found = loss(centres, counts.astype(np.float64), lows, highs, qtype)
        place = len(found) - 1 - int(np.argmin(found[::-1]))  # of equal ones the widest, which comes last
        return float(lows[place]), float(highs[place])

    def around(end: float, extreme: float) -> np.ndarray:
        share = end / extreme if extreme else 1.0
        return extreme * np.clip(np.sort(np.append(share + FINER, share)), shares[0], 1.0)

    shares = SHARES if estimator == "mse" else SHARES[(qtype.high - qtype.low) / RESOLVED / 2 <= SHARES]
    lower, upper = best(low * shares, high * shares)
    if is_symmetric(qtype) or low >= 0 or high <= 0:
        near = np.clip(
            np.append(FINER, 0.0) + max(lower / low if low else 0, upper / high if high else 0), shares[0], 1
        )
        near.sort()
        return best(low * near, high * near)
    for _ in range(2):  # the ends hardly depend on each other: the second round changes little
        lower, upper = best(np.full(shares.shape, lower), high * shares)
        lower, upper = best(low * shares, np.full(shares.shape, upper))
    near = around(upper, high)
    lower, upper = best(np.full(near.shape, lower), near)
    near = around(lower, low)
    return best(near, np.full(near.shape, upper))


def squared_error(
    centres: np.ndarray, counts: np.ndarray, lows: np.ndarray, highs: np.ndarray, qtype: QType
) -> np.ndarray:
    """Float64, [K]: the sum of squared errors of each candidate; a bin's values count as its centre."""
    _, values = _rounded(centres, lows, highs, qtype)
    return np.square(values - centres) @ counts


def divergence(
    centres: np.ndarray, counts: np.ndarray, lows: np.ndarray, highs: np.ndarray, qtype: QType
) -> np.ndarray:
    """Float64, [K]: the divergence of each candidate.

    P is the histogram with what lies outside counted at the outermost bins inside. Q knows only how much each code holds of
    what lies inside, spread evenly over the bins that are not empty.
    """
    codes, _ = _rounded(centres, lows, highs, qtype)
    found = np.empty(len(lows))
    for k, (low, high) in enumerate(zip(lows, highs, strict=True)):
        inside = np.flatnonzero((centres >= min(low, 0.0)) & (centres <= max(high, 0.0)))
        if not len(inside):
            found[k] = np.inf
            continue
        first, last = inside[0], inside[-1] + 1
        known = counts[first:last]
        reference = known.copy()
        reference[0] += counts[:first].sum()
        reference[-1] += counts[last:].sum()
        groups = codes[k, first:last] - codes[k, first]
        spread = (np.bincount(groups, known) / np.maximum(np.bincount(groups), 1))[groups]
        p, q = reference / reference.sum(), np.maximum(spread, UNSEEN)
        found[k] = float(np.sum(p * np.log(p / (q / q.sum()))))
    return found


def _rounded(centres: np.ndarray, lows: np.ndarray, highs: np.ndarray, qtype: QType) -> tuple[np.ndarray, np.ndarray]:
    """Codes above the lowest (int64) and what they stand for (float64), [K, B]."""
    scale, zero_point = range_params(lows, highs, qtype)
    scale, zero_point = scale.astype(np.float64)[:, None], zero_point.astype(np.float64)[:, None]
    codes = centres / scale
    if qtype.floating:
        codes = np.clip(codes, qtype.low, qtype.high).astype(storage_dtype(qtype.storage)).astype(np.float64)
        _, places = np.unique(codes, return_inverse=True)
        return places.reshape(codes.shape), codes * scale
    codes = np.clip(np.rint(codes) + zero_point, qtype.low, qtype.high)
    return (codes - qtype.low).astype(np.int64), (codes - zero_point) * scale


# ---------------------------------------------------------------------------------------------- weights


def search_weights(
    values: np.ndarray, low: np.ndarray, high: np.ndarray, qtype: QType, axis: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """For each channel the share of [low, high] (float64, [C] or scalar arrays) with the least squared error."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1) if axis is not None else values.reshape(1, -1)
    lows, highs = np.atleast_1d(low), np.atleast_1d(high)
    best, chosen = np.full(lows.shape, np.inf), np.ones(lows.shape)
    for share in np.arange(40, 14, -1) / 40:
        scale, zero_point = range_params(lows * share, highs * share, qtype)
        scale, zero_point = scale.astype(np.float32)[:, None], zero_point.astype(np.float32)[:, None]
        codes = rows / scale
        if qtype.floating:
            codes = np.clip(codes, qtype.low, qtype.high).astype(storage_dtype(qtype.storage)).astype(np.float32)
        else:
            codes = np.clip(np.rint(codes) + zero_point, qtype.low, qtype.high) - zero_point
        error = np.square(codes * scale - rows, dtype=np.float64).sum(axis=1)
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, share, chosen)
    return (lows * chosen).reshape(np.shape(low)), (highs * chosen).reshape(np.shape(high))
