"""Model x Plan x samples -> Ranges: what the tensors that matter really hold.

One session, one pass. Three numbers of each sample and tensor are kept, so memory hardly grows with the samples; values are
fetched only where the range estimator needs more. Why the reductions run inside the graph, and with which session options:
docs/decisions/0004-observing.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from potc.data.dataset import Dataset
from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.session import WORKERS, InferenceSession, SessionError, first_line, open_session, run_each
from potc.graph.model import Model
from potc.quantize.estimators import quantile_of
from potc.quantize.histogram import Histogram, merge_histograms
from potc.quantize.needs import EXTREMES, Needs, needs_of
from potc.quantize.observe import (
    FLOATS,
    REDUCTIONS,
    ChannelMean,
    expose,
    instrument,
    mean_outputs,
    merge_means,
    reductions,
    value_outputs,
)
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges, fingerprint
from potc.quantize.seen import Seen, merge_seen, see
from potc.quantize.statistic import Statistic
from potc.quantize.tuning import RangeSettings

Results = Sequence[Any]  # of one sample, in the order of the outputs that were asked for


def calibrate(
    model: Model,
    plan: Plan,
    dataset: Dataset,
    progress: Callable[[int, int], None],
    settings: RangeSettings | None = None,
) -> Ranges:
    """Runs the float model once per sample and keeps of ``plan.observed`` what the estimator of ``settings`` needs.

    ``progress(done, total)`` is called after each sample. Raises Rejected if an observed tensor holds NaN or infinity,
    or if onnxruntime can't run a sample; both name the sample, counted from 0.
    """
    if not plan.observed:
        return Ranges({}, model=fingerprint(model), generated=dataset.generated)
    observer = _Observer(model, plan, needs_of(plan, settings or RangeSettings()))
    total = len(dataset)
    for index, (feed, results) in enumerate(observer.run(dataset)):
        observer.add(index, feed, results)
        progress(index + 1, total)
    return observer.ranges(dataset.generated)


def wanted_ranges(model: Model, plan: Plan, settings: RangeSettings) -> Ranges:
    """What ``calibrate`` would fill, empty: so that saved ranges can be held against it (``check_fit``)."""
    needs, none = needs_of(plan, settings), np.zeros(0, np.float32)
    rows = {t: dict.fromkeys((*EXTREMES, *needs.quantiles.get(t, ())), none) for t in plan.observed}
    histogram = Histogram.empty()
    return Ranges(
        {t: Statistic(rows=rows[t], histogram=histogram if t in needs.histograms else None) for t in plan.observed},
        by_channel={key: Statistic(rows=dict.fromkeys(names, none)) for key, names in needs.channels.items()},
        model=fingerprint(model),
    )


class _Observer:
    """The session, and what was seen so far."""

    def __init__(self, model: Model, plan: Plan, needs: Needs) -> None:
        self._model, self._needs = model, needs
        self._tensors = plan.observed
        self._channels = {c.tensor: (c.tensor, c.rank, c.channel) for c in plan.corrections}
        self._ends = [o.name for o in model.proto.graph.output if o.type.tensor_type.elem_type in FLOATS]
        self._scalars = list(reductions(model.proto, self._tensors))
        averaged = list(mean_outputs(model.proto, len(self._channels)))
        values = list(value_outputs(model.proto, len(needs.fetched)))
        self._outputs = [*self._scalars, *averaged, *values, *self._ends]
        self._session = _open(instrument(model.proto, self._tensors, list(self._channels.values()), needs.fetched))
        self._extremes: list[np.ndarray] = []  # float32 [tensors, 2] of each sample; NaN where a tensor is empty
        self._means = {t: ChannelMean() for t in self._channels}
        self._rows: dict[tuple[str, str], list[np.ndarray]] = {}
        self._by_channel: dict[tuple[str, int], _Channels] = {k: _Channels(r) for k, r in needs.channels.items()}
        self._histograms = {t: Histogram.empty() for t in needs.histograms}
        self._seen = Seen()

    def run(self, dataset: Dataset) -> Iterator[tuple[Mapping[str, np.ndarray], Results]]:
        """Each feed with its results, in order. Several samples run at once, unless whole tensors are fetched of each."""
        waiting: deque[Mapping[str, np.ndarray]] = deque()

        def feeds() -> Iterator[Mapping[str, np.ndarray]]:
            for feed in dataset.feeds():
                waiting.append(feed)
                yield feed

        workers = 1 if self._needs.fetched else WORKERS
        results = run_each(self._session, self._outputs, feeds(), workers)
        for index in range(len(dataset)):
            found = _next(results, index)
            yield waiting.popleft(), found

    def add(self, index: int, feed: Mapping[str, np.ndarray], results: Results) -> None:
        self._extremes.append(self._checked(index, feed, results))
        rest = iter(results[len(self._scalars) :])
        for tensor in self._channels:
            means = next(rest)
            if np.isfinite(means).all():  # no positions give NaN
                self._means[tensor] = merge_means(self._means[tensor], ChannelMean.of_sample(means))
        for tensor in self._needs.fetched:
            values = np.asarray(next(rest))
            if values.size:
                self._fetch(tensor, values)
        ends = {n: np.asarray(a) for n, a in zip(self._ends, rest, strict=True)}
        self._seen = merge_seen(self._seen, see(feed, ends))

    def _fetch(self, tensor: str, values: np.ndarray) -> None:
        for row in self._needs.quantiles.get(tensor, ()):
            self._rows.setdefault((tensor, row), []).append(quantile_of(values, row))
        if tensor in self._histograms:
            self._histograms[tensor] = merge_histograms(self._histograms[tensor], Histogram.of_values(values))
        for (name, axis), channels in self._by_channel.items():
            if name == tensor:
                channels.add(values, axis)

    def _checked(self, index: int, feed: Mapping[str, np.ndarray], results: Sequence[Any]) -> np.ndarray:
        """Minimum and maximum of each tensor in this sample, all finite but for tensors without elements."""
        seen = np.array(results[: len(self._scalars)], np.float32).reshape(-1, len(REDUCTIONS))
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
        values = np.asarray(_next(run_each(_open(serialized), [name], [feed]), index)[0])
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

    def ranges(self, generated: bool) -> Ranges:
        extremes = np.array(self._extremes, np.float32).reshape(-1, len(self._tensors), 2)
        by_tensor: dict[str, Statistic] = {}
        for position, tensor in enumerate(self._tensors):
            pairs = extremes[:, position]
            pairs = pairs[~np.isnan(pairs[:, 0])]
            more = {row: np.array(found) for (t, row), found in self._rows.items() if t == tensor}
            by_tensor[tensor] = Statistic.of_samples(pairs[:, 0], pairs[:, 1], more, self._histograms.get(tensor))
        by_channel = {key: channels.statistic() for key, channels in self._by_channel.items()}
        return Ranges(by_tensor, self._means, by_channel, self._seen, fingerprint(self._model), generated)


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


def _open(serialized: bytes) -> InferenceSession:
    try:
        return open_session(serialized, optimize=True, threads=1)
    except SessionError as error:
        raise reject("unrunnable-model", f"onnxruntime can't load the float model: {error}") from error


def _next(results: Iterator[Results], index: int) -> Results:
    try:
        return next(results)
    except Rejected:  # a sample that can't be read
        raise
    except Exception as error:  # onnxruntime's errors have no common base; nothing of ours runs in there
        message = f"onnxruntime can't run the float model on sample {index}: {first_line(error)}"
        raise reject("sample-failed", message, help="check the names, shapes and types of the samples") from error
