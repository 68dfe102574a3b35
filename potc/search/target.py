"""What is asked for: how much of each metric may be lost, and how much work may be done to find out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from potc.evaluate.metrics.metric import Metric

EVALUATIONS = 8
RANKING_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Target:
    """``max_drop``: as written, so that 0.005 is that number and not its neighbour in binary. ``relative``: a share of the float
    model's value. Each of ``metrics`` must keep it.

    ``evaluations``: of compiled models over all evaluation samples, at most. ``ranking_samples``: calibration samples on which
    noise is measured. ``tune``: settings of ranges and biases are tried first, as ``--preset auto`` does.
    ``raise_precision``: more precise types that the rules allow are tried before float.
    """

    metrics: tuple[Metric, ...]
    max_drop: str = "0.01"
    relative: bool = False
    evaluations: int = EVALUATIONS
    ranking_samples: int = RANKING_SAMPLES
    tune: bool = False
    raise_precision: bool = True

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

    def is_met(self, before: Sequence[float], after: Sequence[float]) -> bool:
        """True if no metric loses more than is allowed; a loss of exactly that much is allowed."""
        return all(d <= a for d, a in zip(self.drops(before, after), self.allowed(before), strict=True))

    def excess(self, before: Sequence[float], after: Sequence[float]) -> float:
        """The largest loss, in units of what is allowed: at most 1 where the target is met. Where nothing may be lost, 1 plus
        the loss."""
        pairs = zip(self.drops(before, after), self.allowed(before), strict=True)
        return max(float(d / a) if a else float(1 + d) if d > 0 else float(d) for d, a in pairs)


def _exact(value: float) -> Fraction:
    """The shortest decimal number that means this float. NaN and infinity have none: they count as a loss of everything."""
    return Fraction(repr(value))
