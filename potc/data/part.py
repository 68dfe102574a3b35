"""Some of the samples of a data set, by index: to calibrate on one part and judge on another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from potc.data.dataset import Dataset


class Part:
    """A Dataset of the samples at ``indices`` (of ``dataset.feeds()``, counted from 0), in their order there."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self._dataset = dataset
        self._indices = tuple(sorted(indices))

    @property
    def files(self) -> tuple[str, ...]:
        return self._dataset.files

    @property
    def generated(self) -> bool:
        return self._dataset.generated

    @property
    def chosen(self) -> Sequence[int]:
        return [self._dataset.chosen[i] for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        wanted = set(self._indices)
        last = max(wanted, default=-1)
        for index, feed in enumerate(self._dataset.feeds()):
            if index in wanted:
                yield feed
            if index >= last:
                return
