"""The search itself: a few full evaluations find the fastest plan that keeps the target.

1. Everything in integers, as the rules say. If that keeps the target, it is the answer.
2. With ``tune``: the settings of ``--preset auto``, if labels agree that they are better.
3. Each source of noise is measured alone, on calibration samples: no evaluation sample is used for ranking. This makes a path
   of moves (``moves``), from everything in integers to everything in float.
4. Evaluations halve the stretch of the path on which the first point lies that keeps the target: where to look next is
   said by the noise that is left, not by the number of moves. Where samples are right or wrong, a point must keep the target
   with the errors of its samples exchanged as well (``potc.evaluate.exchange``): few samples may keep it by luck.
5. Moves of the found point that may have been in vain are taken back, one by one.

The best candidate so far is handed out whenever there is a better one, so a search can be stopped at any moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from potc.compiler import Trace
from potc.quantize.plan import Plan
from potc.quantize.tuning import Tuning
from potc.search.bench import Bench, Candidate
from potc.search.moves import Move, Noise, left_after, path
from potc.search.sources import NoiseSource, kernels_of
from potc.search.variant import Variant

NEGLIGIBLE = 1e-12  # noise-to-signal ratio: -120 dB
MINOR = 0.05  # of the noise that a move removes: what may come back without being missed
POWER = 2.0  # answers change with the amplitude of noise, which is the root of its power


@dataclass(frozen=True, slots=True)
class Worst:
    """A source of noise that the answer is rid of, or would have to be if no answer keeps the target: its key, and the nodes to
    give up for it."""

    key: str
    noise: float
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """``candidates``: all that were evaluated, in order; ``best``: the index of the answer. ``before``: values of the float
    model. ``tuning``: the settings of the answer. ``path``: points of the path by noise that is left."""

    before: tuple[float, ...]
    candidates: tuple[Candidate, ...]
    best: int
    tuning: Tuning
    worst: tuple[Worst, ...]
    evaluations: int
    ranked: int

    @property
    def answer(self) -> Candidate:
        return self.candidates[self.best]

    @property
    def met(self) -> bool:
        return self.answer.met


Keep = Callable[[Candidate, bytes], None]


def search(bench: Bench, trace: Trace, keep: Keep, tunings: Callable[[], Sequence[Tuning]] = tuple) -> Found:
    """Runs the search. ``keep``: called with each candidate that is the best so far, and its bytes; ``tunings``: other settings to
    try, asked for only if they are needed. Deterministic. Raises Rejected as a compile does."""
    return _Search(bench, trace, keep).run(tunings)


class _Search:
    def __init__(self, bench: Bench, trace: Trace, keep: Keep) -> None:
        self._bench, self._trace, self._keep = bench, trace, keep
        self._target = bench.target
        self._tuning = bench.matched.job.tuning
        self._candidates: list[Candidate] = []
        self._tunings: list[Tuning] = []
        self._known: dict[tuple[Variant, Tuning], Candidate] = {}
        self._best: int | None = None
        self._before: tuple[float, ...] = ()
        self._constants: dict[int, float] = {}  # noise of the constants of a kernel, by index

    def run(self, tunings: Callable[[], Sequence[Tuning]]) -> Found:
        self._trace.stage("evaluating the float model")
        self._before = self._bench.float_values()
        start = self._evaluate(Variant())
        if not start.sure and self._target.tune:
            start = self._tuned(start, tunings())
        sources: tuple[NoiseSource, ...] = ()
        moves: list[Move] = []
        everything = self._bench.of(Variant())
        plan = everything.after(self._bench.ranges(everything.plan, self._tuning)).plan
        if not start.sure:
            sources = self._bench.sources(plan)
            noise = self._measured(sources, plan)
            times = self._bench.costs.times(plan, kernels_of(plan))
            found = path(sources, noise, times, self._target.raise_precision)
            moves = self._fewest(found, sources, noise, plan, start)
        assert self._best is not None
        worst = tuple(_worst(m, sources, plan) for m in moves if m.kernels)
        return Found(
            self._before,
            tuple(self._candidates),
            self._best,
            self._tunings[self._best],
            worst,
            self._bench.evaluations,
            len(sources),
        )

    # ------------------------------------------------------------------------------------------ evaluations

    @property
    def _left(self) -> int:
        return self._target.evaluations - len(self._candidates)

    def _evaluate(self, variant: Variant) -> Candidate:
        key = (variant, self._tuning)
        if key in self._known:
            return self._known[key]
        number = len(self._candidates) + 1
        self._trace.stage(f"evaluation {number} of at most {self._target.evaluations}: {_words(variant)}")
        candidate, compiled = self._bench.evaluate(variant, self._tuning, self._before)
        self._known[key] = candidate
        self._candidates.append(candidate)
        self._tunings.append(self._tuning)
        best = None if self._best is None else self._candidates[self._best]
        if best is None or rank(candidate) < rank(best):
            self._best = len(self._candidates) - 1
            self._keep(candidate, compiled)
        return candidate

    def _tuned(self, start: Candidate, tunings: Sequence[Tuning]) -> Candidate:
        """The best of some settings, by full evaluations; half of them are left for the search."""
        best, kept = start, self._tuning
        for tuning in tunings:
            if self._left <= self._target.evaluations // 2 or best.sure:
                break
            self._tuning = tuning
            candidate = self._evaluate(Variant())
            if rank(candidate) < rank(best):
                best, kept = candidate, tuning
        self._tuning = kept
        return best

    # ------------------------------------------------------------------------------------------ the path

    def _measured(self, sources: Sequence[NoiseSource], plan: Plan) -> dict[str, Noise]:
        self._trace.stage(f"measuring the noise of {len(sources)} sources")
        plain = self._bench.noise(sources, plan, self._tuning, raised=False)
        raisable = [s for s in sources if s.raisable] if self._target.raise_precision else []
        raised: dict[str, float] = {}
        if raisable:
            self._trace.stage(f"measuring the noise of {len(raisable)} sources in more precise types")
            found = self._bench.noise(raisable, plan, self._tuning, raised=True)
            raised = {s.key: n for s, n in zip(raisable, found, strict=True)}
        pairs = zip(sources, plain, strict=True)
        self._constants = {k: n for s, n in pairs if s.quantizer is None for k in s.cure}
        return {s.key: Noise(n, raised.get(s.key)) for s, n in zip(sources, plain, strict=True)}

    def _fewest(
        self,
        moves: Sequence[Move],
        sources: Sequence[NoiseSource],
        noise: dict[str, Noise],
        plan: Plan,
        start: Candidate,
    ) -> list[Move]:
        """The first moves of the path that keep the target, without those that prove to be in vain."""
        left = [left_after(sources, noise, moves[:i]) for i in range(len(moves) + 1)]
        low, high = 0, len(moves)  # low fails; high is float, or was seen to keep the target
        excess = {0: _missed(start)}
        while high - low > 1 and self._left > 0:
            point = _next(left, low, high, excess, len(moves), self._left)
            candidate = self._evaluate(self._variant(moves[:point], plan, sources))
            excess[point] = _missed(candidate)
            if candidate.sure:
                high = point
            else:
                low = point
        kept = list(moves[:high])
        if high == len(moves) and high not in excess and self._left > 0:
            self._evaluate(self._variant(kept, plan, sources))
        return self._taken_back(kept, sources, noise, plan, left[low])

    def _taken_back(
        self, moves: list[Move], sources: Sequence[NoiseSource], noise: dict[str, Noise], plan: Plan, failing: float
    ) -> list[Move]:
        """Without moves whose noise can be borne. Those that bring back as much as a point that failed are not tried."""
        for move in sorted(moves[:-1], key=lambda m: m.removed / max(m.cost, NEGLIGIBLE)):
            rest = [m for m in moves if m is not move]
            if self._left <= 0 or left_after(sources, noise, rest) >= failing:
                continue
            if self._evaluate(self._variant(rest, plan, sources)).sure:
                moves = rest
        return moves

    def _variant(self, moves: Sequence[Move], plan: Plan, sources: Sequence[NoiseSource]) -> Variant:
        """What the moves hold, without kernels that need not be given up: a tensor that is not stored once its readers are
        in float does not need its maker in float too."""
        by_key = {s.key: s for s in sources}
        given = frozenset(k for m in moves for k in m.kernels)
        raised = frozenset(key for m in moves if m.raised for key in by_key[m.raised].raised)
        cured = frozenset(t for s in sources if s.quantizer is not None and s.cure <= given for t in s.raised)
        variant = Variant(_nodes(plan, given), raised)
        for kernel in sorted(k for m in moves if len(m.kernels) > 1 for k in m.kernels):
            if self._constants.get(kernel, 0.0) > MINOR * max(m.removed for m in moves if kernel in m.kernels):
                continue
            smaller = Variant(_nodes(plan, given - {kernel}), raised)
            kept = self._bench.sources(self._bench.of(smaller).plan)
            if cured.isdisjoint(t for s in kept if s.quantizer is not None for t in s.raised):
                given, variant = given - {kernel}, smaller
        return variant


def _next(left: Sequence[float], low: int, high: int, excess: dict[int, float], end: int, evaluations: int) -> int:
    """Where to look between two points. From the excess at a failing point the noise that could be borne is guessed, as long as
    no point is known to keep the target; then the noise between both is halved on a logarithmic scale."""
    middle = (low + high + 1) // 2
    if evaluations == 1 and high == end:
        return max(middle, min(high - 1, low + math.ceil(0.75 * (high - low))))
    floor = max(left[high], left[0] * NEGLIGIBLE, 1e-300)
    guessed, halved = left[low] / max(excess[low], 1.0 + 1e-9) ** POWER, math.sqrt(max(left[low], floor) * floor)
    bearable = guessed if high == end else halved
    point = next((i for i in range(low + 1, high) if left[i] <= bearable), high - 1)
    # A guess at one end of a long stretch may take many steps: never less than an eighth of it.
    step = max(1, (high - low) // 8)
    return min(max(point, low + step), high - step)


def _missed(candidate: Candidate) -> float:
    """By how much, as the samples themselves say it where they do."""
    return candidate.caution if candidate.met else candidate.excess


def rank(candidate: Candidate) -> tuple[float, float, float]:
    """What keeps the target and is expected to do so elsewhere first, of these the fastest; then what keeps it here, the one that
    is expected to come closest elsewhere; of others the closest."""
    if candidate.sure:
        return 0.0, -candidate.speedup, candidate.excess
    if candidate.met:
        return 1.0, candidate.caution, -candidate.speedup
    return 2.0, candidate.excess, -candidate.speedup


def _nodes(plan: Plan, kernels: frozenset[int]) -> frozenset[str]:
    return frozenset(name for k in kernels for name in plan.kernels[k].nodes)


def _worst(move: Move, sources: Sequence[NoiseSource], plan: Plan) -> Worst:
    own = [s for s in sources if s.cure and s.cure <= move.kernels]
    key = own[0].key if own else ""
    return Worst(key, move.removed, tuple(sorted(_nodes(plan, move.kernels))))


def _words(variant: Variant) -> str:
    parts = []
    if variant.raised:
        parts.append(f"{len(variant.raised)} in more precise types")
    if variant.held:
        parts.append(f"{len(variant.held)} nodes in float")
    return ", ".join(parts) or "everything in integers"
