"""Model x Plan x samples -> Ranges: what the tensors that matter really hold.

One session, one pass; each sample leaves three numbers per tensor, so memory does not grow with their number. Why the
reductions run inside the graph, and with which session options: docs/decisions/0004-observing.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import reject
from potc.execute.session import SessionError, first_line, open_session
from potc.graph.model import Model
from potc.quantize.observe import (
    REDUCTIONS,
    ChannelMean,
    Statistic,
    expose,
    instrument,
    mean_outputs,
    merge,
    merge_means,
    reductions,
)
from potc.quantize.plan import Plan

VERSION = 1
THREADS = 2  # a number, not "all": how work is divided over threads can change the last bit of a convolution

Run = Callable[[list[str], dict[str, np.ndarray]], Sequence[Any]]  # of a session: output names, feed


@dataclass(frozen=True, slots=True)
class Ranges:
    """A ``Statistic`` for each observed tensor, and a ``ChannelMean`` for each that a correction asks about, by name.

    The means have no JSON form: ranges that were saved can be solved, not corrected.
    """

    by_tensor: Mapping[str, Statistic]
    means: Mapping[str, ChannelMean] = field(default_factory=dict[str, ChannelMean])

    def to_json(self) -> str:
        """One JSON document with names sorted, so equal ranges are equal text."""
        tensors = {name: self.by_tensor[name].to_json() for name in sorted(self.by_tensor)}
        return (
            json.dumps({"potc": "ranges", "version": VERSION, "tensors": tensors}, indent=1, ensure_ascii=False) + "\n"
        )

    @staticmethod
    def from_json(text: str) -> Ranges:
        """The inverse of ``to_json``. Raises Rejected for another kind of file, another version, or broken content."""
        try:
            value = json.loads(text)
            if not isinstance(value, dict) or value.get("potc") != "ranges":
                raise reject("not-ranges", "this file holds no ranges")
            if value.get("version") != VERSION:
                message = f"these ranges have version {value.get('version')}; this potc reads version {VERSION}"
                raise reject("unknown-version", message, help="calibrate again")
            return Ranges({name: Statistic.from_json(entry) for name, entry in value["tensors"].items()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise reject(
                "not-ranges", f"this file holds no readable ranges: {error}", help="calibrate again"
            ) from error


def merge_ranges(a: Ranges, b: Ranges) -> Ranges:
    """The ranges of the samples of both: associative and commutative to the bit."""
    names = dict.fromkeys((*a.by_tensor, *b.by_tensor))
    empty = Statistic()
    none = ChannelMean()
    return Ranges(
        {n: merge(a.by_tensor.get(n, empty), b.by_tensor.get(n, empty)) for n in names},
        {n: merge_means(a.means.get(n, none), b.means.get(n, none)) for n in dict.fromkeys((*a.means, *b.means))},
    )


def calibrate(model: Model, plan: Plan, dataset: Dataset, progress: Callable[[int, int], None]) -> Ranges:
    """Runs the float model once per sample and keeps the extremes of ``plan.observed``.

    ``progress(done, total)`` is called after each sample. Raises Rejected if an observed tensor holds NaN or infinity,
    or if onnxruntime can't run a sample; both name the sample, counted from 0.
    """
    tensors = plan.observed
    if not tensors:
        return Ranges({})
    channels = {c.tensor: (c.tensor, c.rank, c.channel) for c in plan.corrections}
    observer = _Observer(model, tensors, list(channels.values()))
    total = len(dataset)
    for index, feed in enumerate(dataset.feeds()):
        observer.see(index, feed)
        progress(index + 1, total)
    return Ranges(
        dict(zip(tensors, observer.statistics, strict=True)), dict(zip(channels, observer.means, strict=True))
    )


class _Observer:
    """The session, and what was seen so far."""

    def __init__(self, model: Model, tensors: Sequence[str], channels: Sequence[tuple[str, int, int]]) -> None:
        self._model = model
        self._tensors = tensors
        self._outputs = [*reductions(model.proto, tensors), *mean_outputs(model.proto, len(channels))]
        self._run = _open(instrument(model.proto, tensors, channels))
        self.statistics = [Statistic()] * len(tensors)
        self.means = [ChannelMean()] * len(channels)

    def see(self, index: int, feed: Mapping[str, np.ndarray]) -> None:
        results = _run_sample(self._run, self._outputs, feed, index)
        scalars = len(self._outputs) - len(self.means)
        for position, means in enumerate(results[scalars:]):
            if np.isfinite(means).all():  # what is not finite is looked into below; no positions give NaN
                self.means[position] = merge_means(self.means[position], ChannelMean.of_sample(means))
        seen = np.array(results[:scalars], np.float64).reshape(-1, len(REDUCTIONS))
        finite = np.all(np.isfinite(seen), axis=1)
        for position, (low, high, total) in enumerate(seen.tolist()):
            if finite[position]:
                sample = Statistic.of_sample(low, high)
            elif low > high and total == 0:
                continue  # no elements in this sample
            else:
                sample = self._look_again(index, feed, self._tensors[position])
            self.statistics[position] = merge(self.statistics[position], sample)

    def _look_again(self, index: int, feed: Mapping[str, np.ndarray], tensor: str) -> Statistic:
        """A sum that is not finite may only have overflowed: the values themselves decide."""
        serialized, name = expose(self._model.proto, tensor)
        values = np.asarray(_run_sample(_open(serialized), [name], feed, index)[0])
        if not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "infinity"
            message = f"`{tensor}` holds {what} in sample {index}"
            raise reject(
                "non-finite-data",
                message,
                node=tensor,
                help="check the sample and the float model, or leave that sample out",
            )
        return Statistic.of_sample(float(values.min()), float(values.max()))


def _open(serialized: bytes) -> Run:
    try:
        return open_session(serialized, optimize=True, threads=THREADS).run
    except SessionError as error:
        raise reject("unrunnable-model", f"onnxruntime can't load the float model: {error}") from error


def _run_sample(run: Run, outputs: list[str], feed: Mapping[str, np.ndarray], index: int) -> Sequence[Any]:
    try:
        return run(outputs, dict(feed))
    except Exception as error:  # onnxruntime's errors have no common base; nothing of ours runs in there
        message = f"onnxruntime can't run the float model on sample {index}: {first_line(error)}"
        raise reject("sample-failed", message, help="check the names, shapes and types of the samples") from error
