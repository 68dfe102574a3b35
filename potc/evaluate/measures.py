"""How far two results are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Sqnr:
    """Signal to quantization noise ratio over any number of arrays: 10 log10(sum reference^2 / sum (reference -
    other)^2).
    """

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: np.ndarray, other: np.ndarray) -> None:
        """Adds one pair of arrays of equal shape, of any real dtype; sums are float64.

        Where the reference is infinite or NaN (a masked logit, say) the other must be the same: then the element does
        not count, else the noise is infinite. Raises ValueError for different shapes.
        """
        if reference.shape != other.shape:
            raise ValueError(f"shapes differ: {list(reference.shape)} and {list(other.shape)}")
        a, b = reference.astype(np.float64), other.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            signal, noise = float(np.square(a).sum()), float(np.square(a - b).sum())
        if math.isfinite(signal) and math.isfinite(noise):  # then so is every element
            self.signal += signal
            self.noise += noise
            return
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        finite = np.isfinite(a) & np.isfinite(b)
        if not (same | finite).all():
            self.noise = math.inf
        self.signal += float(np.square(a[finite]).sum())
        self.noise += float(np.square(a[finite] - b[finite]).sum())

    @property
    def db(self) -> float:
        """In decibels. inf if nothing differs; -inf if the reference is zero throughout, or the noise infinite."""
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or math.isinf(self.noise):
            return -math.inf
        return 10 * (math.log10(self.signal) - math.log10(self.noise))


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """``Sqnr`` of one pair of arrays, in decibels."""
    ratio = Sqnr()
    ratio.add(reference, other)
    return ratio.db
