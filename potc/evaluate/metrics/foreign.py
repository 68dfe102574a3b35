"""Metrics that other libraries and users wrote: recognized by what they can do, nothing of them is imported."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from potc.evaluate.metrics.metric import Metric, Outputs, Record, mean


def as_metric(name: str, thing: Any) -> Metric:
    """A Metric as it is; an object with ``update`` and ``reset`` and either ``compute`` (torchmetrics) or ``avg_value`` (POT); a
    function of outputs and annotation that returns a number (true is 1), which is averaged; a class or a function without
    arguments that makes one of these. Raises TypeError for anything else.
    """
    if isinstance(thing, Metric):
        return thing
    if isinstance(thing, type):
        return as_metric(name, thing())
    if _has(thing, "update", "reset", "avg_value"):
        return from_pot(thing)
    if _has(thing, "update", "reset", "compute"):
        return from_updates(name, thing)
    if callable(thing):
        code = getattr(thing, "__code__", None)
        if code is not None and code.co_argcount == 0:
            return as_metric(name, thing())
        return from_function(name, thing)
    raise TypeError(f"{type(thing).__name__} is no metric")


def from_function(name: str, function: Callable[[Outputs, Any], Any]) -> Metric:
    """``function(outputs, annotation)`` gives a number for each sample, higher is better."""
    return Metric(name, lambda outputs, annotation: float(function(outputs, annotation)), mean)


def from_updates(name: str, metric: Any) -> Metric:
    """An object with ``update(preds, target)``, ``compute()`` and ``reset()``: fed with the first output and the annotation of one
    sample, each with a batch axis; tensors where the object is a module of torch. ``higher_is_better`` is read from it.
    """
    convert = _converter(metric)

    def score(outputs: Outputs, annotation: Any) -> Record:
        return next(iter(outputs.values())), np.asarray(annotation)[None]

    def reduce(records: Sequence[Record]) -> float:
        metric.reset()
        for found, wanted in records:
            metric.update(convert(found), convert(wanted))
        value = float(metric.compute())
        metric.reset()
        return value

    return Metric(name, score, reduce, higher_is_better=getattr(metric, "higher_is_better", None) is not False)


def from_pot(metric: Any, name: str | None = None) -> Metric:
    """POT's ``Metric``: ``update([output, ...], [annotation])``, ``avg_value``, ``reset()``, ``get_attributes()``.

    ``name``: which of its values; the first one by default. Its direction comes from ``get_attributes``, else ``higher_better``.
    """
    attributes: dict[str, Any] = metric.get_attributes() if _has(metric, "get_attributes") else {}
    chosen = name or next(iter(attributes), None)
    direction = attributes.get(chosen or "", {}).get("direction")
    higher = direction == "higher-better" if direction else bool(getattr(metric, "higher_better", True))

    def score(outputs: Outputs, annotation: Any) -> Record:
        return list(outputs.values()), annotation

    def reduce(records: Sequence[Record]) -> float:
        metric.reset()
        for outputs, annotation in records:
            metric.update(outputs, [annotation])
        values = metric.avg_value
        metric.reset()
        return float(np.mean(values[chosen] if chosen else next(iter(values.values()))))

    return Metric(chosen or "metric", score, reduce, higher_is_better=higher)


def _has(thing: Any, *names: str) -> bool:
    return all(inspect.getattr_static(thing, name, None) is not None for name in names)  # properties are not run


def _converter(metric: Any) -> Callable[[np.ndarray], Any]:
    """Whoever made a module of torch has imported torch."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(metric, torch.nn.Module):
        return lambda array: torch.from_numpy(np.ascontiguousarray(array))
    return lambda array: array
