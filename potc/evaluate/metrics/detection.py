"""Metric of object detection, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from potc.data.objects import Objects
from potc.diagnostics.diagnostic import reject
from potc.evaluate.metrics.metric import Metric, Outputs, Record, output_of


def mean_average_precision(
    iou: float | None = None,
    boxes: str | None = None,
    scores: str | None = None,
    classes: str | None = None,
    form: str = "xyxy",
    shares: bool = False,
) -> Metric:
    """Mean average precision as COCO has it: over IoU 0.5 to 0.95 in steps of 0.05, or at ``iou`` alone; 101 recall points, at
    most 100 boxes a picture.

    ``boxes`` [n, 4], ``scores`` [n] and ``classes`` [n] name outputs (a batch axis of 1 is allowed); by default the first three,
    and all boxes are of class 0 where there are two. ``form``: "xyxy" corners or "xywh" corner and size. ``shares``: of the
    picture's width and height, else pixels of the stored picture. Annotations are ``Objects``. Raises Rejected(missing-package).
    """
    if form not in ("xyxy", "xywh"):
        raise ValueError(f"form is {form!r}, wanted xyxy or xywh")
    _pycocotools()

    def score(outputs: Outputs, annotation: Objects) -> Record:
        names = [*outputs, None, None][:3]
        found = output_of(outputs, boxes or names[0]).reshape(-1, 4).astype(np.float64)
        values = output_of(outputs, scores or names[1]).reshape(-1).astype(np.float64)
        kind = classes or names[2]
        kinds = (
            np.zeros(len(found), np.int64) if kind is None else output_of(outputs, kind).reshape(-1).astype(np.int64)
        )
        if not len(found) == len(values) == len(kinds):
            raise ValueError(f"{len(found)} boxes, {len(values)} scores, {len(kinds)} classes")
        if shares:
            found = found * np.array([*annotation.size, *annotation.size], np.float64)
        if form == "xyxy":
            found = np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], 1)
        return found, values, kinds, annotation

    def reduce(records: Sequence[Record]) -> float:
        return _evaluated(records, iou)

    return Metric("map", score, reduce)


def _pycocotools() -> Any:
    try:
        from pycocotools import coco, cocoeval  # an extra: pip install potc[detection]
    except ImportError as error:
        help_ = "install it: pip install 'potc[detection]'"
        raise reject("missing-package", "the metric `map` needs pycocotools", help=help_, exit_code=2) from error
    return coco, cocoeval


def _evaluated(records: Sequence[Record], iou: float | None) -> float:
    coco, cocoeval = _pycocotools()
    truth, found = _annotations(records)
    if not truth:
        raise ValueError("no picture has an object")
    images = [{"id": i} for i in range(1, len(records) + 1)]
    categories = [{"id": c} for c in sorted({t["category_id"] for t in truth})]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        known, seen = coco.COCO(), coco.COCO()
        known.dataset = {"images": images, "categories": categories, "annotations": truth}
        seen.dataset = {"images": images, "categories": categories, "annotations": found}
        known.createIndex()
        seen.createIndex()
        evaluator = cocoeval.COCOeval(known, seen, "bbox")
        if iou is not None:
            evaluator.params.iouThrs = np.array([iou])
        evaluator.params.areaRng, evaluator.params.areaRngLbl = evaluator.params.areaRng[:1], ["all"]
        evaluator.params.maxDets = [100]
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"]
    return float(precision[precision > -1].mean())


def _annotations(records: Sequence[Record]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is there and what was found, numbered from 1: pycocotools takes 0 for none."""
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image, (boxes, scores, kinds, objects) in enumerate(records, 1):
        for (x0, y0, x1, y1), kind, crowd in zip(objects.boxes, objects.classes, objects.crowd, strict=True):
            box = [float(v) for v in (x0, y0, x1 - x0, y1 - y0)]
            common = {"id": len(truth) + 1, "image_id": image, "bbox": box, "area": box[2] * box[3]}
            truth.append({**common, "category_id": int(kind), "iscrowd": int(crowd)})
        for box, score, kind in zip(boxes.tolist(), scores.tolist(), kinds.tolist(), strict=True):
            common = {"id": len(found) + 1, "image_id": image, "bbox": box, "area": box[2] * box[3]}
            found.append({**common, "category_id": kind, "score": score, "iscrowd": 0})
    return truth, found
