"""A pattern of several operators as an SVG drawing: data flows from the top to the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from potc.workbench.patterns import Box

ROW, GAP, HEIGHT, MARGIN, LETTER = 62, 24, 30, 8, 8.2  # pixels; a letter of the drawing's font is at most so wide


def drawing(boxes: Sequence[Box]) -> str:
    """One box for each operator, a line for each tensor between them; what comes from outside is written above its box."""
    depth = _depths(boxes)
    rows: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for k, d in enumerate(depth):
        rows[d].append(k)
    widths = [max(60.0, LETTER * len(b.label) + 16) for b in boxes]
    slots = [
        max(w, LETTER * len(", ".join(b.inputs)) * (2 if b.reads else 1)) for w, b in zip(widths, boxes, strict=True)
    ]
    total = max((sum(slots[k] for k in row) + GAP * (len(row) - 1) for row in rows), default=0)
    centre: dict[int, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = (total - sum(slots[k] for k in row) - GAP * (len(row) - 1)) / 2
        for k in row:
            centre[k] = (left + slots[k] / 2, number * ROW + 22 + HEIGHT / 2)
            left += slots[k] + GAP
    wires = [(centre[source], centre[k], depth[k] - depth[source]) for k, b in enumerate(boxes) for source in b.reads]
    half = max(widths, default=0) / 2
    lines = [_line(start, end, rows, half + 6 * rows) for start, end, rows in wires]
    right = max([total, *(max(start[0], end[0]) + half + 6 * rows for start, end, rows in wires if rows > 1)])
    shapes = [_box(b, centre[k], widths[k]) for k, b in enumerate(boxes)]
    height = len(rows) * ROW + 4
    names = " → ".join(b.label for b in boxes)
    width = right + 2 * MARGIN
    return (
        f'<svg viewBox="{-MARGIN} 0 {width:g} {height}" width="{width:g}" height="{height}" '
        f'role="img" aria-label="{escape(names)}">\n' + "\n".join((*lines, *shapes)) + "\n</svg>"
    )


def _depths(boxes: Sequence[Box]) -> list[int]:
    """How many boxes lie above each; boxes read earlier ones only."""
    depth: list[int] = []
    for box in boxes:
        depth.append(max((depth[r] + 1 for r in box.reads), default=0))
    return depth


def _line(start: tuple[float, float], end: tuple[float, float], rows: int, bulge: float) -> str:
    """A wire down ``rows`` rows; one that passes other boxes keeps ``bulge`` pixels to the right of its ends."""
    (x1, y1), (x2, y2) = start, end
    top, bottom = y1 + HEIGHT / 2, y2 - HEIGHT / 2
    if rows <= 1:
        return f'<path d="M{x1:g} {top:g}L{x2:g} {bottom:g}"/>'
    side = max(x1, x2) + bulge / 0.75  # how far a curve goes towards its control points
    return f'<path d="M{x1:g} {top:g}C{side:g} {top + 20:g} {side:g} {bottom - 20:g} {x2:g} {bottom:g}"/>'


def _box(box: Box, centre: tuple[float, float], width: float) -> str:
    x, y = centre
    kind = ' class="optional"' if box.optional else ""
    outside = ", ".join(box.inputs)
    # Beside the line that comes from above, if there is one.
    place = f'x="{x - 6:g}" text-anchor="end"' if box.reads else f'x="{x:g}" text-anchor="middle"'
    above = f'<text class="from" {place} y="{y - HEIGHT / 2 - 5:g}">{escape(outside)}</text>' if outside else ""
    return (
        f'<rect{kind} x="{x - width / 2:g}" y="{y - HEIGHT / 2:g}" width="{width:g}" height="{HEIGHT}" rx="5"/>'
        f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle">{escape(box.label)}</text>{above}'
    )
