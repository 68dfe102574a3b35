"""From what each sample said of a tensor to one range: statistics, aggregators, and the presets that pair them.

Names and meaning are those of POT (OpenVINO 2023.3, ``range_estimator``): a statistic is a number of one sample, an
aggregator makes one number of those of all samples. Quantiles are numpy's, linear between neighbours. A sample is what is
fed to the model at once, whole, also where it is a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from potc.language.program import Granularity, QType
from potc.quantize.scale import is_symmetric
from potc.quantize.statistic import ABS_MAX, MAX, MIN, Statistic
from potc.quantize.tuning import OUTLIER_PROB, Border, RangeSettings

PAIRED = 3000  # samples of which all pairs are formed; of more, so many are taken, evenly spread over the sorted list
SAMPLED = 4096  # elements from which the beginning of a tail is guessed
FINE_BITS = 16  # types of so many bits can afford room for what no sample showed
FORESEEN = 100  # samples whose extremes a range with room holds at least
MEDIAN = 0.37  # how far the median of Gumbel distributed numbers lies above their mode, in scales
TAIL = 0.01  # share of the samples that the aggregators without outliers leave out at each end

# (estimator, several scales, symmetric) -> the two borders. Source: POT's tables of range estimator presets.
_EXTREMES = (Border("min", "min"), Border("max", "max"))
_ROOM = (Border("min", "beyond"), Border("max", "beyond"))
_PRESETS: Mapping[tuple[str, bool, bool], tuple[Border, Border]] = {
    ("default", False, True): (Border("min", "min"), Border("abs_max", "mean")),
    ("default", False, False): (Border("min", "mean"), Border("max", "mean")),
    ("default", True, True): (Border("min", "min"), Border("abs_max", "max")),
    ("default", True, False): _EXTREMES,
    ("quantile", False, True): (Border("min", "min"), Border("abs_quantile", "mean")),
    ("quantile", False, False): (Border("quantile", "mean"), Border("quantile", "mean")),
    ("quantile", True, True): (Border("min", "min"), Border("abs_quantile", "max")),
    ("quantile", True, False): (Border("quantile", "min"), Border("quantile", "max")),
}


def borders(qtype: QType, settings: RangeSettings) -> tuple[Border, Border]:
    """Lower and upper border of an activation of this type: those of the estimator, and what the settings say beside it.

    Estimators that search a histogram have none for several scales, so these cover everything seen.
    """
    name = "default" if settings.estimator == "mean" else settings.estimator
    several = qtype.granularity is not Granularity.PER_TENSOR
    low, high = _PRESETS.get((name, several, is_symmetric(qtype)), _ROOM if qtype.bits >= FINE_BITS else _EXTREMES)
    return _over(low, settings.activation_min), _over(high, settings.activation_max)


def weight_borders(qtype: QType, settings: RangeSettings) -> tuple[Border, Border]:
    """The same for a constant, which has no aggregator."""
    low, high = _EXTREMES
    if settings.weight_estimator == "quantile":
        low, high = (Border("quantile"), Border("quantile"))
        if is_symmetric(qtype):
            low, high = Border("min"), Border("abs_quantile")
    return _over(low, settings.weight_min), _over(high, settings.weight_max)


def _over(preset: Border, given: Border) -> Border:
    def first(*values: float | None) -> float | None:
        return next((v for v in values if v is not None), None)

    return Border(
        given.statistic or preset.statistic,
        given.aggregator or preset.aggregator,
        first(given.outlier_prob, preset.outlier_prob, OUTLIER_PROB),
        first(given.clipping_value, preset.clipping_value),
    )


# ---------------------------------------------------------------------------------------------- rows


def row_of(border: Border, *, upper: bool) -> str:
    """The name of the row that a border aggregates: quantiles carry their share."""
    if border.statistic in (MIN, MAX, ABS_MAX):
        return str(border.statistic)
    outside = OUTLIER_PROB if border.outlier_prob is None else border.outlier_prob
    return f"{border.statistic} {1 - outside if upper else outside!r}"


def quantile_of(values: np.ndarray, row: str, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """What one sample adds to a row of quantiles: over ``axes``, all of them if None. ``values`` are not empty."""
    kind, _, share = row.partition(" ")
    taken = np.abs(values) if kind == "abs_quantile" else values
    if axes is not None:
        return np.asarray(np.quantile(taken, float(share), axis=axes), np.float32)
    return np.asarray(_quantile(taken.reshape(-1), float(share)), np.float32)


def _quantile(values: np.ndarray, share: float) -> float:
    """numpy's quantile of [N], at a tenth of its cost for shares near 0 and 1: only the tail in question is put in order."""
    count = values.size
    place = share * (count - 1)
    below = math.floor(place)
    above = min(below + 1, count - 1)
    needed = above + 1 if share < 0.5 else count - below  # elements of the tail, counted from its end
    tail, first = values, 0
    if count >= SAMPLED and needed * 8 < count:
        some = np.sort(values[:: max(1, count // SAMPLED)])
        reach = min(len(some) - 1, needed * 2 * len(some) // count + 8)
        found = values[values <= some[reach]] if share < 0.5 else values[values >= some[-1 - reach]]
        if needed <= len(found):
            tail, first = found, 0 if share < 0.5 else count - len(found)
    ordered = np.partition(tail, (below - first, above - first))
    low, high = float(ordered[below - first]), float(ordered[above - first])
    return low + (high - low) * (place - below)


# ---------------------------------------------------------------------------------------------- aggregators


def aggregate(row: np.ndarray, aggregator: str, *, upper: bool = True) -> np.ndarray:
    """One number, or one by channel, of a sorted row [S] or [S, C] with S > 0; float64. ``upper``: at which end of the range."""
    values = row.astype(np.float64)
    match aggregator:
        case "beyond":
            return _beyond(values, values[-1 if upper else 0])
        case "min":
            return values[0]
        case "max":
            return values[-1]
        case "mean":
            return _mean(values)
        case "median":
            return np.median(values, axis=0)
        case "hl_estimator":
            return _per_column(values, _hodges_lehmann)
        case "mean_no_outliers":
            return _per_column(values, lambda column: float(_mean(_inner(column))))
        case "median_no_outliers":
            return _per_column(values, lambda column: float(np.median(_inner(column))))
        case _:
            raise ValueError(f"no aggregator is called {aggregator!r}")


def _beyond(values: np.ndarray, extreme: np.ndarray) -> np.ndarray:
    """As far beyond the extreme of all samples as that is from their median.

    Extremes of samples of a distribution with an exponential tail are Gumbel distributed (Coles, "An Introduction to Statistical
    Modeling of Extreme Values", 2001, section 3.1): the largest of n lies ln(n) + 0.37 of its scales above the median, so
    the same again holds the largest of some n * n. Few samples leave room for ``FORESEEN``. Where all samples have one extreme,
    as behind a limit, nothing is added.
    """
    middle = np.median(values, axis=0)
    wider = (math.log(FORESEEN) + MEDIAN) / (math.log(len(values)) + MEDIAN)
    return middle + max(2.0, wider) * (extreme - middle)


def _mean(values: np.ndarray) -> np.ndarray:
    """Correctly rounded, so that it does not depend on an order."""
    return _per_column(values, lambda column: math.fsum(column.tolist()) / len(column))


def _per_column(values: np.ndarray, function: Callable[[np.ndarray], float]) -> np.ndarray:
    if values.ndim == 1:
        return np.asarray(function(values), np.float64)
    flat = values.reshape(len(values), -1)
    found = [function(flat[:, c]) for c in range(flat.shape[1])]
    return np.asarray(found, np.float64).reshape(values.shape[1:])


def _inner(column: np.ndarray) -> np.ndarray:
    """Values between the quantiles TAIL and 1 - TAIL, both included; all of them where rounding leaves none."""
    low, high = np.quantile(column, [TAIL, 1 - TAIL])
    inner = column[(column >= low) & (column <= high)]
    return inner if len(inner) else column


def _hodges_lehmann(column: np.ndarray) -> float:
    """The median of the means of all pairs (Hodges and Lehmann, 1963), without pairs of a sample with itself."""
    if len(column) == 1:
        return float(column[0])
    if len(column) > PAIRED:
        column = column[np.arange(PAIRED) * len(column) // PAIRED]
    first, second = np.triu_indices(len(column), 1)
    return float(np.median(column[first] + column[second])) / 2


# ---------------------------------------------------------------------------------------------- ranges


def estimate(statistic: Statistic, qtype: QType, settings: RangeSettings) -> tuple[np.ndarray, np.ndarray]:
    """The range of one tensor, float64, scalar arrays or [C]. ``statistic`` has samples, and the rows that ``rows_for`` names.

    Raises KeyError for a row that was not kept.
    """
    low_border, high_border = borders(qtype, settings)
    low, high = (_border(statistic, b, upper) for b, upper in ((low_border, False), (high_border, True)))
    if str(high_border.statistic).startswith("abs_"):
        low = np.maximum(low, -high)
    return clipped(np.minimum(low, high), np.maximum(low, high), low_border, high_border)


def clipped(low: np.ndarray, high: np.ndarray, lower: Border, upper: Border) -> tuple[np.ndarray, np.ndarray]:
    """The range inside of both clipping values."""
    if lower.clipping_value is not None:
        low = np.maximum(low, lower.clipping_value)
        high = np.maximum(high, low)
    if upper.clipping_value is not None:
        high = np.minimum(high, upper.clipping_value)
        low = np.minimum(low, high)
    return low, high


def _border(statistic: Statistic, border: Border, upper: bool) -> np.ndarray:
    row, aggregator = row_of(border, upper=upper), str(border.aggregator)
    kept = _kept(row, aggregator)
    if kept is not None:
        return np.asarray(getattr(statistic, kept), np.float64)
    return aggregate(statistic.rows[row], aggregator, upper=upper)


def _kept(row: str, aggregator: str) -> str | None:
    """The extremes over all samples are there without a row."""
    return {(MIN, "min"): "low", (MAX, "max"): "high"}.get((row, aggregator))


def rows_for(qtype: QType, settings: RangeSettings) -> Iterator[str]:
    """Names of the rows that ``estimate`` reads for a type."""
    for border, upper in zip(borders(qtype, settings), (False, True), strict=True):
        row = row_of(border, upper=upper)
        if _kept(row, str(border.aggregator)) is None:
            yield row


def growth(row: np.ndarray) -> float:
    """How far the largest of S sorted numbers lies above the largest of S // 2 of them, drawn at random, on average; 0.0 for
    fewer than two. It depends on no order, so it merges, and needs no second pass.
    """
    total = len(row)
    half = total // 2
    if not half:
        return 0.0
    lost, chance = 0.0, half / total  # that the largest is drawn; then that it is not, but the next one is; ...
    for drawn in range(total - half + 1):
        lost += chance * (float(row[-1]) - float(row[total - 1 - drawn]))
        left = total - 1 - drawn
        chance *= (left - half + 1) / left if left else 0.0
    return lost
