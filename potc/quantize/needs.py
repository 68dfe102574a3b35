"""What the chosen range estimator must see of each tensor: decided before any sample is run."""

from __future__ import annotations

from dataclasses import dataclass

from potc.language.program import Granularity
from potc.quantize.estimators import rows_for
from potc.quantize.plan import Plan
from potc.quantize.statistic import ABS_MAX, MAX, MIN
from potc.quantize.tuning import RangeSettings

EXTREMES = (MIN, MAX, ABS_MAX)


@dataclass(frozen=True, slots=True)
class Needs:
    """``quantiles``: names of the rows of quantiles by tensor; ``histograms``: tensors; ``channels``: names of all rows by tensor
    and channel axis. Of every observed tensor the extremes of each sample are kept as well.
    """

    quantiles: dict[str, tuple[str, ...]]
    histograms: frozenset[str]
    channels: dict[tuple[str, int], tuple[str, ...]]

    @property
    def fetched(self) -> tuple[str, ...]:
        """Tensors of which every value must be seen, sorted."""
        return tuple(sorted({*self.quantiles, *self.histograms, *(tensor for tensor, _ in self.channels)}))


def needs_of(plan: Plan, settings: RangeSettings) -> Needs:
    """The least that ``solve_activation`` can do with: minima and maxima only, for the default estimator."""
    quantiles: dict[str, set[str]] = {}
    histograms: set[str] = set()
    channels: dict[tuple[str, int], set[str]] = {}
    for quantizer in plan.quantizers:
        for qtype in quantizer.types:
            if qtype.granularity is Granularity.PER_TENSOR:
                rows = {r for r in rows_for(qtype, settings) if r not in EXTREMES}
                for tensor in quantizer.observed:
                    if settings.searches:
                        histograms.add(tensor)
                    elif rows:
                        quantiles.setdefault(tensor, set()).update(rows)
            elif qtype.granularity is Granularity.PER_CHANNEL and isinstance(qtype.axis, int):
                for tensor in quantizer.observed:
                    channels.setdefault((tensor, qtype.axis), set()).update(rows_for(qtype, settings))
    return Needs(
        {t: tuple(sorted(rows)) for t, rows in sorted(quantiles.items())},
        frozenset(histograms),
        {key: tuple(sorted(rows)) for key, rows in sorted(channels.items())},
    )
