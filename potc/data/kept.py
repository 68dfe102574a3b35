"""A few samples that are kept from the first pass, so that who looks at only a few needs not read the whole file again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from potc.data.dataset import Dataset

Sample = tuple[int, Mapping[str, np.ndarray]]  # its index, counted from 0, and the feed


class KeptSamples:
    """A Dataset that remembers ``count`` of its samples, spread evenly, once it was read to its end."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        self._dataset = dataset
        self._count = count
        self._kept: tuple[Sample, ...] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        return self._dataset.files

    @property
    def generated(self) -> bool:
        return self._dataset.generated

    @property
    def chosen(self) -> Sequence[int]:
        return self._dataset.chosen

    def __len__(self) -> int:
        return len(self._dataset)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        wanted = spread(len(self), self._count)
        kept: list[Sample] = []
        for index, feed in enumerate(self._dataset.feeds()):
            if index in wanted:
                kept.append((index, feed))
            yield feed
        self._kept = tuple(kept)

    def some(self, count: int) -> Iterator[Sample]:
        """``count`` samples, spread evenly; from memory where these are the kept ones."""
        if self._kept is not None and count == self._count:
            yield from self._kept
        else:
            yield from some(self._dataset, count)


def some(dataset: Dataset, count: int) -> Iterator[Sample]:
    """Up to ``count`` samples of a data set, spread evenly, with their indices."""
    if isinstance(dataset, KeptSamples):
        yield from dataset.some(count)
        return
    wanted = spread(len(dataset), count)
    last = max(wanted, default=-1)
    for index, feed in enumerate(dataset.feeds()):
        if index in wanted:
            yield index, feed
        if index >= last:
            return


def spread(total: int, count: int) -> frozenset[int]:
    """``count`` of the indices below ``total``, spread evenly from 0 on; all of them if there are not that many."""
    return frozenset(i * total // count for i in range(count)) if total > count else frozenset(range(total))
