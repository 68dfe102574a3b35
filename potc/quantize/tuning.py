"""What is done to lose little, in one place: every section belongs to the pass that reads it. Names are POT's where POT has one."""

from __future__ import annotations

from dataclasses import dataclass, field

PRESETS = ("performance", "mixed", "accuracy")
ESTIMATORS = ("max", "mean")
BIAS_METHODS = ("none", "fast", "sequential")
ROUNDINGS = ("nearest", "leveled")


@dataclass(frozen=True, slots=True)
class RangeSettings:
    """``preset``: which of the allowed types is taken. Of constants the first legal one, with "accuracy" the last. Of
    activations with "performance" the first, else the most expressive: the one with the smallest scale for what was
    measured, and the last of several such.

    ``estimator``: "max" covers every value seen. "mean" averages over samples, as POT's default range estimators do:
    symmetric types take the mean of the largest magnitudes, others the means of minima and of maxima.
    """

    preset: str = "mixed"
    estimator: str = "max"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"no preset is called {self.preset!r}: performance, mixed or accuracy")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"no range estimator is called {self.estimator!r}: max or mean")


@dataclass(frozen=True, slots=True)
class EqualizeSettings:
    """Changes of the float model that leave its results as they were and make it easier to quantize; none by default."""


@dataclass(frozen=True, slots=True)
class RoundingSettings:
    """``method``: how weights become codes. "leveled" keeps the sum of each channel (see ``level.py``)."""

    method: str = "leveled"

    def __post_init__(self) -> None:
        if self.method not in ROUNDINGS:
            raise ValueError(f"no rounding is called {self.method!r}: {', '.join(ROUNDINGS)}")


@dataclass(frozen=True, slots=True)
class BiasSettings:
    """``method``: how biases take over what rounding shifts. "fast": from the mean of each input channel in the float model
    (see ``correct.py``)."""

    method: str = "fast"

    def __post_init__(self) -> None:
        if self.method not in BIAS_METHODS:
            raise ValueError(f"no bias correction is called {self.method!r}: {', '.join(BIAS_METHODS)}")


@dataclass(frozen=True, slots=True)
class Tuning:
    """Everything that decides numbers, beside the model, the rules and the samples."""

    ranges: RangeSettings = field(default_factory=RangeSettings)
    equalize: EqualizeSettings = field(default_factory=EqualizeSettings)
    rounding: RoundingSettings = field(default_factory=RoundingSettings)
    bias: BiasSettings = field(default_factory=BiasSettings)
