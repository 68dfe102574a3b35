"""Metrics of numbers: how far an output is from the annotation, or from what the float model answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from potc.evaluate.measures import Sqnr
from potc.evaluate.metrics.metric import Metric, Outputs, Record, mean, output_of


def rmse(output: str | None = None, reference: bool = False) -> Metric:
    """Root of the mean squared difference over all elements of all samples. ``reference``: from the float model's output."""

    def score(outputs: Outputs, annotation: Any) -> Record:
        found = output_of(outputs, output).astype(np.float64)
        wanted = output_of(annotation, output) if reference else annotation
        difference = found.reshape(-1) - np.asarray(wanted, np.float64).reshape(-1)
        return float(np.square(difference).sum()), difference.size

    def reduce(records: Sequence[Record]) -> float:
        return math.sqrt(math.fsum(r[0] for r in records) / sum(r[1] for r in records))

    return Metric("rmse", score, reduce, higher_is_better=False, reference=reference)


def cosine(output: str | None = None, reference: bool = True) -> Metric:
    """Mean over samples of the cosine of the angle between output and float model's output, as vectors; 1 for two that are
    zero. ``reference`` False: between output and annotation."""

    def score(outputs: Outputs, annotation: Any) -> float:
        a = output_of(outputs, output).astype(np.float64).reshape(-1)
        b = np.asarray(output_of(annotation, output) if reference else annotation, np.float64).reshape(-1)
        lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
        return float(a @ b) / lengths if lengths else float(not (a.any() or b.any()))

    return Metric("cosine", score, mean, reference=reference)


def sqnr(output: str | None = None) -> Metric:
    """Signal to quantization noise ratio in dB against the float model: over all elements of one output, or of all float outputs;
    at most 300, which stands for equal outputs."""

    def score(outputs: Outputs, annotation: Mapping[str, np.ndarray]) -> Record:
        ratio = Sqnr()
        for name in outputs if output is None else (output,):
            wanted = output_of(annotation, name)
            if wanted.dtype.kind == "f":
                ratio.add(wanted, output_of(outputs, name))
        return ratio.signal, ratio.noise

    def reduce(records: Sequence[Record]) -> float:
        total = Sqnr(math.fsum(r[0] for r in records), math.fsum(r[1] for r in records))
        return min(max(total.db, -300.0), 300.0)

    return Metric("sqnr", score, reduce, reference=True)


def agreement(output: str | None = None) -> Metric:
    """The share of samples for which the highest score of the last axis is where the float model has it, in every row."""

    def score(outputs: Outputs, annotation: Mapping[str, np.ndarray]) -> float:
        return float((output_of(outputs, output).argmax(-1) == output_of(annotation, output).argmax(-1)).all())

    return Metric("agreement", score, mean, reference=True)
