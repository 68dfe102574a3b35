"""What is asked for: how much of each metric may be lost, and how much work may be done to find out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from potc.evaluate.confidence import LEVEL
from potc.evaluate.metrics.metric import Metric

Highest = Sequence[float | None]
EVALUATIONS = 8
RANKING_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Target:
    """``max_drop``: as written, so that 0.005 is that number and not its neighbour in binary. ``relative``: a share of the float
    model's value. Each of ``metrics`` must keep it.

    ``evaluations``: of compiled models over all evaluation samples, at most. ``ranking_samples``: calibration samples on which
    noise is measured. ``tune``: settings of ranges and biases are tried first, as ``--preset auto`` does.
    ``raise_precision``: more precise types that the rules allow are tried before float.

    ``confidence``: the drop must stay within the limit on any samples like the evaluation samples, with this probability; None:
    on the evaluation samples. It holds for all candidates at once, so that choosing among them flatters nobody.
    """

    metrics: tuple[Metric, ...]
    max_drop: str = "0.01"
    relative: bool = False
    evaluations: int = EVALUATIONS
    ranking_samples: int = RANKING_SAMPLES
    tune: bool = False
    raise_precision: bool = True
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence:g}, wanted a number between 0 and 1")

    @property
    def level(self) -> float:
        """The confidence with which each candidate's drop is bounded, so that all bounds hold together (Bonferroni)."""
        return 1 - (1 - (self.confidence or LEVEL)) / self.evaluations

    def drops(self, before: Sequence[float], after: Sequence[float]) -> tuple[Fraction, ...]:
        """What is lost of each metric; negative where something is won. Decimal numbers are compared as they print."""
        return tuple(
            _exact(b) - _exact(a) if m.higher_is_better else _exact(a) - _exact(b)
            for m, b, a in zip(self.metrics, before, after, strict=True)
        )

    def allowed(self, before: Sequence[float]) -> tuple[Fraction, ...]:
        """How much each metric may lose."""
        limit = Fraction(self.max_drop)
        return tuple(limit * abs(_exact(b)) if self.relative else limit for b in before)

    def is_met(self, before: Sequence[float], after: Sequence[float], highest: Highest = ()) -> bool:
        """True if no metric loses more than is allowed; a loss of exactly that much is allowed. ``highest``: bounds of the
        drops, which count in their place if there is a ``confidence``."""
        lost = self._lost(before, after, highest)
        return all(d <= a for d, a in zip(lost, self.allowed(before), strict=True))

    def excess(self, before: Sequence[float], after: Sequence[float], highest: Highest = ()) -> float:
        """The largest loss, in units of what is allowed: at most 1 where the target is met. Where nothing may be lost, 1 plus
        the loss."""
        pairs = zip(self._lost(before, after, highest), self.allowed(before), strict=True)
        return max(float(d / a) if a else float(1 + d) if d > 0 else float(d) for d, a in pairs)

    def expected_excess(self, before: Sequence[float], expected: Highest) -> float:
        """The same of expected drops, those that are known."""
        pairs = [(e, a) for e, a in zip(expected, self.allowed(before), strict=True) if e is not None]
        return max((e / float(a) if a else 1 + e if e > 0 else e for e, a in pairs), default=-math.inf)

    def _lost(self, before: Sequence[float], after: Sequence[float], highest: Highest) -> tuple[Fraction, ...]:
        drops = self.drops(before, after)
        if self.confidence is None:
            return drops
        return tuple(d if h is None else Fraction(h) for d, h in zip(drops, highest, strict=True))


def _exact(value: float) -> Fraction:
    """The shortest decimal number that means this float. NaN and infinity have none: they count as a loss of everything."""
    return Fraction(repr(value))
