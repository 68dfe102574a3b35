"""What a compiled model's errors would do to other samples: a steadier estimate of a loss than the samples' own answers.

Few samples have answers that a small error can turn, and whether these get better or worse is chance: of 200, an error that costs
1.5 points on average may cost nothing. But the error of a sample could as well have met another one like it. So errors are
exchanged among samples of which the float model is about as sure, by how far its best guess is ahead of the second one, and the
metric is averaged over many such pairs. Errors depend on where in the ranking an output stands (what saturates is the largest),
so they move from rank to rank: the error of one sample's best guess to another one's best guess.

This is the mean of a U-statistic (Hoeffding 1948), if errors depend on the sample through these two things only. On digits and
ImageNet pictures it has no visible bias, and half to three quarters of the error of the samples' own answers (decision 0055).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from potc.evaluate.metrics.metric import Metric, Outputs, Record

PARTNERS = 24  # samples, of which the model is about as sure, whose errors each sample gets
MOST = 1000  # samples: with more, their own answers are steady enough


def scores_in(outputs: Outputs) -> np.ndarray | None:
    """Float scores of classes [C] if that is all that a model returns for a sample, C from 2 to 100,000; else None."""
    if len(outputs) != 1:
        return None
    (values,) = outputs.values()
    is_row = values.dtype.kind == "f" and 2 <= values.size == values.shape[-1] <= 100_000 if values.ndim else False
    return values.reshape(-1) if is_row and np.isfinite(values).all() else None


def expected_records(
    metric: Metric, floats: Sequence[Outputs], found: Sequence[Outputs], annotations: Sequence[Any]
) -> list[Record] | None:
    """Records of the metric for each sample with the errors of up to ``PARTNERS`` others; None where the outputs are no scores of
    classes. Raises what the metric raises."""
    before = [scores_in(o) for o in floats]
    after = [scores_in(o) for o in found]
    sizes = {None if v is None else v.size for v in (*before, *after)}
    count = len(before)
    if len(sizes) != 1 or None in sizes or count < 2:
        return None
    (name,) = floats[0]
    scores = np.stack([v for v in before if v is not None])
    order = np.argsort(-scores, axis=1, kind="stable")
    errors = np.take_along_axis(np.stack([v for v in after if v is not None]) - scores, order, axis=1)
    ranked = np.take_along_axis(scores, order, axis=1)
    sureness = np.argsort(ranked[:, 0] - ranked[:, 1], kind="stable")
    others = min(PARTNERS, count - 1)
    places = np.arange(count)
    first = np.clip(places - others // 2, 0, count - 1 - others)  # of the neighbours in this order, itself among them
    records: list[Record] = []
    for step in range(others):
        partner = first + step + (first + step >= places)
        source = np.empty(count, np.int64)
        source[sureness] = sureness[partner]
        moved = np.empty_like(scores)
        np.put_along_axis(moved, order, ranked + errors[source], axis=1)
        for row, outputs, annotation in zip(moved, floats, annotations, strict=True):
            records.append(metric.score({name: row.reshape(outputs[name].shape)}, annotation))
    return records
