"""What looks doubtful about samples and ranges: warnings for the owner of a model, each with a reason to look.

The thresholds were set on twelve models with labelled data: with samples as the models take them nothing is told, with
pictures that were not scaled, scaled twice or all alike nearly always something. docs/reference/data.md lists for users what is
told and what can't be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from potc.quantize.estimators import growth
from potc.quantize.numbers import QuantParams
from potc.quantize.params import Params
from potc.quantize.plan import Plan
from potc.quantize.ranges import Ranges
from potc.quantize.scale import ROUNDING, SMALLEST_SCALE
from potc.quantize.seen import Input, Seen
from potc.quantize.statistic import MAX, MIN, Statistic

FEW = 4  # samples: with less, what they do not show is guessed
GROWING = 0.1  # by so much of its range does a tensor grow, on average, when samples are doubled
ALONE = 3.0  # one sample makes a range so many times as wide as all others together
ENOUGH = 8  # samples from which one may stand out
ALIKE = 20  # samples whose largest result lies at one place
CLASSES = 3  # results, at least, for that to mean something
PICTURE = 4  # axes of a batch of pictures
UNSCALED = 64.0  # the first tensors behind pictures of 0 to 255 that a model does not expect become larger than this
FAINT = 1 / 128  # pictures that were divided by 255 twice stay below it
CUT_OFF = 0.01  # share of a tensor's values that lies outside of its range
FAR = 8.0  # the largest value is so many times the quantile that leaves 0.01 % outside
STEPS = 16  # codes that a tensor takes at least, if anything of it is to be left
FIRST = 3  # tensors that are looked at behind the inputs


def doubts(plan: Plan, ranges: Ranges, params: Params) -> Iterator[str]:
    """Sentences without a final period. ``params``: what became of the ranges."""
    statistics = {t: ranges.by_tensor[t] for t in plan.stored if t in ranges.by_tensor}
    samples = max((s.samples for s in statistics.values()), default=0)
    unseen = [t for t, s in statistics.items() if not s.samples]
    if unseen:
        yield f"no sample reached {_listed(unseen)}: what is not seen has no range, so it gets that of 0 to 1"
    if faint := faint_tensors(plan, ranges, params):
        yield f"{_listed(faint)} stays so close to 0 that its codes are 0, or nearly so: no scale is smaller than 2**-63"
    if ranges.generated or not samples:
        return
    seen = {t: s for t, s in statistics.items() if s.samples}
    yield from _samples(seen, ranges.seen, samples)
    yield from _inputs(seen, ranges.seen)
    yield from _outputs(ranges.seen)
    yield from _tensors(plan, seen, ranges.seen, params.activations)


def faint_tensors(plan: Plan, ranges: Ranges, params: Params) -> list[str]:
    """Tensors that hold something else than 0, of which the smallest possible scale leaves next to nothing."""
    found: list[str] = []
    for quantizer in plan.quantizers:
        scale = params.activations[quantizer.id].scale
        for tensor in quantizer.observed:
            statistic = ranges.by_tensor.get(tensor)
            reach = max(-statistic.min, statistic.max) if statistic is not None and statistic.samples else 0.0
            if _smallest(scale) and 0 < reach < STEPS * float(scale.max()):
                found.append(tensor)
    for index, (constant, numbers) in enumerate(zip(plan.constants, params.constants, strict=True)):
        # A tensor of zeros has a scale like any other.
        if not constant.factors and numbers.qtype.symmetric and _smallest(numbers.scale):
            codes = params.codes[index]  # which may lie in a file
            if max(float(codes.max(initial=0)), -float(codes.min(initial=0))) < STEPS:
                found.append(constant.tensor)
    return found


def resolved(plan: Plan, ranges: Ranges, params: Params) -> dict[str, float]:
    """What one code more or less means, by stored tensor that takes many codes. Of none where one sample alone makes ranges:
    that others are off by less than a code then says nothing."""
    if next(lone_samples(ranges.by_tensor), ""):
        return {}
    steps = {t: float(params.activations[q.id].scale.max()) for q in plan.quantizers for t in q.tensors}
    seen = {t: ranges.by_tensor[t] for t in steps if t in ranges.by_tensor}
    return {t: steps[t] for t, s in seen.items() if s.samples and max(-s.min, s.max) >= STEPS * steps[t]}


def _smallest(scale: np.ndarray) -> bool:
    return bool(scale.max(initial=0.0) <= SMALLEST_SCALE * (1 + ROUNDING))


def _samples(seen: dict[str, Statistic], ends: Seen, samples: int) -> Iterator[str]:
    if samples < FEW:
        yield f"{samples} sample{'s' if samples > 1 else ''} only: values that others would show are cut off"
    if samples > 1 and ends.inputs and all(len(i.different) == 1 for i in ends.inputs.values()):
        yield f"all {samples} samples are equal"
        return
    growths = [g for s in seen.values() if (g := _growth(s)) is not None]
    if samples >= FEW and growths and (mean := sum(growths) / len(growths)) > GROWING:
        text = f"half of the {samples} samples show ranges that are {100 * mean:.0f} % narrower on average"
        yield f"{text}: ranges still grow, give more samples"


def _growth(statistic: Statistic) -> float | None:
    """By which share of its width a range grew with the second half of the samples."""
    width = _width(statistic.min, statistic.max)
    if not width or MAX not in statistic.rows:
        return None
    low, high = -statistic.rows[MIN][::-1], statistic.rows[MAX]
    return (growth(high) + growth(low)) / width


def _width(low: float, high: float) -> float:
    return max(high, 0.0) - min(low, 0.0)


def _inputs(seen: dict[str, Statistic], ends: Seen) -> Iterator[str]:
    behind = [s for t, s in seen.items() if t not in ends.inputs][:FIRST]
    largest = max((max(-s.min, s.max) for s in behind), default=0.0)
    for name, given in ends.inputs.items():
        if not given.floating or given.rank < PICTURE:
            continue
        if given.whole and given.low >= 0 and 2 <= given.high <= 255 and largest > UNSCALED:
            yield (
                f"`{name}` holds whole numbers from {given.low:g} to {given.high:g}, and the first results reach {largest:.3g}:"
                " check whether the model expects scaled pictures"
            )
        elif 0 < max(-given.low, given.high) <= FAINT:
            yield f"`{name}` stays within {_reach(given):.2g} of 0: check whether the pictures were scaled twice"


def _reach(given: Input) -> float:
    return max(-given.low, given.high)


def _outputs(ends: Seen) -> Iterator[str]:
    varied = any(len(i.different) > 1 for i in ends.inputs.values())
    for name, found in ends.outputs.items():
        if found.samples > 1 and varied and len(found.different) == 1:
            yield f"the float model's output `{name}` is the same for all samples: check their preprocessing"
        elif found.samples >= ALIKE and found.elements >= CLASSES and len(found.tops) == 1 and varied:
            yield (
                f"`{name}` of the float model is largest at place {found.tops[0]} of {found.elements} in all"
                f" {found.samples} samples: if these are classes, check the preprocessing, or give samples of all classes"
            )


def _tensors(plan: Plan, seen: dict[str, Statistic], ends: Seen, activations: Sequence[QuantParams]) -> Iterator[str]:
    constant = [t for t, s in seen.items() if s.samples > 1 and s.min == s.max and t not in ends.inputs]
    if constant:
        yield f"{_listed(constant)} never changed in any sample"
    yield from lone_samples(seen)
    far = [(r, t) for t, s in seen.items() if (r := _far(s)) > FAR]
    if far:
        yield f"the largest value of {_listed([t for _, t in far])} is up to {max(far)[0]:.3g} times its 99.99 % quantile"
    cut = [(c, t) for t, s in seen.items() if (c := _cut_off(plan, t, s, activations)) > CUT_OFF]
    if cut:
        share, tensor = max(cut)
        yield f"{100 * share:.1f} % of the values of `{tensor}` lie outside of its range ({len(cut)} tensors above 1 %)"


def lone_samples(seen: Mapping[str, Statistic]) -> Iterator[str]:
    """What is to be told where one sample decides how wide ranges are."""
    alone = [(r, t) for t, s in seen.items() if (r := _alone(s)) > ALONE]
    if alone:
        ratio, tensor = max(alone)
        yield (
            f"one sample alone makes the range of {_listed([t for _, t in alone])} up to {ratio:.3g} times as wide"
            f" (`{tensor}`): leave it out, or try --range-estimator percentile"
        )


def _alone(statistic: Statistic) -> float:
    """How many times wider a range is than it would be without its most extreme sample."""
    if statistic.samples < ENOUGH or MAX not in statistic.rows:
        return 1.0
    rest = _width(float(statistic.rows[MIN][1]), float(statistic.rows[MAX][-2]))
    return _width(statistic.min, statistic.max) / rest if rest else 1.0


def _far(statistic: Statistic) -> float:
    if statistic.histogram is None:
        return 1.0
    usual = _width(statistic.histogram.quantile(1e-4), statistic.histogram.quantile(1 - 1e-4))
    return _width(statistic.min, statistic.max) / usual if usual else 1.0


def _cut_off(plan: Plan, tensor: str, statistic: Statistic, activations: Sequence[QuantParams]) -> float:
    if statistic.histogram is None:
        return 0.0
    for quantizer in plan.quantizers:
        if tensor in quantizer.observed and activations[quantizer.id].scale.ndim == 0:
            return statistic.histogram.outside(*_covered(activations[quantizer.id]))
    return 0.0


def _covered(params: QuantParams) -> tuple[float, float]:
    """The values for which the lowest and the highest code stand."""
    scale, zero_point = float(params.scale), float(params.zero_point)
    return scale * (params.qtype.low - zero_point), scale * (params.qtype.high - zero_point)


def _listed(names: Sequence[str]) -> str:
    first = ", ".join(f"`{n}`" for n in names[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more tensors"
