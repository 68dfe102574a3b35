"""Annotations in COCO's JSON format, with the folder of their pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from potc.data.objects import Objects
from potc.data.picture_lists import Pictures, beneath
from potc.data.tables import read_table
from potc.diagnostics.diagnostic import reject


def read_coco(path: str, images: str | None, gray: bool) -> Pictures:
    """The pictures of ``images`` (by default the folder of the file), each annotated with ``Objects``; a class is a category_id.

    Format: cocodataset.org, "Data format", object detection. Raises Rejected(invalid-data) where the file has it not.
    """
    try:
        words = json.loads(read_table(path))
    except (ValueError, RecursionError) as error:
        raise reject("invalid-data", f"{path} can't be read as JSON: {error}") from error
    base = images if images is not None else str(Path(path).parent)
    try:
        pictures = sorted(words["images"], key=lambda p: p["id"])
        of: dict[Any, list[Mapping[str, Any]]] = {p["id"]: [] for p in pictures}
        for annotation in words["annotations"]:
            of[annotation["image_id"]].append(annotation)
        paths = [beneath(base, p["file_name"], path) for p in pictures]
        known = [_objects(of[p["id"]], (int(p["width"]), int(p["height"]))) for p in pictures]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{path} is no COCO file of objects: {type(error).__name__} {error}"
        raise reject(
            "invalid-data",
            message,
            help="images: id, file_name, width, height; annotations: image_id, bbox, category_id",
        ) from error
    return Pictures(paths, known, gray, (path,))


def _objects(found: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Objects:
    boxes = [tuple(float(v) for v in a["bbox"]) for a in found]
    corners = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    return Objects(corners, [int(a["category_id"]) for a in found], [bool(a.get("iscrowd", 0)) for a in found], size)
