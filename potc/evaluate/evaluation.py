"""How well a model does on annotated samples.

``evaluate(model, data, metric)`` runs the model once over the samples and returns ``Evaluation(value, records, ...)``::

    evaluation = evaluate(compiled, data, topk(1))  # compiled: bytes of an ONNX model, or a session
    evaluation.value, evaluation.records[7]
    evaluate(compiled, data, metric, indices=[3, 8])  # only some samples
    evaluate(compiled, labelled_by(float_model, data), sqnr())  # metrics that compare with the float model
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from potc.data.annotated import AnnotatedDataset, Reannotated
from potc.diagnostics.diagnostic import Rejected, reject
from potc.evaluate.metrics.metric import Metric, Outputs, Record
from potc.execute.float_runs import unloadable
from potc.execute.session import InferenceSession, SessionError, first_line, open_session, run_each

Progress = Callable[[int, int], None]
Runnable = bytes | InferenceSession


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``records``: one for each sample, in their order. ``indices``: which samples of the data set they are."""

    metric: Metric
    value: float
    records: tuple[Record, ...]
    indices: tuple[int, ...]


def evaluate(
    model: Runnable,
    data: AnnotatedDataset,
    metric: Metric,
    *,
    optimize: bool = True,
    indices: Sequence[int] | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """One metric. ``optimize``: on onnxruntime's kernels; False: every node as written, quantizers simulated in float.

    ``indices``: ascending; None: all samples. Raises Rejected where the model does not run, and where the metric fails.
    """
    return evaluate_all(model, data, [metric], optimize=optimize, indices=indices, progress=progress)[0]


def evaluate_all(
    model: Runnable,
    data: AnnotatedDataset,
    metrics: Sequence[Metric],
    *,
    optimize: bool = True,
    indices: Sequence[int] | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Evaluation, ...]:
    """Several metrics over one run of the model; see ``evaluate``."""
    places = tuple(range(len(data)) if indices is None else indices)
    records: list[list[Record]] = [[] for _ in metrics]
    for done, (index, outputs, annotation) in enumerate(answers(model, data, places, optimize), 1):
        for metric, found in zip(metrics, records, strict=True):
            found.append(_score(metric, outputs, annotation, index))
        progress(done, len(places))
    return tuple(
        Evaluation(metric, _reduce(metric, found), tuple(found), places)
        for metric, found in zip(metrics, records, strict=True)
    )


def answers(
    model: Runnable, data: AnnotatedDataset, indices: Sequence[int], optimize: bool = True
) -> Iterator[tuple[int, Outputs, Any]]:
    """Index, outputs and annotation of each sample, in order. Raises Rejected where the model does not load or run."""
    session = opened(model, optimize)
    names = [o.name for o in session.get_outputs()]
    waiting: deque[Any] = deque()

    def feeds() -> Iterator[Mapping[str, np.ndarray]]:
        for index in indices:
            sample = data.sample(index)
            waiting.append(sample.annotation)
            yield sample.inputs

    results = run_each(session, names, feeds())
    for index in indices:
        try:
            found = next(results)
        except Rejected:
            raise
        except Exception as error:  # onnxruntime's errors have no common base
            message = f"onnxruntime can't run the model on sample {index}: {first_line(error)}"
            raise reject("sample-failed", message, help="check the names, shapes and types of the samples") from error
        yield index, {n: np.asarray(a) for n, a in zip(names, found, strict=True)}, waiting.popleft()


def opened(model: Runnable, optimize: bool = True) -> InferenceSession:
    """A session of one thread, with which results do not depend on the machine. Raises Rejected(unrunnable-model)."""
    if not isinstance(model, bytes):
        return model
    try:
        return open_session(model, optimize=optimize, threads=1)
    except SessionError as error:
        raise unloadable(error, "the model") from error


def labelled_by(model: Runnable, data: AnnotatedDataset) -> AnnotatedDataset:
    """The same samples, annotated with what ``model`` answers. Memory holds the outputs of all samples."""
    return Reannotated(data, tuple(outputs for _, outputs, _ in answers(model, data, range(len(data)))))


def _score(metric: Metric, outputs: Outputs, annotation: Any, index: int) -> Record:
    if annotation is None:
        message = f"the metric `{metric.name}` compares with annotations, and sample {index} has none"
        help_ = "give labels, or a metric that compares with the float model: sqnr"
        raise reject("no-annotation", message, help=help_)
    try:
        return metric.score(outputs, annotation)
    except Exception as error:  # a metric may be the user's: whatever it raises is told with the sample
        message = f"the metric `{metric.name}` failed on sample {index}: {type(error).__name__}: {first_line(error)}"
        raise reject("metric-failed", message) from error


def _reduce(metric: Metric, records: Sequence[Record]) -> float:
    if not records:
        raise reject("no-samples", f"there are no samples that `{metric.name}` could score")
    try:
        return float(metric.reduce(records))
    except Exception as error:  # see above
        message = (
            f"the metric `{metric.name}` failed on {len(records)} records: {type(error).__name__}: {first_line(error)}"
        )
        raise reject("metric-failed", message) from error
