"""Samples that are kept: the same ones as a fresh look at the file gives, and one pass fewer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from potc.data.kept import KeptSamples, some, spread


class Counted:
    files = ("samples.npz",)
    generated = False

    def __init__(self, count: int) -> None:
        self.count, self.passes = count, 0

    def __len__(self) -> int:
        return self.count

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        self.passes += 1
        for index in range(self.count):
            yield {"x": np.array([index])}


@pytest.mark.parametrize(("total", "count"), [(1, 8), (8, 8), (9, 8), (100, 8), (100, 1)])
def test_from_memory_or_from_the_file_it_is_the_same(total: int, count: int) -> None:
    fresh = [(i, int(feed["x"][0])) for i, feed in some(Counted(total), count)]
    assert fresh == [(i, i) for i in sorted(spread(total, count))]
    assert len(fresh) == min(total, count)
    kept = KeptSamples(Counted(total), count)
    assert [int(feed["x"][0]) for feed in kept.feeds()] == list(range(total))
    assert [(i, int(feed["x"][0])) for i, feed in some(kept, count)] == fresh


def test_what_was_kept_is_not_read_again() -> None:
    source = Counted(20)
    kept = KeptSamples(source, 4)
    assert [i for i, _ in some(kept, 4)] == [0, 5, 10, 15]  # nothing kept yet: read, but only as far as needed
    assert (kept.files, kept.generated, len(kept)) == (source.files, source.generated, 20)
    list(kept.feeds())
    assert source.passes == 2
    list(some(kept, 4))
    assert source.passes == 2
    assert [i for i, _ in some(kept, 2)] == [0, 10]  # these are among the four
    assert source.passes == 2
    assert [i for i, _ in some(kept, 3)] == [0, 6, 13]
    assert source.passes == 3


def test_as_many_more_are_kept_as_fit() -> None:
    source = Counted(20)
    kept = KeptSamples(source, 4, lambda first: 3 if first["x"][0] == 0 else 20)
    list(kept.feeds())
    assert [[i for i, _ in some(kept, count)] for count in (3, 4)] == [[0, 6, 13], [0, 5, 10, 15]]
    assert source.passes == 1
    list(some(kept, 5))
    assert source.passes == 2


def test_a_pass_that_was_broken_off_keeps_nothing() -> None:
    kept = KeptSamples(Counted(20), 4)
    next(kept.feeds())
    assert [i for i, _ in some(kept, 4)] == [0, 5, 10, 15]
