"""How often a tensor held which values: counts on a power-of-two grid that merge exactly.

Bin i counts the values x with i * 2**exponent <= x < (i + 1) * 2**exponent. A grid that becomes too small is replaced by the
next one with bins twice as wide: floor(x / 2w) = floor(floor(x / w) / 2), so neighbours are added in pairs, and the counts
are those of a grid that was as wide from the start. What results depends on the values alone, not on their order.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BINS = 4096  # on each side of 0: an 8-bit code is at least 16 bins wide before anything is clipped
FINEST = -300  # smallest exponent: far below every float32
CHUNK = 1 << 17  # elements that are binned at a time, so that temporary arrays stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """``counts``: int64, [2 * BINS], bin i at index i + BINS. Zeros are counted in ``zeros`` alone: a code represents them
    exactly. Without other values ``exponent`` is ``FINEST``.
    """

    exponent: int
    counts: np.ndarray
    zeros: int = 0

    @staticmethod
    def empty() -> Histogram:
        return Histogram(FINEST, np.zeros(2 * BINS, np.int64))

    @staticmethod
    def of_values(values: np.ndarray) -> Histogram:
        """All elements of a float array. Raises ValueError for NaN and infinity."""
        flat = values.reshape(-1)
        largest = float(np.max(np.abs(flat), initial=0.0))
        if not math.isfinite(largest):
            raise ValueError("a histogram holds finite values only")
        exponent = exponent_for(largest)
        scale = math.ldexp(1.0, -exponent)  # float64 holds every product with a float32 exactly
        counts = np.zeros(2 * BINS, np.int64)
        zeros = 0
        for start in range(0, flat.size, CHUNK):
            chunk = flat[start : start + CHUNK]
            chunk = chunk[chunk != 0]
            zeros += min(CHUNK, flat.size - start) - chunk.size
            places = np.floor(chunk.astype(np.float64) * scale).astype(np.int64)
            counts += np.bincount(places + BINS, minlength=2 * BINS)
        return Histogram(exponent, counts, zeros)

    @property
    def total(self) -> int:
        """Number of values, zeros included."""
        return int(self.counts.sum()) + self.zeros

    def edges(self) -> np.ndarray:
        """Float64, [2 * BINS + 1]: where bins begin, and where the last one ends."""
        return np.ldexp(np.arange(-BINS, BINS + 1, dtype=np.float64), self.exponent)

    def held(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres (float64) and counts (int64) of the bins that hold anything, ascending, without zeros."""
        filled = np.flatnonzero(self.counts)
        return np.ldexp(filled - BINS + 0.5, self.exponent), self.counts[filled]

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of all values lie, rounded away from 0 to an edge of its bin; 0.0 without
        values.
        """
        negative, positive = int(self.counts[:BINS].sum()), int(self.counts[BINS:].sum())
        rank = share * (negative + positive + self.zeros)
        if not positive + self.zeros:  # the ends of the list are values too
            rank = min(rank, negative - 0.5)
        if not negative + self.zeros:
            rank = max(rank, 0.5)
        if rank < negative:
            place = int(np.searchsorted(np.cumsum(self.counts), rank, side="right"))
            return math.ldexp(place - BINS, self.exponent)
        if rank <= negative + self.zeros or not positive:
            return 0.0
        above = np.cumsum(self.counts[BINS:]) + negative + self.zeros
        place = int(np.searchsorted(above, rank, side="left"))
        return math.ldexp(min(place, BINS - 1) + 1, self.exponent)

    def outside(self, low: float, high: float) -> float:
        """Share of the values in bins whose centres lie outside [low, high]; 0.0 without values."""
        centres, counts = self.held()
        return float(counts[(centres < low) | (centres > high)].sum()) / max(self.total, 1)

    def to_json(self) -> dict[str, object]:
        """Counts as base64 of compressed little-endian 64-bit integers."""
        stored = base64.b64encode(zlib.compress(self.counts.astype("<i8").tobytes(), 6)).decode()
        return {"exponent": self.exponent, "zeros": self.zeros, "counts": stored}

    @staticmethod
    def from_json(value: Mapping[str, object]) -> Histogram:
        """The inverse of ``to_json``. Raises KeyError or ValueError for what it did not write."""
        exponent, zeros = value["exponent"], value["zeros"]
        if not (isinstance(exponent, int) and isinstance(zeros, int) and FINEST <= exponent <= 128 and zeros >= 0):
            raise ValueError("not a histogram")
        size = 2 * BINS * 8
        try:
            stream = zlib.decompressobj()
            data = stream.decompress(base64.b64decode(str(value["counts"]), validate=True), size + 1)
        except zlib.error as error:
            raise ValueError(f"not a histogram: {error}") from error
        if len(data) != size:
            raise ValueError("not a histogram: another number of bins")
        counts = np.frombuffer(data, "<i8").astype(np.int64)
        if counts.min() < 0:
            raise ValueError("not a histogram: a negative count")
        return Histogram(exponent, counts, zeros)


def exponent_for(largest: float) -> int:
    """The exponent of the finest grid that holds everything up to ``largest`` in magnitude."""
    if largest == 0:
        return FINEST
    _, exponent = math.frexp(largest)  # largest < 2**exponent, so 2**exponent is never reached on the upper side
    return max(FINEST, exponent - (BINS.bit_length() - 1))


def merge_histograms(a: Histogram, b: Histogram) -> Histogram:
    """The histogram of the values of both. Associative and commutative to the last count; ``Histogram.empty()`` is neutral."""
    exponent = max(a.exponent, b.exponent)
    return Histogram(exponent, _widened(a, exponent) + _widened(b, exponent), a.zeros + b.zeros)


def _widened(histogram: Histogram, exponent: int) -> np.ndarray:
    """Counts on a grid whose bins are 2**(exponent - histogram.exponent) times as wide."""
    steps = exponent - histogram.exponent
    if steps == 0:
        return histogram.counts
    filled = np.flatnonzero(histogram.counts)
    places = (filled - BINS) >> min(steps, 62)  # rounds down, for negative places too
    wide = np.zeros(2 * BINS, np.int64)
    np.add.at(wide, places + BINS, histogram.counts[filled])
    return wide
