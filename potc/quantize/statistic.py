"""What calibration keeps of a tensor: a few numbers of each sample, and a histogram where one is asked for.

Everything merges exactly: extremes are compared, rows are kept sorted, counts are added. So any split of the samples over
processes, and any order, gives the same bits.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from potc.quantize.histogram import Histogram, merge_histograms

MIN, MAX, ABS_MAX = "min", "max", "abs_max"


def _nothing() -> np.ndarray:
    return np.array(math.inf, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Statistic:
    """One tensor over ``samples`` samples; samples in which it had no elements don't count.

    ``low``, ``high``: the extremes of everything, float32, scalar arrays or [C] by channel; inf and -inf without samples.
    ``rows``: one number of each sample (or one by channel), float32, [S] or [S, C], sorted along the first axis, by the name
    of the statistic: ``min``, ``max``, ``abs_max``, ``quantile 0.9999``, ... A row takes 4 bytes a sample, so the three that are
    always kept of a whole tensor take 1.2 MB for 100 tensors and 1,000 samples. ``histogram``: of all values of all samples.
    """

    samples: int = 0
    low: np.ndarray = field(default_factory=_nothing)
    high: np.ndarray = field(default_factory=lambda: -_nothing())
    rows: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    histogram: Histogram | None = None

    @staticmethod
    def of_sample(low: float, high: float) -> Statistic:
        """One sample whose values lie in [low, high], both finite float32. Raises ValueError for anything else."""
        return Statistic.of_samples([low], [high])

    @staticmethod
    def of_samples(
        lows: Sequence[float] | np.ndarray,
        highs: Sequence[float] | np.ndarray,
        more: Mapping[str, np.ndarray] | None = None,
        histogram: Histogram | None = None,
        keep: bool = True,
    ) -> Statistic:
        """``lows``, ``highs``: the extremes of each sample, [S] or [S, C], finite float32. ``more``: further rows. ``keep``:
        whether the extremes of each sample become rows. Raises ValueError for what is no range.
        """
        low = np.asarray(lows, np.float32) + np.float32(0)  # -0.0 would make the order of merging visible
        high = np.asarray(highs, np.float32) + np.float32(0)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise ValueError("not a finite range")
        if not len(low):
            return Statistic()
        rows = {MIN: low, MAX: high, ABS_MAX: np.maximum(-low, high) + np.float32(0)} if keep else {}
        rows |= more or {}
        stored = {name: np.sort(np.asarray(row, np.float32) + np.float32(0), axis=0) for name, row in rows.items()}
        return Statistic(len(low), low.min(axis=0), high.max(axis=0), stored, histogram)

    @property
    def min(self) -> float:
        return float(np.min(self.low, initial=math.inf))

    @property
    def max(self) -> float:
        return float(np.max(self.high, initial=-math.inf))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistic) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]

    def to_json(self) -> dict[str, object]:
        """Plain values; arrays as base64 of little-endian float32 after their shapes."""
        if not self.samples:
            return {"samples": 0}
        told: dict[str, object] = {"samples": self.samples, "min": self.min, "max": self.max}
        if self.low.ndim:
            told |= {"low": encoded(self.low), "high": encoded(self.high)}
        told["rows"] = {name: encoded(self.rows[name]) for name in sorted(self.rows)}
        if self.histogram is not None:
            told["histogram"] = self.histogram.to_json()
        return told

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Statistic:
        """The inverse of ``to_json``. Raises KeyError, TypeError or ValueError for what it did not write."""
        samples = value["samples"]
        if samples == 0:
            return Statistic()
        low = decoded(value["low"]) if "low" in value else np.asarray(value["min"], np.float32)
        high = decoded(value["high"]) if "high" in value else np.asarray(value["max"], np.float32)
        listed, counts = value["rows"], value.get("histogram")
        if not isinstance(samples, int) or samples < 0 or not isinstance(listed, Mapping) or low.shape != high.shape:
            raise ValueError("not a statistic")
        rows = {str(name): decoded(row) for name, row in listed.items()}
        if any(row.shape != (samples, *low.shape) or (np.diff(row, axis=0) < 0).any() for row in rows.values()):
            raise ValueError("not a statistic: a row of another length, or not sorted")
        if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
            raise ValueError("not a statistic: no finite range")
        if counts is not None and not isinstance(counts, Mapping):
            raise ValueError("not a statistic: no histogram")
        return Statistic(samples, low, high, rows, None if counts is None else Histogram.from_json(counts))


def merge(a: Statistic, b: Statistic) -> Statistic:
    """The statistic of the samples of both. Associative and commutative to the bit; ``Statistic()`` is neutral.

    Raises ValueError if both don't hold the same rows.
    """
    if not a.samples or not b.samples:
        return a if a.samples else b
    if a.rows.keys() != b.rows.keys() or a.low.shape != b.low.shape:
        raise ValueError("statistics of different kinds can't be merged")
    rows = {name: np.sort(np.concatenate([a.rows[name], b.rows[name]]), axis=0) for name in a.rows}
    held = [s.histogram for s in (a, b) if s.histogram is not None]
    histogram = merge_histograms(held[0], held[1]) if len(held) == 2 else None
    return Statistic(a.samples + b.samples, np.minimum(a.low, b.low), np.maximum(a.high, b.high), rows, histogram)


def encoded(array: np.ndarray, dtype: str = "<f4") -> str:
    """``4,8:`` and base64: shape and content."""
    return ",".join(map(str, array.shape)) + ":" + base64.b64encode(array.astype(dtype).tobytes()).decode()


def decoded(text: object, dtype: str = "<f4") -> np.ndarray:
    """The inverse of ``encoded``, in native byte order, finite. Raises ValueError for anything else."""
    shape, _, content = str(text).partition(":")
    lengths = tuple(int(n) for n in shape.split(",") if n)
    array = np.frombuffer(base64.b64decode(content, validate=True), dtype).reshape(lengths)
    if not np.isfinite(array).all():
        raise ValueError("not a finite number")
    return array.astype(np.dtype(dtype).newbyteorder("="))
