"""Metrics of classifiers: one output holds a score for each class, on its last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from potc.evaluate.metrics.metric import Metric, Outputs, mean, output_of


def topk(k: int = 1, output: str | None = None) -> Metric:
    """The share of samples whose label, an integer from 0, is among the ``k`` highest scores; equal scores rank by index."""

    def score(outputs: Outputs, label: Any) -> float:
        scores = output_of(outputs, output).reshape(-1)
        best = np.argsort(-scores.astype(np.float64), kind="stable")[:k]
        return float(int(label) in best)

    return Metric(f"top{k}", score, mean)
