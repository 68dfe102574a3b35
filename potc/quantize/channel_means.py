"""Means of channels, over all positions of all samples: the same whatever the order of samples, and how they are divided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


class GridSums:
    """Sums of ``count`` numbers, split onto two fixed grids, 2**-20 and 2**-60, and added as 64-bit integers, int64 [count]: what a
    number adds does not depend on the others, so sums are the same in any order. Magnitudes above 2**42 count as 2**42."""

    def __init__(self, count: int) -> None:
        self.coarse, self.fine = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._rest, self._part = np.empty(0), np.empty(0)

    def add(self, numbers: np.ndarray) -> None:
        """``numbers``: finite, float32 or float64 [count]. In either type all is exact but the rounding to the finer grid."""
        if self._rest.dtype != numbers.dtype or self._rest.shape != numbers.shape:
            self._rest, self._part = np.empty_like(numbers), np.empty_like(numbers)
        rest, part = self._rest, self._part
        np.clip(numbers, -(2.0**42), 2.0**42, out=rest)
        np.rint(np.multiply(rest, 2.0**20, out=part), out=part)
        self.coarse += part.astype(np.int64)
        np.subtract(rest, np.multiply(part, 2.0**-20, out=part), out=rest)
        np.rint(np.multiply(rest, 2.0**60, out=rest), out=rest)
        self.fine += rest.astype(np.int64)


class MeanSums:
    """The ``ChannelMean`` of each of ``count`` tensors, in one row of sums."""

    def __init__(self, count: int) -> None:
        self._shapes: list[tuple[int, ...]] = []
        self._bounds = np.zeros(count + 1, np.int64)
        self._samples = np.zeros(count, np.int64)
        self._sums = GridSums(0)

    def add(self, means: Sequence[np.ndarray]) -> None:
        """One sample: of each tensor its means, float32 [C] or [C, taps...]. Means that are not finite do not count: there were no
        positions."""
        if not means:
            return
        if not self._shapes:
            self._shapes = [m.shape if m.ndim < 2 else (len(m), -1) for m in means]
            self._bounds[1:] = np.cumsum([m.size for m in means])
            self._sums = GridSums(int(self._bounds[-1]))
        numbers = np.concatenate([m.ravel() for m in means])
        counted = np.ones(len(means), np.bool_)
        if not np.isfinite(numbers).all():
            for index, own in enumerate(self._parts(numbers)):
                if not np.isfinite(own).all():
                    counted[index], own[:] = False, 0
        self._samples += counted
        self._sums.add(numbers)

    def means(self) -> list[ChannelMean]:
        """Of each tensor."""
        if not self._shapes:
            return [ChannelMean()] * len(self._samples)
        coarse, fine = self._parts(self._sums.coarse), self._parts(self._sums.fine)
        rows = zip(self._samples.tolist(), self._shapes, coarse, fine, strict=True)
        return [ChannelMean(n, a.reshape(s), b.reshape(s)) if n else ChannelMean() for n, s, a, b in rows]

    def _parts(self, row: np.ndarray) -> list[np.ndarray]:
        return np.split(row, self._bounds[1:-1])


@dataclass(frozen=True, slots=True)
class ChannelMean:
    """The mean of each channel of one tensor, over all positions of all samples; merged exactly.

    Each sample's means ([C], or [C, taps] of what each tap of a kernel meets) are added as ``GridSums`` does, 16 bytes a mean.
    Without samples the sums are None.
    """

    samples: int = 0
    coarse: np.ndarray | None = None
    fine: np.ndarray | None = None

    @staticmethod
    def of_sample(means: np.ndarray) -> ChannelMean:
        """One sample. ``means``: finite numbers, [C] or [C, taps]."""
        sums = GridSums(means.size)
        sums.add(means.ravel())
        return ChannelMean(1, sums.coarse.reshape(means.shape), sums.fine.reshape(means.shape))

    @property
    def mean(self) -> np.ndarray | None:
        """Float64, [C] or [C, taps]; None without samples."""
        if self.coarse is None or self.fine is None:
            return None
        return (self.coarse * 2.0**-20 + self.fine * 2.0**-60) / self.samples


def merge_means(a: ChannelMean, b: ChannelMean) -> ChannelMean:
    """The means of the samples of both. Associative and commutative to the bit; ``ChannelMean()`` is neutral."""
    if a.coarse is None or a.fine is None:
        return b
    if b.coarse is None or b.fine is None:
        return a
    return ChannelMean(a.samples + b.samples, a.coarse + b.coarse, a.fine + b.fine)
