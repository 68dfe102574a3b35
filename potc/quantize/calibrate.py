"""Model x Plan x samples -> Ranges: what the tensors that matter really hold.

One session, one pass. Three numbers of each sample and tensor are kept, so memory hardly grows with the samples; values are
fetched only where the range estimator needs more. Why the reductions run inside the graph, and with which session options:
docs/decisions/0004-observing.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import onnx

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import reject
from potc.execute.float_runs import next_results, open_float
from potc.execute.session import WORKERS, run_each
from potc.graph.bodies import Body
from potc.graph.model import Model
from potc.quantize.channel_means import ChannelMean, MeanSums, merge_means
from potc.quantize.estimators import quantile_of
from potc.quantize.histogram import Histogram, merge_histograms
from potc.quantize.inner import InnerRuns
from potc.quantize.needs import EXTREMES, Needs, needs_of
from potc.quantize.observe import (
    FLOATS,
    REDUCTIONS,
    Averaged,
    averaged_by,
    expose,
    instrument,
    mean_outputs,
    reductions,
    value_outputs,
)
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges, fingerprint, merge_ranges
from potc.quantize.seen import Seen, merge_seen, see
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import RangeSettings
from potc.quantize.windows import tap_means

Results = Sequence[Any]  # of one sample, in the order of the outputs that were asked for


@dataclass(frozen=True, slots=True)
class Look:
    """Means by channel that are kept of each of ``samples``, which are counted like those of messages, see ``Ranges.looked``."""

    averaged: tuple[Averaged, ...] = ()
    samples: frozenset[int] = frozenset()


NOWHERE = Look()


def calibrate(
    model: Model,
    plan: Plan,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    settings: RangeSettings | None = None,
    first: int = 0,
    look: Look = NOWHERE,
) -> Ranges:
    """Runs the float model once per sample and keeps of ``plan.observed`` what the estimator of ``settings`` needs.

    ``progress(done, total)`` is called after each sample. ``first``: index of the first sample, for messages and ``look``. Raises
    Rejected if an observed tensor holds NaN or infinity, or if onnxruntime can't run a sample; both name the sample, counted
    from 0.
    """
    if not plan.observed:
        return Ranges({}, model=fingerprint(model), generated=dataset.generated)
    return replace(watch(model, plan, dataset, progress, settings, first, look=look), model=fingerprint(model))


def watch(
    model: Model,
    plan: Plan,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    settings: RangeSettings | None = None,
    first: int = 0,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
    known: Collection[str] = (),
    look: Look = NOWHERE,
) -> Ranges:
    """The same without the model's fingerprint, and for a part of a model. ``keep`` gets all outputs of each sample, by name;
    ``known``: tensors that another part tells of."""
    observer = _Observer(model, plan, needs_of(plan, settings or RangeSettings()), None, keep, known, look)
    total = len(dataset)
    for index, (feed, results) in enumerate(observer.run(dataset, first)):
        observer.add(first + index, feed, results)
        progress(index + 1, total)
    return observer.ranges("", dataset.generated)


def wanted_ranges(model: Model, plan: Plan, settings: RangeSettings) -> Ranges:
    """What ``calibrate`` would fill, empty: so that saved ranges can be held against it (``check_fit``)."""
    needs, none = needs_of(plan, settings), np.zeros(0, np.float32)
    rows = {t: dict.fromkeys((*EXTREMES, *needs.quantiles.get(t, ())), none) for t in plan.observed}
    histogram = Histogram.empty()
    return Ranges(
        {t: Statistic(rows=rows[t], histogram=histogram if t in needs.histograms else None) for t in plan.observed},
        means={c.seen: ChannelMean() for c in plan.corrections},
        by_channel={key: Statistic(rows=dict.fromkeys(names, none)) for key, names in needs.channels.items()},
        model=fingerprint(model),
    )


class _Observer:
    """The session of one graph, what was seen so far, and the same for each of its bodies that holds kernels.

    A body is run on its own, with what the graph around it gives it, as often as the graph runs it. One run is one sample.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        needs: Needs,
        body: Body | None = None,
        keep: Callable[[Mapping[str, Any]], None] | None = None,
        known: Collection[str] = (),
        look: Look = NOWHERE,
    ) -> None:
        self._model, self.key = model, "" if body is None else body.key
        own = _tensors_of(model.proto.graph).difference(known)
        if body is not None:  # what belongs to another graph is observed there
            own.difference_update(body.captured, body.constants)
        self._tensors = tuple(t for t in plan.observed if t in own)
        averaged = {c.seen: c for c in plan.corrections if c.tensor in own}
        self._channels = {k: averaged_by(c) for k, c in averaged.items() if c.window is None or c.lengths is not None}
        # Where lengths change from sample to sample, matrices do too: the values themselves are fetched.
        self._windows = {key: c for key, c in averaged.items() if key not in self._channels}
        windowed = {c.tensor for c in self._windows.values()}
        self._fetched = tuple(sorted({*windowed, *(t for t in needs.fetched if t in own)}))
        self._quantiles = needs.quantiles
        self._keep = keep
        whole = body is not None or keep is not None
        self._ends = [o.name for o in model.proto.graph.output if whole or _is_float(o)]
        self._rectified = frozenset(t for t in plan.rectified if t in own)
        self._scalars = reductions(model.proto, self._tensors, self._rectified)
        self._look = look
        self._looked: dict[int, dict[str, np.ndarray]] = {}
        channels = list(dict.fromkeys((*self._channels.values(), *look.averaged)))
        self._places = {averaged: place for place, averaged in enumerate(channels)}
        means = list(mean_outputs(model.proto, len(channels)))
        values = list(value_outputs(model.proto, len(self._fetched)))
        self._inner = InnerRuns(model, plan)
        self._bodies = {b.key: _Observer(b.model, plan, needs, b) for b in self._inner.bodies}
        self._outputs = [*self._scalars, *means, *values, *self._ends, *self._inner.reads]
        self._runs = 0
        self._session = open_float(
            instrument(model.proto, self._tensors, channels, self._fetched, self._inner.reads, self._rectified)
        )
        self._extremes: list[np.ndarray] = []  # float32 [tensors, 2] of each sample; NaN where a tensor is empty
        self._sums = MeanSums(len(self._channels))
        self._windowed = dict.fromkeys(self._windows, ChannelMean())
        self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
        self._by_channel: dict[tuple[str, int], _Channels] = {
            k: _Channels(r) for k, r in needs.channels.items() if k[0] in own
        }
        self._histograms = {t: Histogram.empty() for t in needs.histograms if t in own}
        self._seen = Seen()

    def run(self, dataset: Dataset, first: int) -> Iterator[tuple[Mapping[str, np.ndarray], Results]]:
        """Each feed with its results, in order. Several samples run at once, unless whole tensors are fetched of each."""
        waiting: deque[Mapping[str, np.ndarray]] = deque()

        def feeds() -> Iterator[Mapping[str, np.ndarray]]:
            for feed in dataset.feeds():
                waiting.append(feed)
                yield feed

        workers = 1 if self._fetched else WORKERS
        results = run_each(self._session, self._outputs, feeds(), workers)
        for index in range(len(dataset)):
            found = next_results(results, first + index)
            yield waiting.popleft(), found

    def add(self, index: int, feed: Mapping[str, np.ndarray], results: Results) -> None:
        self._runs += 1
        self._extremes.append(self._checked(index, feed, results))
        rest = iter(results[len(self._scalars) :])
        means = [np.asarray(m) for m in islice(rest, len(self._places))]
        self._sums.add([means[self._places[averaged]] for averaged in self._channels.values()])
        if index in self._look.samples:
            self._looked[index] = {a.tensor: means[self._places[a]] for a in self._look.averaged}
        for tensor in self._fetched:
            values = np.asarray(next(rest))
            if values.size:
                self._fetch(tensor, values)
        ends = {n: next(rest) for n in self._ends}
        if self._keep is not None:
            self._keep(ends)
        if not self.key:
            self._seen = merge_seen(self._seen, see(feed, {n: np.asarray(a) for n, a in ends.items()}))
        self._inner.drive({**feed, **dict(zip(self._inner.reads, rest, strict=True))}, partial(self._run_body, index))

    def _run_body(self, index: int, body: Body, feed: Mapping[str, Any]) -> Sequence[Any]:
        """One run of a body: what it returns."""
        return self._bodies[body.key].run_once(index, feed)

    def run_once(self, index: int, feed: Mapping[str, Any]) -> Sequence[Any]:
        """Runs this body, and notes what it holds. Returns what the body returns."""
        results = next_results(run_each(self._session, self._outputs, [feed], 1), index)
        self.add(index, feed, results)
        first = len(self._outputs) - len(self._inner.reads) - len(self._ends)
        return results[first : first + len(self._ends)]

    def _average(self, key: str, means: np.ndarray) -> None:
        if np.isfinite(means).all():  # no positions give NaN
            self._windowed[key] = merge_means(self._windowed[key], ChannelMean.of_sample(means))

    def _fetch(self, tensor: str, values: np.ndarray) -> None:
        for key, correction in self._windows.items():
            if correction.tensor == tensor and correction.window is not None:
                self._average(key, tap_means(values, correction.window))
        for row in self._quantiles.get(tensor, ()):
            self._rows.setdefault((tensor, row), []).append(quantile_of(values, row))
        if tensor in self._histograms:
            self._histograms[tensor] = merge_histograms(self._histograms[tensor], Histogram.of_values(values))
        for (name, axis), channels in self._by_channel.items():
            if name == tensor:
                channels.add(values, axis)

    def _checked(self, index: int, feed: Mapping[str, np.ndarray], results: Sequence[Any]) -> np.ndarray:
        """Minimum and maximum of each tensor in this sample, all finite but for tensors without elements."""
        seen = np.zeros(
            (len(self._tensors), len(REDUCTIONS)), np.float32
        )  # nothing is below 0 where no minimum was taken
        if self._scalars:
            rows, places = zip(*self._scalars.values(), strict=True)
            seen[rows, places] = np.array(results[: len(self._scalars)], np.float32)
        extremes = seen[:, :2].copy()
        for position in np.flatnonzero(~np.isfinite(seen).all(axis=1)):
            low, high, total = seen[position].tolist()
            if low > high and total == 0:
                extremes[position] = np.nan
            else:
                extremes[position] = self._look_again(index, feed, self._tensors[position])
        return extremes

    def _look_again(self, index: int, feed: Mapping[str, np.ndarray], tensor: str) -> tuple[float, float]:
        """A sum that is not finite may only have overflowed: the values themselves decide."""
        serialized, name = expose(self._model.proto, tensor)
        values = np.asarray(next_results(run_each(open_float(serialized), [name], [feed]), index)[0])
        if not np.isfinite(values).all():
            what = "NaN" if np.isnan(values).any() else "infinity"
            message = f"`{tensor}` holds {what} in sample {index}"
            raise reject(
                "non-finite-data",
                message,
                node=tensor,
                help="check the sample and the float model, or leave that sample out",
            )
        return float(values.min()), float(values.max())

    def ranges(self, model: str, generated: bool) -> Ranges:
        """What this graph and its bodies hold. ``model``: the fingerprint of the whole."""
        extremes = np.array(self._extremes, np.float32).reshape(self._runs, len(self._tensors), 2)
        by_tensor: dict[str, Statistic] = {}
        for position, tensor in enumerate(self._tensors):
            pairs = extremes[:, position]
            pairs = pairs[~np.isnan(pairs[:, 0])]
            more = {row: np.array(found) for (t, row), found in self._rows.items() if t == tensor}
            by_tensor[tensor] = Statistic.of_samples(pairs[:, 0], pairs[:, 1], more, self._histograms.get(tensor))
        by_channel = {key: channels.statistic() for key, channels in self._by_channel.items()}
        runs = {self.key: self._runs} if self.key else {}
        means = self._windowed | dict(zip(self._channels, self._sums.means(), strict=True))
        found = Ranges(by_tensor, means, by_channel, self._seen, model, generated, runs)
        for body in self._bodies.values():
            found = merge_ranges(found, body.ranges(model, generated))
        return replace(found, looked=self._looked)


def _tensors_of(graph: onnx.GraphProto) -> set[str]:
    """All that a graph defines."""
    values = {v.name for v in (*graph.input, *graph.initializer)}
    return values | {name for node in graph.node for name in node.output if name}


def _is_float(value: onnx.ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type in FLOATS


class _Channels:
    """The channels of one tensor: extremes of everything, and of each sample only what a row needs."""

    def __init__(self, rows: tuple[str, ...]) -> None:
        self._kept: dict[str, list[np.ndarray]] = {row: [] for row in rows}
        self._low = self._high = np.zeros(0, np.float32)
        self._samples = 0

    def add(self, values: np.ndarray, axis: int) -> None:
        others = tuple(a for a in range(values.ndim) if a != axis)
        low, high = values.min(axis=others), values.max(axis=others)
        extremes = {"min": low, "max": high, "abs_max": np.maximum(-low, high)}
        for row, kept in self._kept.items():
            kept.append(extremes[row] if row in extremes else quantile_of(values, row, others))
        self._low = np.minimum(self._low, low) if self._samples else low
        self._high = np.maximum(self._high, high) if self._samples else high
        self._samples += 1

    def statistic(self) -> Statistic:
        if not self._samples:
            return Statistic()
        rows = {name: np.array(kept) for name, kept in self._kept.items()}
        whole = Statistic.of_samples(self._low[None], self._high[None], keep=False)
        return Statistic(
            self._samples, whole.low, whole.high, {n: np.sort(r + np.float32(0), axis=0) for n, r in rows.items()}
        )
