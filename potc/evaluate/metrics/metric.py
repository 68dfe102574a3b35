"""Metric: what one sample's answer is worth, and what the worth of many is.

A metric is two pure functions. ``score`` looks at one sample and returns a record; ``reduce`` makes one number of records, in
their order. A number for each sample is a record, whose mean is the value; a metric of a whole set (average precision, say)
keeps in each record what it needs later. So records of parts can be put together, and any subset has a value:
``metric.reduce(records[:10])``; the worth of one sample is ``metric.reduce([record])``.

    Metric("right", lambda outputs, label: float(first(outputs).argmax() == label), mean)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Outputs = Mapping[str, np.ndarray]  # by name, in the order of the graph, batch axis included
Record = Any


@dataclass(frozen=True, slots=True)
class Metric:
    """``score``: outputs and annotation of one sample to its record. ``reduce``: records to the value.

    ``reference``: the annotation that ``score`` wants is what the float model answers, as ``Outputs`` (see
    ``potc.evaluate.evaluation.labelled_by``); no labels are needed then. ``words``: the name with all settings, where it has any;
    ``files``: those that it was made from. ``scored_alone``: records are numbers and the value is their mean.
    """

    name: str
    score: Callable[[Outputs, Any], Record]
    reduce: Callable[[Sequence[Record]], float]
    higher_is_better: bool = True
    reference: bool = False
    words: str = ""
    files: tuple[str, ...] = ()

    @property
    def scored_alone(self) -> bool:
        return self.reduce is mean


def mean(records: Sequence[Record]) -> float:
    """The mean of numbers; NaN if there are none."""
    return float(np.mean(np.asarray(records, np.float64))) if len(records) else float("nan")


def output_of(outputs: Outputs, name: str | None) -> np.ndarray:
    """The output of this name, the first one for None. Raises KeyError, with the names that there are."""
    if name is None:
        return next(iter(outputs.values()))
    if name not in outputs:
        raise KeyError(f"no output `{name}`; the model has {', '.join(outputs)}")
    return outputs[name]
