"""Everything that a search measures: ranges, the noise of each source, and the metrics of candidates.

What takes time is done in tasks of ``SHARD`` samples, by any executor, and each result is noted in the journal under a key made
of its content. So a result is found again after a crash, and no answer depends on who computed what, or in which order.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Protocol

import numpy as np

from potc.compiler import Matched, Trace, observed_plan, opset_for, quantize, weights
from potc.data.annotated import AnnotatedDataset, Sample
from potc.data.kept import spread
from potc.diagnostics.diagnostic import reject
from potc.evaluate.confidence import highest_drop, right_or_wrong, samples_to_show
from potc.evaluate.evaluation import Evaluation
from potc.evaluate.exchange import MOST, expected_records, scores_in
from potc.evaluate.measures import Sqnr
from potc.evaluate.metrics.metric import Metric
from potc.execute.session import first_line
from potc.execute.tasks import Executor, Task
from potc.graph.opset import raise_opset
from potc.graph.write import serialize
from potc.quantize.calibrate import calibrate, wanted_ranges
from potc.quantize.lower import lower
from potc.quantize.moments import second_moments
from potc.quantize.params import solve_params
from potc.quantize.parts import snapshots_of, solve_parts, whole
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges, merge_ranges
from potc.quantize.scopes import scoped_nodes
from potc.quantize.tuning import Tuning
from potc.search.cost import Costs
from potc.search.records import decoded, encoded
from potc.search.run import CalibrateTask, Executable, Feeds, RunTask, executable
from potc.search.sources import NoiseSource, noise_sources, only, reading, touching
from potc.search.target import Target
from potc.search.variant import REASON, Variant, with_raised

SHARD = 32  # samples of one task: what a crash can cost
WORST = 1e6  # noise-to-signal ratio of results that are not finite


class Notes(Protocol):
    """A journal, or a mapping in memory."""

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str) -> Any: ...

    def put(self, key: str, value: Any) -> None: ...

    def forget(self, key: str) -> None: ...


class Memory:
    """Notes of a search that nobody will resume."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str) -> Any:
        return self._values[key]

    def put(self, key: str, value: Any) -> None:
        self._values[key] = value

    def forget(self, key: str) -> None:
        """Its value will not be asked for again."""
        self._values.pop(key, None)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant, compiled. ``values``: of each metric, over all evaluation samples. ``highest``: what each metric loses at most
    on other samples like these, at ``Target.level``; None where that takes too long to tell. ``expected``: what it loses there on
    average (see ``potc.evaluate.exchange``), None where that can't be estimated; ``sure``: the target is met, and expected to be
    met there; ``caution``: the excess of what is lost or expected to be lost. ``speedup``: an estimate (see ``cost``)."""

    variant: Variant
    values: tuple[float, ...]
    highest: tuple[float | None, ...]
    expected: tuple[float | None, ...]
    met: bool
    sure: bool
    excess: float
    caution: float
    speedup: float
    size: int
    kernels: int
    digest: str


class Bench:
    """One model, one device, one set of evaluation samples."""

    def __init__(
        self, matched: Matched, target: Target, data: AnnotatedDataset, notes: Notes, executor: Executor, trace: Trace
    ) -> None:
        self.matched, self.target = matched, target
        self._data, self._notes, self._executor, self._trace = data, notes, executor, trace
        self._snapshots = snapshots_of(matched.prepared)
        self._scoped = scoped_nodes(matched.job.scopes, matched.model, matched.changes, self._snapshots)
        self._touching = touching(self._snapshots.values())
        self._reads = reading(self._snapshots.values())
        self.costs = Costs(matched.program, self._snapshots.values())
        self._outputs = tuple(o.name for o in matched.model.proto.graph.output)
        self._float = Executable(matched.model.proto.SerializeToString())
        self._ranges: dict[str, Ranges] = {}
        self._unnoted: dict[str, Any] = {}  # records of a user's metric that no journal can hold
        self.evaluations = 0  # of compiled models, resumed ones included
        self.samples_run = 0  # by this process and its workers, of all models
        self.candidates: dict[Variant, Candidate] = {}

    # ------------------------------------------------------------------------------------------ plans and models

    def of(self, variant: Variant) -> Matched:
        """The rules, without the kernels that are given up. Raises Rejected as ``solve`` does."""
        matched, parts = self.matched, self.matched.parts
        if variant.held:
            held: dict[str, dict[int, str]] = {}
            for key, snapshot in self._snapshots.items():
                given_up = {n: REASON for n, name in enumerate(snapshot.names) if name in variant.held}
                held[key] = given_up | dict(self._scoped.get(key, {}))
            parts = solve_parts(matched.program, matched.prepared, self._snapshots, held)
        parts = tuple(replace(p, plan=with_raised(p.plan, variant.raised)) for p in parts)
        return replace(matched, parts=parts, plan=whole(parts))

    def sources(self, plan: Plan) -> tuple[NoiseSource, ...]:
        return noise_sources(plan, self._touching)

    def compile(self, variant: Variant, tuning: Tuning) -> tuple[Plan, bytes]:
        matched = self.of(variant)
        ranges = self.ranges(matched.plan, tuning)
        done = quantize(matched, ranges, tuning, Trace())
        return done.matched.plan, done.compiled

    def ranges(self, plan: Plan, tuning: Tuning) -> Ranges:
        """Measured once for the widest plan; what another plan needs beside that is measured when it comes up."""
        key = json.dumps([asdict(tuning.ranges), tuning.bias.method])
        found = self._ranges.get(key)
        if found is None:
            found = self._calibrated(_observing_all(observed_plan(self.matched.plan, tuning)), tuning, f"ranges {key}")
        lacking = _lacking(found, wanted_ranges(self.matched.prepared, plan, tuning.ranges), plan, tuning)
        if lacking:
            more = self._calibrated(
                _observing_all(observed_plan(plan, tuning)), tuning, f"ranges {_hash(repr(lacking))} {key}"
            )
            found = replace(
                found,
                by_tensor={**more.by_tensor, **found.by_tensor},
                means={**more.means, **found.means},
                by_channel={**more.by_channel, **found.by_channel},
            )
        self._ranges[key] = found
        return found

    def _calibrated(self, plan: Plan, tuning: Tuning, key: str) -> Ranges:
        samples, prepared = self.matched.samples, self.matched.prepared
        if not plan.observed:
            return calibrate(prepared, plan, samples, lambda done, total: None, tuning.ranges)
        self._trace.stage("calibrate")
        total = len(samples)
        starts = range(0, total, SHARD)
        feeds = iter(samples.feeds())
        position = 0

        def task(start: int) -> Task:
            nonlocal position
            inputs = tuple(islice(feeds, start - position, start - position + SHARD))
            position = start + len(inputs)
            return CalibrateTask(prepared, plan, tuning.ranges, Feeds(inputs, samples.generated), start)

        keys = [f"{key} {start}" for start in starts]
        parts = self._noted(keys, lambda i: task(starts[i]), lambda _, found: found, total)
        texts = (Ranges.from_json(text, "the journal") for part in parts for text in part)
        merged = next(texts)
        for ranges in texts:
            merged = merge_ranges(merged, ranges)
        return merged

    # ------------------------------------------------------------------------------------------ noise

    def noise(self, sources: Sequence[NoiseSource], plan: Plan, tuning: Tuning, raised: bool) -> list[float]:
        """Of each source alone: noise-to-signal ratio at the outputs, the mean of all of them. ``raised``: in the most precise
        types; ``plan``: the one that the sources are of."""
        if raised:
            plan = with_raised(plan, (key for s in sources for key in s.raised))
        prepared = self.matched.prepared
        signatures = self.matched.program.members[0].signatures
        moments = None
        if tuning.rounding.method == "gptq":
            moments = second_moments(prepared, plan, signatures, self.matched.samples)
        params = solve_params(plan, self.ranges(plan, tuning), weights(prepared, plan), tuning, moments)
        base = raise_opset(prepared, opset_for(params))
        samples = tuple(self._ranking())
        wanted: list[Any] | None = None

        def task(number: int) -> Task:
            alone, kept = only(plan, params, sources[number], self._reads)
            model = executable(serialize(lower(base, alone, kept)), alone, signatures)
            return RunTask((model,), self._outputs, samples, 0, "the ranking samples")

        def ratio(_: int, found: Any) -> float:
            nonlocal wanted
            if wanted is None:
                float_task = RunTask(
                    (Executable(serialize(base.proto)),), self._outputs, samples, 0, "the ranking samples"
                )
                wanted = float_task.run()
            return _noise(wanted, found)

        settings = _hash(json.dumps([asdict(tuning), self.target.ranking_samples]))
        keys = [f"noise {settings} {'raised' if raised else 'plain'} {s.key}" for s in sources]
        return list(self._noted(keys, task, ratio, len(keys) * len(samples)))

    def _ranking(self) -> Iterator[Sample]:
        wanted = spread(len(self.matched.samples), self.target.ranking_samples)
        for index, feed in enumerate(self.matched.samples.feeds()):
            if index in wanted:
                yield Sample(feed)

    # ------------------------------------------------------------------------------------------ metrics

    def float_values(self) -> tuple[float, ...]:
        """Of each metric, of the float model. Raises Rejected(too-few-samples) where no candidate could show what is asked for."""
        records = self._records(self._float, "float")
        values = self._values(records)
        self._check_enough(records, values)
        return values

    def _check_enough(self, records: Sequence[Any], values: Sequence[float]) -> None:
        if self.target.confidence is None:
            return
        for i, (metric, limit) in enumerate(zip(self.target.metrics, self.target.allowed(values), strict=True)):
            evaluation = Evaluation(metric, values[i], tuple(r[i] for r in records), tuple(range(len(records))))
            needed = samples_to_show(float(limit), self.target.level)
            if right_or_wrong(evaluation) is not None and len(records) < needed:
                message = (
                    f"{len(records)} samples can't show that {metric.name} drops by at most {float(limit):g} with "
                    f"confidence {self.target.confidence:g}, even if none is lost: that takes {needed:,}"
                )
                help_ = "give more --eval-data, a larger --max-drop, a lower --confidence, or fewer --evaluations"
                raise reject("too-few-samples", message, help=help_)

    def evaluate(self, variant: Variant, tuning: Tuning, before: Sequence[float]) -> tuple[Candidate, bytes]:
        """One full evaluation: the metrics of a candidate, and its bytes. ``before``: values of the float model."""
        plan, compiled = self.compile(variant, tuning)
        model = executable(compiled, plan, self.matched.program.members[0].signatures)
        records = self._records(model, model.digest)
        values = self._values(records)
        highest, expected = self._highest(records), self._expected(records)
        self.evaluations += 1
        del records
        for key in self._score_keys(model.digest):  # else memory would grow with the number of candidates
            self._notes.forget(key)
            self._unnoted.pop(key, None)
        gc.collect()  # graphs and plans refer to each other in circles, and hold weights
        is_met, excess = self.target.is_met(before, values, highest), self.target.excess(before, values, highest)
        caution = max(excess, self.target.expected_excess(before, expected))
        candidate = Candidate(
            variant,
            values,
            highest,
            expected,
            is_met,
            is_met and caution <= max(excess, 1.0),
            excess,
            caution,
            self.costs.speedup(plan),
            len(compiled),
            len(plan.kernels),
            model.digest,
        )
        return candidate, compiled

    def _values(self, records: Sequence[Any]) -> tuple[float, ...]:
        return tuple(float(m.reduce([r[i] for r in records])) for i, m in enumerate(self.target.metrics))

    def _highest(self, records: Sequence[Any]) -> tuple[float | None, ...]:
        """Data-set-level metrics are reduced a thousand times for it: only if it decides."""
        floats, places = self._records(self._float, "float"), tuple(range(len(records)))
        found: list[float | None] = []
        for i, metric in enumerate(self.target.metrics):
            if self.target.confidence is None and not metric.scored_alone:
                found.append(None)
                continue
            before, after = (Evaluation(metric, 0.0, tuple(r[i] for r in m), places) for m in (floats, records))
            highest = highest_drop(before, after, self.target.level)
            found.append(1e300 if math.isnan(highest) else highest)
        return tuple(found)

    def _expected(self, records: Sequence[Any]) -> tuple[float | None, ...]:
        """The expected drop of metrics by which samples are right or wrong, where models return scores of classes."""
        floats, places = self._records(self._float, "float"), tuple(range(len(records)))
        kept = [r[-1] for r in records]
        known = [r[-1] for r in floats]
        lacks = self.target.confidence is not None or any(k is None for k in (*kept, *known))
        return tuple(
            None
            if lacks or right_or_wrong(Evaluation(m, 0.0, tuple(r[i] for r in floats), places)) is None
            else self._expected_drop(m, known, kept)
            for i, m in enumerate(self.target.metrics)
        )

    def _expected_drop(self, metric: Metric, floats: Sequence[Any], found: Sequence[Any]) -> float | None:
        before, after = ([{self._outputs[0]: scores} for scores, _ in model] for model in (floats, found))
        annotations = before if metric.reference else [annotation for _, annotation in floats]
        drawn = expected_records(metric, before, after, annotations)
        if drawn is None:
            return None
        pairs = zip(before, annotations, strict=True)
        lost = metric.reduce([metric.score(o, a) for o, a in pairs]) - metric.reduce(drawn)
        return float(lost if metric.higher_is_better else -lost)

    def _score_keys(self, name: str) -> list[str]:
        """One for each shard. ``name``: of the model."""
        names = _hash(" ".join(m.name for m in self.target.metrics))
        return [f"score {names} {name} {start}" for start in range(0, len(self._data), SHARD)]

    def _records(self, model: Executable, name: str) -> list[Any]:
        """By sample, a record of each metric, and scores of classes with the annotation where these are kept, else None."""
        total = len(self._data)
        is_few = total <= MOST and any(m.scored_alone for m in self.target.metrics)
        starts = range(0, total, SHARD)
        metrics = self.target.metrics
        reference = any(m.reference for m in metrics)

        def task(number: int) -> Task:
            start = starts[number]
            samples = tuple(self._data.sample(i) for i in range(start, min(start + SHARD, total)))
            models = (model, self._float) if reference else (model,)
            return RunTask(models, self._outputs, samples, start, "the evaluation data")

        def scored(number: int, found: Any) -> Any:
            return [
                [*(self._score(m, starts[number] + i, entry) for m in metrics), _kept(entry) if is_few else None]
                for i, entry in enumerate(found)
            ]

        keys = self._score_keys(name)
        shards = self._noted(keys, task, scored, total * (2 if reference else 1))
        return [record for shard in shards for record in shard]

    @staticmethod
    def _score(metric: Any, index: int, entry: tuple[Any, tuple[Any, ...]]) -> Any:
        annotation, outputs = entry
        annotation = outputs[-1] if metric.reference else annotation
        if annotation is None:
            message = f"the metric `{metric.name}` compares with annotations, and sample {index} has none"
            help_ = "give labels, or a metric that compares with the float model: sqnr"
            raise reject("no-annotation", message, help=help_)
        try:
            return metric.score(outputs[0], annotation)
        except Exception as error:  # a metric may be the user's: whatever it raises is told with the sample
            message = f"the metric `{metric.name}` failed on sample {index}: {type(error).__name__}: "
            raise reject("metric-failed", message + first_line(error)) from error

    # ------------------------------------------------------------------------------------------ tasks

    def _noted(
        self,
        keys: Sequence[str],
        task: Callable[[int], Task],
        value: Callable[[int, Any], Any],
        samples: int,
    ) -> Iterator[Any]:
        """The values of all keys, in order. Those that are not noted are computed: ``task`` by index, then ``value`` of index
        and result. ``samples``: how many are run in all, if nothing is noted."""
        missing = [i for i, key in enumerate(keys) if key not in self._notes and key not in self._unnoted]
        done = len(keys) - len(missing)
        for number, result in self._executor.map(task(i) for i in missing):
            index = missing[number]
            found = value(index, result)
            try:
                self._notes.put(keys[index], encoded(found))
            except TypeError:
                self._unnoted[keys[index]] = found
            done += 1
            self._trace.progress(done, len(keys))
        self.samples_run += round(samples * len(missing) / max(len(keys), 1))
        return (self._unnoted[key] if key in self._unnoted else decoded(self._notes.get(key)) for key in keys)


def _kept(entry: tuple[Any, tuple[Any, ...]]) -> tuple[np.ndarray, Any] | None:
    """What tells how errors would do to other samples: float32 scores of one output, and a small annotation."""
    annotation, outputs = entry
    if scores_in(outputs[0]) is None or not (annotation is None or np.asarray(annotation).size == 1):
        return None
    (scores,) = outputs[0].values()
    return scores, annotation


def _observing_all(plan: Plan) -> Plan:
    """The plan with a range for each tensor: which ones a variant needs is not known yet."""
    quantizers = tuple(replace(q, observed=q.tensors) for q in plan.quantizers)
    return replace(plan.filled(), quantizers=quantizers)


def _lacking(found: Ranges, wanted: Ranges, plan: Plan, tuning: Tuning) -> list[Any]:
    lacking: list[Any] = [t for t in wanted.by_tensor if t not in found.by_tensor]
    lacking += [c for c in wanted.by_channel if c not in found.by_channel]
    if tuning.bias.method != "none":
        lacking += [c.seen for c in plan.filled().corrections if c.seen not in found.means]
    return lacking


def _noise(wanted: Iterable[Any], found: Iterable[Any]) -> float:
    """The mean of noise / signal over all float outputs that have a signal."""
    ratios: dict[str, Sqnr] = {}
    for (_, (a, *_)), (_, (b, *_)) in zip(wanted, found, strict=True):
        for name, value in a.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size:
                ratios.setdefault(name, Sqnr()).add(value, b[name])
    parts = [min(r.noise / r.signal, WORST) if r.noise != np.inf else WORST for r in ratios.values() if r.signal > 0]
    return sum(parts) / len(parts) if parts else 0.0


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
