"""A few samples that are kept from the first pass, so that who looks at only a few needs not read the whole file again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from potc.data.dataset import Dataset

Sample = tuple[int, Mapping[str, np.ndarray]]  # its index, counted from 0, and the feed


class KeptSamples:
    """A Dataset that remembers some of its samples, spread evenly, once it was read to its end: ``count`` of them, and as many more
    as ``fitting`` says of the first one."""

    def __init__(
        self, dataset: Dataset, count: int, fitting: Callable[[Mapping[str, np.ndarray]], int] | None = None
    ) -> None:
        self._dataset = dataset
        self._count = count
        self._fitting = fitting
        self._kept: dict[int, Mapping[str, np.ndarray]] = {}

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
        kept: dict[int, Mapping[str, np.ndarray]] = {}
        for index, feed in enumerate(self._dataset.feeds()):
            if index == 0 and self._fitting is not None:
                wanted |= spread(len(self), self._fitting(feed))
            if index in wanted:
                kept[index] = feed
            yield feed
        self._kept = kept

    def some(self, count: int) -> Iterator[Sample]:
        """``count`` samples, spread evenly; from memory where they were kept."""
        wanted = spread(len(self), count)
        if wanted <= self._kept.keys():
            yield from ((index, self._kept[index]) for index in sorted(wanted))
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
