"""What a search depends on, as one hash: only a journal that was begun with all of it equal is gone on with.

Files count by their content, not by name or time. Code of the user counts by the file that defines it, whatever else it reads or
imports does not; so samples that code makes are looked at one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from potc import __version__
from potc.compiler import Job, Matched
from potc.data.annotated import AnnotatedDataset
from potc.data.dataset import Dataset
from potc.data.fitted import Fitted
from potc.evaluate.metrics.metric import Metric
from potc.limits import changed
from potc.search.records import encoded
from potc.search.target import Target

OWN = Path(__file__).parents[1]
GOALS = ("max_drop", "relative", "evaluations", "ranking_samples", "tune", "raise_precision", "confidence")


def identity(matched: Matched, target: Target, data: AnnotatedDataset) -> str:
    """SHA-256 of model, rules, samples, annotations, recipes, metrics, options, and the versions of what computes with them."""
    job = matched.job
    sha = hashlib.sha256()
    versions = {p: metadata.version(p) for p in ("onnx", "onnxruntime", "numpy")}
    features = dict(matched.program.features)
    settings = (__version__, versions, matched.program.device, features, _words(job), _goal(target), _folding())
    sha.update(json.dumps(settings, sort_keys=True, default=str).encode())
    code = sorted({file for metric in target.metrics for file in _code(metric)})
    for file in (*matched.model.files, *matched.program.sources, *job.externs, *job.libraries, *code):
        sha.update(hashlib.sha256(Path(file).read_bytes()).digest())
    for dataset in (matched.samples, data):
        recipe = dataset.preprocessing.told() if isinstance(dataset, Fitted) else {}
        sha.update(json.dumps([len(dataset), list(dataset.chosen), recipe]).encode())
        for digest in _contents(dataset):
            sha.update(digest)
    return sha.hexdigest()


def _contents(dataset: Dataset | AnnotatedDataset) -> Iterator[bytes]:
    yield from (hashlib.sha256(Path(f).read_bytes()).digest() for f in dataset.files)
    if dataset.files and not any(f.endswith(".py") for f in dataset.files):
        return
    for feed in dataset.feeds():
        for name, array in feed.items():
            told = f"{name} {array.dtype} {array.shape} ".encode()
            yield hashlib.sha256(told + np.ascontiguousarray(array).tobytes()).digest()
    sample = getattr(dataset, "sample", None)
    if sample is not None:
        yield from (hashlib.sha256(_bytes(sample(i).annotation)).digest() for i in range(len(dataset)))


def _bytes(annotation: Any) -> bytes:
    """What an annotation is; of objects of the user's, what they print."""
    try:
        return json.dumps(encoded(annotation)).encode()
    except TypeError:
        return repr(annotation).encode()


def _code(metric: Metric) -> Iterator[str]:
    """Files that say what a metric computes, potc's own left out: those that it names, and those of its functions."""
    yield from metric.files
    waiting: list[Any] = [metric.score, metric.reduce]
    seen: set[int] = set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        function: Callable[..., Any] | None = getattr(thing, "__func__", thing)
        code = getattr(function, "__code__", None) or getattr(type(thing).__call__, "__code__", None)
        if code is not None and (path := Path(code.co_filename)).is_file() and OWN not in path.parents:
            yield str(path)
        waiting += [c.cell_contents for c in getattr(function, "__closure__", None) or () if callable(c.cell_contents)]
        waiting += [part for part in (getattr(thing, "func", None),) if part is not None]


def _words(job: Job) -> dict[str, object]:
    return {
        "tuning": asdict(job.tuning),
        "scopes": asdict(job.scopes),
        "samples": job.samples,
        "seed": job.seed,
        "preprocess": job.preprocess.told(),
        "annotations": asdict(job.annotations),
        "io": dict(job.io),
    }


def _folding() -> dict[str, int]:
    """Limits that say what model is compiled. All others say whether."""
    return {name: value for name, value in changed().items() if name.startswith("folded-")}


def _goal(target: Target) -> dict[str, object]:
    named: Sequence[str] = [m.words or m.name for m in target.metrics]
    return {"metrics": named, **{name: getattr(target, name) for name in GOALS}}
