"""Delta debugging: the fewest parts that still show what all of them show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import TypeVar

T = TypeVar("T")


def least(parts: Sequence[T], shows: Callable[[list[T]], bool]) -> list[T]:
    """A part of ``parts``, in order, of which nothing more can be left out one by one; ``shows`` holds for it, if for all.

    The algorithm ddmin of Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input" (2002): chunks alone, then
    all but one chunk, then smaller chunks. At most a number of calls that grows with the square of the parts, mostly with their
    logarithm.
    """
    kept, pieces = list(parts), 2
    while kept:
        chunks = _chunks(kept, min(pieces, len(kept)))
        alone = next((c for c in chunks if len(chunks) > 1 and shows(c)), None)
        if alone is not None:
            kept, pieces = alone, 2
            continue
        rests = (list(chain.from_iterable(chunks[:i] + chunks[i + 1 :])) for i in range(len(chunks)))
        rest = next((r for r in rests if (len(chunks) != 2 or not r) and shows(r)), None)
        if rest is not None:
            kept, pieces = rest, max(len(chunks) - 1, 2)
        elif len(chunks) == len(kept):
            break
        else:
            pieces = 2 * len(chunks)
    return kept


def _chunks(parts: list[T], count: int) -> list[list[T]]:
    """``count`` runs of nearly equal length, none empty."""
    ends = [len(parts) * (i + 1) // count for i in range(count)]
    return [parts[start:end] for start, end in zip([0, *ends], ends, strict=False)]
