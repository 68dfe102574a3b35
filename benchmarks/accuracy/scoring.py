"""Metrics of a model on labelled data: with 95 % intervals, and in pairs with the float model.

A data folder's ``eval.py`` has METRIC and ``evaluate(run, limit)``, and beside it ``_eval.py`` with ``Run``, ``roc_auc``,
``box_ap``. Its metric is the figure that is told. Intervals come from resampling the samples (paired: the same resamples
for both models), which needs the labels: ``y`` of test.npz, eval.npz or eval_audio.npz, or the folder of each picture. They
are used only if they give the same value as ``evaluate``.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from elsewhere import Elsewhere

RESAMPLES = 500
SEED = 1

Statistic = Callable[[np.ndarray], float]  # the metric of the samples at these indices


@dataclass(frozen=True, slots=True)
class Scored:
    """One model on one data set. ``names``: of its outputs; ``outputs``: their values over all samples. ``labels``: its answer
    for each sample (class, or side of 0.5), where it has one; ``right``: whether that is the true one, for classifiers;
    ``statistic``: None where labels were not found."""

    metric: str
    value: float
    n: int
    more: dict[str, float]
    names: list[str]
    outputs: list[np.ndarray]
    labels: np.ndarray | None
    right: np.ndarray | None
    statistic: Statistic | None


@dataclass(frozen=True, slots=True)
class Compared:
    """A model beside the float model. ``interval``: of its metric; ``difference``: metric minus float's, with interval;
    ``agreement``: share of equal answers; ``mcnemar``: exact two-sided p that it is right as often as float;
    ``lost`` and ``won``: samples that only float, or only this model, gets right."""

    value: float
    interval: tuple[float, float] | None
    difference: float
    difference_interval: tuple[float, float] | None
    agreement: float | None
    mcnemar: float | None
    lost: int | None
    won: int | None
    sqnr_db: float | None
    more: dict[str, float]


def load(script: Path) -> ModuleType:
    """An eval.py as a module."""
    spec = importlib.util.spec_from_file_location(f"eval_{script.parent.name}", script)
    if spec is None or spec.loader is None:
        raise ImportError(str(script))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def score(
    module: ModuleType,
    model: str,
    optimize: str,
    threads: int,
    limit: int | None,
    outputs: list[str] | None = None,
    server: Sequence[str] = (),
) -> Scored:
    """Runs a model over the evaluation samples. ``optimize``: "all" or "off". ``outputs``: those of the float model; some
    tools leave others behind, of which the results of one model would fill the memory. ``server``: the command that runs it
    elsewhere."""

    class Recorder(module.E.Run):
        def __init__(self, path: str, threads: int, optimize: str) -> None:
            if not server:
                super().__init__(path, threads, optimize)
                return
            self.loaded = Elsewhere(list(server), path, threads, optimize)
            self.names = [name for name, _ in self.loaded.about["inputs"]]
            self.shapes = [shape for _, shape in self.loaded.about["inputs"]]
            self.outputs = outputs or [names[0] for names in self.loaded.about["outputs"]]

        def __call__(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            returned = self.loaded.run(outputs, {k: v for k, v in feed.items() if k in self.names})
            calls.append(returned)
            return returned

    calls: list[list[np.ndarray]] = []
    run = Recorder(model, threads, optimize)
    found = dict(module.evaluate(run, limit))
    if server:
        run.loaded.close()
    value, n = float(found.pop("value")), int(found.pop("n"))
    joined = [np.concatenate([np.atleast_1d(call[i]) for call in calls]) for i in range(len(calls[0]))]
    labels, right, statistic = _samplewise(module, run, calls, joined[0], n, limit)
    if statistic is not None and not math.isclose(statistic(np.arange(n)), value, abs_tol=1e-6):
        right, statistic = None, None
    more = {name: float(v) for name, v in found.items()}
    return Scored(module.METRIC, value, n, more, run.outputs, joined, labels, right, statistic)


def _samplewise(
    module: ModuleType, run: Any, calls: Sequence[list[np.ndarray]], first: np.ndarray, n: int, limit: int | None
) -> tuple[np.ndarray | None, np.ndarray | None, Statistic | None]:
    """Answers, which are right, and the metric of any selection of samples."""
    if module.METRIC == "top1":
        labels = first[:n].reshape(n, -1).argmax(1)
        truth = _truth(module, n, first.shape[-1], limit)
        if truth is None:
            return labels, None, None
        right = labels == truth
        return labels, right, lambda index: float(right[index].mean())
    if module.METRIC == "auc":
        scores = np.concatenate([np.asarray(call[0]).ravel() for call in calls])[:n]
        truth = _truth(module, n, 2, limit)
        labels = (scores > 0.5).astype(int)
        return labels, None, None if truth is None else lambda index: module.E.roc_auc(truth[index], scores[index])
    if module.METRIC == "miou":
        labels = first[:n].argmax(1)
        truth = _truth(module, n, first.shape[1], limit)
        return labels, None, None if truth is None else _mean_iou(truth, labels, first.shape[1])
    if hasattr(module, "decode"):
        return None, None, _average_precision(module, run, calls, limit)
    return None, None, None


def _truth(module: ModuleType, n: int, classes: int, limit: int | None) -> np.ndarray | None:
    """True answers in the order of evaluation; None if none were found or their number is another."""
    folder = Path(module.D)
    for name in ("test.npz", "eval.npz", "eval_audio.npz"):
        if (folder / name).is_file():
            with np.load(folder / name) as file:
                truth = file["y"]
            truth = truth.ravel() if module.METRIC != "miou" else truth
            return truth[:n].astype(int) if limit is None and len(truth) == n else None
    pictures = sorted(folder.glob("val/*/*.jpg")) or sorted(folder.glob("eval/*/*.jpg"))
    if limit is not None or len(pictures) != n:
        return None
    words = [int(p.parent.name) for p in pictures]
    kinds = sorted(set(words))
    return np.array(words if kinds[-1] < classes else [kinds.index(w) for w in words])


def _mean_iou(truth: np.ndarray, labels: np.ndarray, classes: int) -> Statistic:
    pairs = (truth.reshape(len(truth), -1) * classes + labels.reshape(len(truth), -1)).astype(np.int64)
    tables = np.stack([np.bincount(row, minlength=classes**2) for row in pairs])

    def statistic(index: np.ndarray) -> float:
        table = tables[index].sum(0).reshape(classes, classes)
        diagonal = table.diagonal()
        return float((diagonal / (table.sum(0) + table.sum(1) - diagonal).clip(1)).mean())

    return statistic


def _average_precision(module: ModuleType, run: Any, calls: Sequence[list[np.ndarray]], limit: int | None) -> Statistic:
    folder = Path(module.D)
    found = [module.decode(call, run.shapes[0][1]) for call in calls]
    boxes = json.loads((folder / "boxes.json").read_text())
    truth = [np.array(boxes[p.name], float).reshape(-1, 4) for p in sorted(folder.glob("eval/*.jpg"))[:limit]]
    return lambda index: module.E.box_ap([found[i] for i in index], [truth[i] for i in index], 0.4)


# ---------------------------------------------------------------------------------------------- in pairs


def compare(reference: Scored, other: Scored) -> Compared:
    """``other`` beside the float model, on the same samples."""
    intervals = _intervals(reference, other)
    agreement = None
    if reference.labels is not None and other.labels is not None:
        agreement = float((reference.labels == other.labels).mean())
    lost = won = p = None
    if reference.right is not None and other.right is not None:
        lost, won = int((reference.right & ~other.right).sum()), int((~reference.right & other.right).sum())
        p = mcnemar(lost, won)
    return Compared(
        other.value,
        intervals[0] if intervals else None,
        other.value - reference.value,
        intervals[1] if intervals else None,
        agreement,
        p,
        lost,
        won,
        sqnr_db(reference.outputs, other.outputs),
        other.more,
    )


def _intervals(reference: Scored, other: Scored) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """95 % percentile intervals of the metric and of its difference from the float model's."""
    if reference.statistic is None or other.statistic is None:
        return None
    draw = np.random.default_rng(SEED)
    values: list[tuple[float, float]] = []
    for _ in range(RESAMPLES):
        index = draw.integers(0, reference.n, reference.n)
        value = other.statistic(index)
        values.append((value, value - reference.statistic(index)))
    low, high = np.percentile(np.array(values), [2.5, 97.5], axis=0)
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p: how likely is a split of the differing samples at least as uneven, if both are equally good?"""
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**total)


def sqnr_db(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float | None:
    """Signal to quantization noise of the worst float output over all samples; None if there is no float output."""
    ratios: list[float] = []
    for a, b in zip(reference, other, strict=True):
        if a.dtype.kind == "f":
            noise = np.square(a.astype(np.float64) - b).sum()
            ratios.append(float(10 * np.log10(np.square(a.astype(np.float64)).sum() / noise)) if noise else math.inf)
    return min(ratios, default=None)
