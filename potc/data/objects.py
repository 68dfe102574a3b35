"""What is in a picture: boxes with classes, the annotation of object detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Objects:
    """``boxes``: corners x0, y0, x1, y1 in pixels of the stored picture; ``classes`` and ``crowd``, one for each box (a crowd is
    one box around many, which may be found or not); ``size``: width and height of the stored picture in pixels."""

    boxes: Sequence[tuple[float, float, float, float]]
    classes: Sequence[int]
    crowd: Sequence[bool]
    size: tuple[int, int]
