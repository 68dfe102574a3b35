"""Metrics of classifiers: the last axis of an output holds a score for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from potc.evaluate.metrics.metric import Metric, Outputs, Record, mean, output_of

AVERAGES = ("binary", "macro", "micro")


def topk(k: int = 1, output: str | None = None) -> Metric:
    """The share of samples whose label, an integer from 0, is among the ``k`` highest scores; equal scores rank by index."""
    if k < 1:
        raise ValueError(f"k is {k}, wanted 1 or more")

    def score(outputs: Outputs, label: Any) -> float:
        scores = output_of(outputs, output).reshape(-1)
        best = np.argsort(-scores.astype(np.float64), kind="stable")[:k]
        return float(int(np.asarray(label).item()) in best)

    return Metric(f"top{k}", score, mean)


def f1(average: str = "macro", threshold: float = 0.5, output: str | None = None) -> Metric:
    """F1 = 2 TP / (2 TP + FP + FN), as scikit-learn's ``f1_score`` with ``zero_division=0``.

    A sample may hold many labels (frames, tokens): one for each row of scores. A row of one score is class 1 above
    ``threshold``, else class 0. ``binary``: of class 1; ``macro``: mean over the classes that occur; ``micro``: over all counts.
    """
    if average not in AVERAGES:
        raise ValueError(f"average is {average!r}, wanted one of {', '.join(AVERAGES)}")

    def score(outputs: Outputs, label: Any) -> Record:
        labels = np.asarray(label).reshape(-1).astype(np.int64)
        rows = _rows(output_of(outputs, output), len(labels))
        found = (rows[:, 0] > threshold).astype(np.int64) if rows.shape[1] == 1 else rows.argmax(1)
        return found, labels

    def reduce(records: Sequence[Record]) -> float:
        found, labels = (np.concatenate([r[i] for r in records]) for i in (0, 1))
        classes = np.array([1]) if average == "binary" else np.union1d(found, labels)
        right = np.array([((found == c) & (labels == c)).sum() for c in classes], np.float64)
        named = np.array([(found == c).sum() + (labels == c).sum() for c in classes], np.float64)
        if average == "micro":
            return float(2 * right.sum() / named.sum())
        return float(np.divide(2 * right, named, out=np.zeros_like(right), where=named > 0).mean())

    return Metric("f1", score, reduce)


def auc(output: str | None = None) -> Metric:
    """Area under the ROC curve of labels 0 and 1: the chance that a positive scores higher than a negative, ties count half.

    A sample may hold many labels, one for each row of scores. A row is one score, or two, of which the difference counts.
    Raises ValueError, when records are reduced, unless both labels occur.
    """

    def score(outputs: Outputs, label: Any) -> Record:
        labels = np.asarray(label).reshape(-1)
        rows = _rows(output_of(outputs, output), len(labels)).astype(np.float64)
        if rows.shape[1] > 2:
            raise ValueError(f"{rows.shape[1]} scores a row, wanted 1 or 2")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("labels are not 0 and 1")
        return rows[:, -1] - (rows[:, 0] if rows.shape[1] == 2 else 0), labels.astype(bool)

    def reduce(records: Sequence[Record]) -> float:
        scores, labels = (np.concatenate([r[i] for r in records]) for i in (0, 1))
        return roc_auc(labels, scores)

    return Metric("auc", score, reduce)


def roc_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Of boolean labels [n] and scores [n], by the rank sum of Mann and Whitney (1947). Raises ValueError for one class only."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not (positives and negatives):
        raise ValueError("labels are all the same")
    if not np.isfinite(scores).all():
        raise ValueError("scores are not finite")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place.ravel()]
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _rows(scores: np.ndarray, count: int) -> np.ndarray:
    """Scores as ``count`` rows. Raises ValueError where they are not that many."""
    if not count or scores.size % count or not scores.size:
        raise ValueError(f"an output of shape {list(scores.shape)} has no rows for {count} labels")
    return scores.reshape(count, -1)
