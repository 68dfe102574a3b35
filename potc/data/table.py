"""Rows of numbers from a CSV file, one sample each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potc.data.fitted import Stored
from potc.data.picture_lists import number, read_csv
from potc.diagnostics.diagnostic import reject


@dataclass(frozen=True, slots=True)
class Rows:
    """A Source. ``values``: float64 or int64 [rows, columns], the label's column left out."""

    values: np.ndarray
    labels: Sequence[Any] | None
    path: str
    pictures: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def item(self, index: int) -> Stored:
        known = None if self.labels is None else self.labels[index]
        return Stored({"": self.values[index]}, known, f"{self.path}, line {index + 2}")

    def files(self, chosen: Sequence[int]) -> tuple[str, ...]:
        return (self.path,)


def read_rows(path: str, label: str | None, integers: bool) -> Rows:
    """The first line names the columns; ``label``, or else a column called "label", is the annotation. ``integers``: the model
    takes such; else all numbers are floats. Raises Rejected."""
    header, rows = read_csv(path)
    if label is not None and label not in header:
        raise reject("invalid-data", f"{path} has no column `{label}`; it has {', '.join(header)}")
    place = header.index(label or "label") if (label or "label") in header else None
    labels = None if place is None else [number(row[place]) for row in rows]
    cells = [[number(cell) for i, cell in enumerate(row) if i != place] for row in rows]
    for line, row in enumerate(cells, 2):
        for cell in row:
            if isinstance(cell, str):
                raise reject("invalid-data", f"{path}, line {line}: {cell!r} is no number")
    whole = integers and all(isinstance(cell, int) for row in cells for cell in row)
    return Rows(np.array(cells, np.int64 if whole else np.float64), labels, path)
