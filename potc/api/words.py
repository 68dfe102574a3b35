"""What may be said in several ways: file names, lists of one, features, recipes, metrics."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from potc.data.preprocessing import Preprocessing, read_preprocessing, recipe_of
from potc.evaluate.metrics.foreign import as_metric
from potc.evaluate.metrics.metric import Metric
from potc.evaluate.metrics.named import metric_named

Path_ = str | os.PathLike[str]
Names = str | Sequence[str]
Progress = Callable[[int, int], None]


def words(settings: Mapping[str, Any] | None) -> dict[str, str]:
    """Features of a device as ``--set`` has them: True is written ``true``."""
    return {k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in (settings or {}).items()}


def names(given: Names) -> tuple[str, ...]:
    """One name is a list of one."""
    return (given,) if isinstance(given, str) else tuple(given)


def metrics_of(thing: Any) -> tuple[Metric, ...]:
    metrics = tuple(_metric(m) for m in (thing if isinstance(thing, list | tuple) else [thing]))
    if len({m.name for m in metrics}) < len(metrics):
        raise ValueError("two metrics have the same name")
    return metrics


def _metric(thing: Any) -> Metric:
    return metric_named(thing) if isinstance(thing, str) else as_metric(getattr(thing, "__name__", "metric"), thing)


def preprocessing_of(recipe: str | Mapping[str, Any] | None) -> Preprocessing:
    return recipe_of("preprocess", dict(recipe)) if isinstance(recipe, Mapping) else read_preprocessing(recipe)


def io_of(stored: str | Mapping[str, str]) -> dict[str, str]:
    """What inputs and outputs hold, by name; "" stands for all others."""
    kinds = dict(stored) if isinstance(stored, Mapping) else {"": stored} if stored else {}
    for kind in kinds.values():
        if kind not in ("u8", "i8", "float"):
            raise ValueError(f"io is {kind!r}, wanted u8, i8 or float")
    return kinds


def data_of(data: Any) -> Any:
    return os.fspath(data) if isinstance(data, Path) else data
