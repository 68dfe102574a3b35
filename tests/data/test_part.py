"""Parts of a data set: their samples, in order, and nothing read behind the last one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from potc.data.part import Part


class Counted:
    files = ("samples.npz",)
    generated = False

    def __init__(self) -> None:
        self.read = 0

    @property
    def chosen(self) -> Sequence[int]:
        return [10 * i for i in range(8)]

    def __len__(self) -> int:
        return 8

    def feeds(self) -> Iterator[dict[str, np.ndarray]]:
        for index in range(8):
            self.read += 1
            yield {"x": np.array([index])}


def test_a_part_has_its_samples_in_order() -> None:
    source = Counted()
    part = Part(source, [4, 1, 2])
    assert [int(feed["x"][0]) for feed in part.feeds()] == [1, 2, 4]
    assert source.read == 5
    assert len(part) == 3
    assert list(part.chosen) == [10, 20, 40]
    assert (part.files, part.generated) == (("samples.npz",), False)


def test_two_parts_make_a_whole() -> None:
    source = Counted()
    both = [feed for part in (Part(source, [0, 3, 6]), Part(source, [1, 2, 4, 5, 7])) for feed in part.feeds()]
    assert sorted(int(feed["x"][0]) for feed in both) == list(range(8))
