"""Metric of segmentation: each pixel has a class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from potc.evaluate.metrics.metric import Metric, Outputs, Record, output_of


def miou(classes: int | None = None, ignore: int | None = None, axis: int = 1, output: str | None = None) -> Metric:
    """Mean over classes of intersection / union of all pixels of all samples (Jaccard index, PASCAL VOC).

    The output is a score for each class along ``axis`` (batch axis included), or, if it is of integers, the class itself; then
    ``classes`` must be given. Annotations are integers, as many as pixels. Pixels annotated ``ignore`` do not count. Classes
    that neither occur nor are predicted do not count.
    """

    def score(outputs: Outputs, annotation: Any) -> Record:
        found = output_of(outputs, output)
        count = classes
        if found.dtype.kind == "f":
            count = classes or found.shape[axis]
            found = found.argmax(axis)
        if count is None:
            raise ValueError("the output holds classes, and their number is not given: classes=N")
        labels, found = np.asarray(annotation).reshape(-1).astype(np.int64), found.reshape(-1).astype(np.int64)
        if labels.size != found.size:
            raise ValueError(f"{found.size} pixels in the output, {labels.size} in the annotation")
        if ignore is not None:
            labels, found = labels[labels != ignore], found[labels != ignore]
        for name, values in (("annotation", labels), ("output", found)):
            if values.size and not 0 <= values.min() <= values.max() < count:
                raise ValueError(f"class {values.min()} to {values.max()} in the {name}, and there are {count} classes")
        both = np.bincount(labels[labels == found], minlength=count)
        return both, np.bincount(labels, minlength=count) + np.bincount(found, minlength=count) - both

    def reduce(records: Sequence[Record]) -> float:
        both, either = (np.sum([r[i] for r in records], 0) for i in (0, 1))
        return float((both[either > 0] / either[either > 0]).mean())

    return Metric("miou", score, reduce)
