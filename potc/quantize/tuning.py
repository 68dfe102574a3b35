"""What is done to lose little, in one place: every section belongs to the pass that reads it. Names are POT's where POT has one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PRESETS = ("performance", "mixed", "accuracy")
ESTIMATORS = ("max", "default", "quantile", "percentile", "mse", "entropy", "mean")
WEIGHT_ESTIMATORS = ("max", "quantile", "mse")
STATISTICS = ("min", "max", "abs_max", "quantile", "abs_quantile")
AGGREGATORS = ("mean", "max", "min", "median", "mean_no_outliers", "median_no_outliers", "hl_estimator", "beyond")
OUTLIER_PROB = 1e-4
BIAS_METHODS = ("none", "fast", "sequential")
LIMITS = ("keep", "spread")
ROUNDINGS = ("nearest", "leveled", "gptq")
EQUALIZATIONS = ("auto", "none", "align", "cross-layer", "smooth", "best")


@dataclass(frozen=True, slots=True)
class Border:
    """One end of a range: a number of each sample (``statistic``), and what becomes of all of them (``aggregator``). None
    means: as the estimator says.

    ``outlier_prob``: the share of values that quantiles leave outside at this end. ``clipping_value``: the range does not reach
    beyond it. The names are those of POT's ``range_estimator``.
    """

    statistic: str | None = None
    aggregator: str | None = None
    outlier_prob: float | None = None
    clipping_value: float | None = None

    def __post_init__(self) -> None:
        if self.statistic is not None and self.statistic not in STATISTICS:
            raise ValueError(f"no statistic is called {self.statistic!r}: {', '.join(STATISTICS)}")
        if self.aggregator is not None and self.aggregator not in AGGREGATORS:
            raise ValueError(f"no aggregator is called {self.aggregator!r}: {', '.join(AGGREGATORS)}")
        if self.outlier_prob is not None and not 0 <= self.outlier_prob < 0.5:
            raise ValueError(f"outlier_prob is {self.outlier_prob:g}; it must be at least 0 and below 0.5")
        if self.clipping_value is not None and not math.isfinite(self.clipping_value):
            raise ValueError("clipping_value must be a finite number")

    @staticmethod
    def parse(text: str) -> Border:
        """``STATISTIC[,AGGREGATOR][,outlier_prob=P][,clipping_value=V]``, every part optional. Raises ValueError."""
        names: list[str] = []
        numbers: dict[str, float] = {}
        for part in text.split(","):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                names.append(key)
            elif key in ("outlier_prob", "clipping_value"):
                numbers[key] = _number(key, value)
            else:
                raise ValueError(f"{key!r} is neither outlier_prob nor clipping_value")
        if len(names) > 2:
            raise ValueError(f"{names[2]!r} is one word too many: a statistic, then an aggregator")
        statistic, aggregator = (*names, None, None)[:2]
        return Border(statistic, aggregator, numbers.get("outlier_prob"), numbers.get("clipping_value"))


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} must be a number, not {text!r}") from None


@dataclass(frozen=True, slots=True)
class RangeSettings:
    """``preset``: which of the allowed types is taken. Of constants the first legal one, with "accuracy" the last. Of
    activations with "performance" the first, else the most expressive: the one with the smallest scale for what was
    measured, and the last of several such.

    ``estimator``, of activations: "max" covers every value seen, with room for others where a type has codes to spare.
    "default" and "quantile" are POT's presets of these names, "mean" is another name of the former. "percentile" leaves
    ``outlier_prob`` of all values of all samples outside at each end; "mse" and "entropy" search the range with the least error
    (``range_search.py``). ``weight_estimator``: "max", POT's "quantile", or "mse". The four borders say what differs from that.
    """

    preset: str = "mixed"
    estimator: str = "max"
    weight_estimator: str = "max"
    activation_min: Border = field(default_factory=Border)
    activation_max: Border = field(default_factory=Border)
    weight_min: Border = field(default_factory=Border)
    weight_max: Border = field(default_factory=Border)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"no preset is called {self.preset!r}: performance, mixed or accuracy")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"no range estimator is called {self.estimator!r}: {', '.join(ESTIMATORS)}")
        if self.weight_estimator not in WEIGHT_ESTIMATORS:
            known = ", ".join(WEIGHT_ESTIMATORS)
            raise ValueError(f"no range estimator of weights is called {self.weight_estimator!r}: {known}")
        if self.searches and any(b.statistic or b.aggregator for b in (self.activation_min, self.activation_max)):
            raise ValueError(f"the estimator {self.estimator!r} has no statistic and no aggregator")

    @property
    def searches(self) -> bool:
        """True if the estimator looks at a histogram of all values instead of numbers of each sample."""
        return self.estimator in ("percentile", "mse", "entropy")


@dataclass(frozen=True, slots=True)
class EqualizeSettings:
    """Changes of the float model that leave its results as they were and make it easier to quantize.

    ``method``: by what channels are scaled (see ``equalize/scales.py``); "best" tries all in each place, "auto" as well, by powers
    of two and only between weights of 16 bits that have one scale; "align" and "best" also move means (see
    ``equalize/centre.py``). ``limits``: channels behind an upper limit "keep" their scale, or it is "spread": each channel gets
    its own, by a node behind.
    """

    method: str = "auto"
    limits: str = "keep"

    def __post_init__(self) -> None:
        if self.method not in EQUALIZATIONS:
            raise ValueError(f"no equalization is called {self.method!r}: {', '.join(EQUALIZATIONS)}")
        if self.limits not in LIMITS:
            raise ValueError(f"limits can't be {self.limits!r}: {', '.join(LIMITS)}")


@dataclass(frozen=True, slots=True)
class RoundingSettings:
    """``method``: how weights become codes. "leveled" keeps the sum of each channel (see ``level.py``); "gptq" has the least
    error that it finds for second moments of samples (see ``gptq.py``)."""

    method: str = "leveled"

    def __post_init__(self) -> None:
        if self.method not in ROUNDINGS:
            raise ValueError(f"no rounding is called {self.method!r}: {', '.join(ROUNDINGS)}")


@dataclass(frozen=True, slots=True)
class BiasSettings:
    """``method``: how biases take over what rounding shifts. "fast": from the mean of each input channel in the float model
    (see ``correct.py``). "sequential": after that, layer by layer, with everything before a layer quantized (see
    ``sequential.py``)."""

    method: str = "sequential"

    def __post_init__(self) -> None:
        if self.method not in BIAS_METHODS:
            raise ValueError(f"no bias correction is called {self.method!r}: {', '.join(BIAS_METHODS)}")


@dataclass(frozen=True, slots=True)
class Tuning:
    """Everything that decides numbers, beside the model, the rules and the samples.

    ``narrow``: weights give up codes where sums could saturate. False is for measuring what that is worth: the result fails its
    verification."""

    ranges: RangeSettings = field(default_factory=RangeSettings)
    equalize: EqualizeSettings = field(default_factory=EqualizeSettings)
    rounding: RoundingSettings = field(default_factory=RoundingSettings)
    bias: BiasSettings = field(default_factory=BiasSettings)
    narrow: bool = True
