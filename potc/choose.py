"""``--preset auto``: a few settings are tried, and the best is kept.

A quarter of the calibration samples is held back. Each setting is calibrated on the rest and judged on the quarter, without
labels, by how close the model's outputs come to the float model's. What a setting shares with another is done once: the rules
are matched once, float results are computed once, and settings that need the same statistics share one calibration. The model
that is kept is then made with all samples: its ranges are those of both parts, merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from potc.compiler import Compilation, Job, Matched, Trace, equalized, finish, match_model, observe, quantize, saturates
from potc.data.part import Part
from potc.diagnostics.diagnostic import Rejected, reject
from potc.evaluate.judge import Judge, Score
from potc.execute.float_runs import unloadable
from potc.execute.session import SessionError
from potc.quantize.needs import needs_of
from potc.quantize.ranges import Ranges, merge_ranges
from potc.quantize.tuning import EqualizeSettings, Tuning

HELD_BACK = 4  # of so many samples one is held back
MOST_HELD_BACK = 64  # more would only cost time
GAIN_DB = 0.1  # a setting must beat the best one by more: smaller differences are those of the samples
SLACK = 1.1  # and may not let outputs diverge by more than so many times as much

Change = Callable[[Tuning], Tuning]

# In this order, each on top of the best setting so far.
CHANGES: tuple[tuple[str, Change], ...] = (
    ("activations: least squared error", lambda t: replace(t, ranges=replace(t.ranges, estimator="mse"))),
    ("activations: percentiles", lambda t: replace(t, ranges=replace(t.ranges, estimator="percentile"))),
    ("activations: entropy", lambda t: replace(t, ranges=replace(t.ranges, estimator="entropy"))),
    ("weights: quantiles", lambda t: replace(t, ranges=replace(t.ranges, weight_estimator="quantile"))),
    ("biases: not corrected", lambda t: replace(t, bias=replace(t.bias, method="none"))),
    ("rounding: second moments", lambda t: replace(t, rounding=replace(t.rounding, method="gptq"))),
    ("channels: scaled across layers", lambda t: replace(t, equalize=replace(t.equalize, method="cross-layer"))),
    ("channels: smoothed", lambda t: replace(t, equalize=replace(t.equalize, method="smooth"))),
)
TRIES = 1 + len(CHANGES)


@dataclass(frozen=True, slots=True)
class Try:
    """One setting. ``changed``: what differs from what was asked for, by name; ``score``: None where the setting does not suit
    the model, with the reason in ``failed``."""

    changed: tuple[str, ...]
    tuning: Tuning
    score: Score | None
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """All settings that were tried, what was asked for first; ``best`` is the index of the one that was kept. ``calibrated`` and
    ``held_back``: numbers of samples. ``simulated``: judged in float arithmetic, not on this host's kernels."""

    tries: tuple[Try, ...]
    best: int
    calibrated: int
    held_back: int
    simulated: bool


def choose(job: Job, trace: Trace | None = None) -> tuple[Compilation, Choice]:
    """Compiles with the best of at most ``TRIES`` settings, ``job.tuning`` first. The same answer every time.

    Raises Rejected as ``compile_model`` does, and for fewer than two samples: none could be held back.
    """
    trace = trace or Trace()
    bench = _Bench(match_model(job, trace), trace)
    trace.stage(f"setting 1 of at most {TRIES}: as given")
    tries = [bench.attempt((), job.tuning, may_fail=False)]
    best = 0
    for number, (name, change) in enumerate(CHANGES, 2):
        tuning = change(tries[best].tuning)
        if tuning in (t.tuning for t in tries):
            continue
        trace.stage(f"setting {number} of at most {TRIES}: {name}")
        tries.append(bench.attempt(_changed(tries[best].changed, name), tuning, may_fail=True))
        if _is_better(tries[-1], tries[best]):
            best = len(tries) - 1
    choice = Choice(tuple(tries), best, len(bench.calibrating), len(bench.judging), bench.simulate)
    tuning = tries[best].tuning
    return finish(*bench.whole(tuning), tuning, trace), choice


def _changed(before: tuple[str, ...], name: str) -> tuple[str, ...]:
    """What differs now: of changes of one kind, the word before the colon, the last one holds."""
    kind = name.split(":")[0]
    return (*(other for other in before if other.split(":")[0] != kind), name)


def _is_better(other: Try, best: Try) -> bool:
    if other.score is None or best.score is None:
        return False
    gain = other.score.mean_db - best.score.mean_db
    return gain > GAIN_DB and other.score.divergence <= best.score.divergence * SLACK


class _Bench:
    """What all tries share."""

    def __init__(self, matched: Matched, trace: Trace) -> None:
        self._matched = matched
        self._trace = Trace(progress=trace.progress)
        total = len(matched.samples)
        if total < 2:
            message = "a setting is chosen on samples that were held back, and there is only one sample"
            raise reject("no-samples", message, help="give more samples, or another preset")
        back = [i for i in range(total) if i % HELD_BACK == HELD_BACK - 1][:MOST_HELD_BACK] or [total - 1]
        self.judging = Part(matched.samples, back)
        self.calibrating = Part(matched.samples, sorted(set(range(total)).difference(back)))
        self._held: dict[EqualizeSettings, Matched] = {}
        self.simulate = not saturates(matched.program)
        self._ranges: dict[str, Ranges] = {}
        try:
            self._judge = Judge(matched.model, self.judging, self.simulate)
        except SessionError as error:
            raise unloadable(error) from error

    def attempt(self, changed: tuple[str, ...], tuning: Tuning, may_fail: bool) -> Try:
        """``may_fail``: a setting that does not suit the model is told, not raised."""
        try:
            ranges = self._measured(self.calibrating, tuning)
            compiled = quantize(self._model(tuning), ranges, tuning, self._trace).compiled
            return Try(changed, tuning, self._judge.score(compiled))
        except (Rejected, SessionError) as error:
            if not may_fail:
                raise
            return Try(changed, tuning, None, str(error).splitlines()[0])

    def whole(self, tuning: Tuning) -> tuple[Matched, Ranges]:
        """The model and the ranges of all samples: what was measured already is not measured again."""
        matched = equalized(self._matched, tuning, self._trace)
        if all(m.prepared is self._matched.prepared for m in (matched, self._model(tuning))):
            parts = (self._measured(part, tuning) for part in (self.calibrating, self.judging))
            return self._matched, merge_ranges(*parts)
        return matched, observe(matched, matched.samples, tuning, self._trace)

    def _model(self, tuning: Tuning) -> Matched:
        """Scaled as a setting wants it, by the calibrating samples: nothing that a try does may see what judges it."""
        key = tuning.equalize
        if key not in self._held:
            self._held[key] = equalized(replace(self._matched, samples=self.calibrating), tuning, self._trace)
        return self._held[key]

    def _measured(self, part: Part, tuning: Tuning) -> Ranges:
        ranges = tuning.ranges
        if ranges.estimator == "max":  # a calibration for a search sees all that this needs as well
            ranges = replace(ranges, estimator="mse")
        matched = self._model(tuning)
        key = f"{id(part)} {tuning.bias.method == 'none'} {tuning.equalize} {needs_of(matched.plan, ranges)}"
        if key not in self._ranges:
            self._ranges[key] = observe(matched, part, replace(tuning, ranges=ranges), self._trace)
        return self._ranges[key]
