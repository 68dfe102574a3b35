"""Metrics by the words of the command line: ``top5``, ``miou,ignore=255``, ``metrics.py:mine``."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from potc.data.python_file import call_python, is_python, load_python
from potc.diagnostics.diagnostic import reject
from potc.evaluate.metrics import numbers
from potc.evaluate.metrics.classification import auc, f1, topk
from potc.evaluate.metrics.detection import mean_average_precision
from potc.evaluate.metrics.foreign import as_metric
from potc.evaluate.metrics.metric import Metric, Outputs
from potc.evaluate.metrics.segmentation import miou
from potc.evaluate.metrics.text import error_rate, read_vocabulary


def _read(unit: str, blank: int | None = None, vocabulary: str | None = None, output: str | None = None) -> Metric:
    return error_rate(unit, blank, None if vocabulary is None else read_vocabulary(vocabulary), output)


METRICS: Mapping[str, Callable[..., Metric]] = {
    "topk": topk,
    "f1": f1,
    "auc": auc,
    "miou": miou,
    "map": mean_average_precision,
    "wer": partial(_read, "word"),
    "cer": partial(_read, "char"),
    "rmse": numbers.rmse,
    "cosine": numbers.cosine,
    "sqnr": numbers.sqnr,
    "agreement": numbers.agreement,
}


def metric_named(text: str) -> Metric:
    """``NAME,KEY=VALUE,...``: one of ``METRICS`` with its arguments, ``topN``, or ``FILE.py:NAME``.

    ``decode=FILE.py:NAME`` is understood by all: that function makes of the outputs those that the metric looks at. Raises
    Rejected(invalid-metric), and what ``load_python`` raises.
    """
    name, *pairs = (part.strip() for part in text.split(","))
    arguments: dict[str, Any] = dict(_pair(text, pair) for pair in pairs)
    decode = arguments.pop("decode", None)
    if is_python(name):
        metric = _of_user(name, arguments)
    else:
        if ranked := re.fullmatch(r"top(\d+)", name):
            name, arguments = "topk", {"k": int(ranked[1]), **arguments}
        metric = _built_in(text, name, arguments)
    metric = replace(metric, words=text, files=tuple(_files(name, decode, arguments)))
    return metric if decode is None else _decoded(metric, str(decode))


def _files(name: str, decode: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """What the words name: code, and files like that of a vocabulary."""
    yield from (str(text).rpartition(":")[0] for text in (name, decode) if text is not None and is_python(str(text)))
    yield from (value for value in arguments.values() if isinstance(value, str) and Path(value).is_file())


def _built_in(text: str, name: str, arguments: Mapping[str, Any]) -> Metric:
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, 1)
        hint = f"did you mean `{near[0]}`? " if near else ""
        help_ = f"{hint}there are top1, top5, {', '.join(METRICS)}, and FILE.py:NAME"
        raise reject("invalid-metric", f"there is no metric `{name}`", help=help_)
    make = METRICS[name]
    known = [p for p in inspect.signature(make).parameters if p != "unit"]
    for key in arguments:
        if key not in known:
            message = f"`{name}` in --metric {text} has no setting `{key}`"
            raise reject("invalid-metric", message, help=f"its settings are {', '.join(known)} and decode")
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise reject("invalid-metric", f"--metric {text}: {error}") from error


def _of_user(text: str, arguments: Mapping[str, Any]) -> Metric:
    thing = load_python(text)
    name = text.rpartition(":")[2]
    if arguments:  # a function that makes a metric
        thing = call_python(text, partial(thing, **arguments))
    try:
        metric = call_python(text, as_metric, name, thing)
    except TypeError as error:
        raise reject("invalid-metric", f"{text} is no metric: {error}") from error
    return metric


def _decoded(metric: Metric, text: str) -> Metric:
    """The metric of what a function of the user makes of the outputs. A reference is decoded as well."""
    function = load_python(text)

    def score(outputs: Outputs, annotation: Any) -> Any:
        return metric.score(function(outputs), function(annotation) if metric.reference else annotation)

    return replace(metric, score=score)


def _pair(text: str, pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not (key and equals and value):
        raise reject("invalid-metric", f"`{pair}` in --metric {text} is not KEY=VALUE")
    try:
        return key, {"true": True, "false": False}[value] if value in ("true", "false") else ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value  # a name
