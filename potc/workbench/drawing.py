"""A pattern of several operators as an SVG drawing: data flows from the top to the bottom."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from potc.workbench.patterns import Box

ROW, GAP, HEIGHT, LETTER = 62, 24, 30, 8.2  # pixels; a letter of the drawing's font is at most so wide


def drawing(boxes: Sequence[Box]) -> str:
    """One box for each operator, a line for each tensor between them; what comes from outside is written above its box."""
    depth = _depths(boxes)
    rows: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for k, d in enumerate(depth):
        rows[d].append(k)
    widths = [max(60.0, LETTER * max(len(b.label), len(", ".join(b.inputs))) + 16) for b in boxes]
    total = max((sum(widths[k] for k in row) + GAP * (len(row) - 1) for row in rows), default=0)
    centre: dict[int, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = (total - sum(widths[k] for k in row) - GAP * (len(row) - 1)) / 2
        for k in row:
            centre[k] = (left + widths[k] / 2, number * ROW + 22 + HEIGHT / 2)
            left += widths[k] + GAP
    margin = 30  # lines that pass boxes bulge out
    lines = [
        _line(centre[source], centre[k], depth[k] - depth[source]) for k, b in enumerate(boxes) for source in b.reads
    ]
    shapes = [_box(b, centre[k], widths[k]) for k, b in enumerate(boxes)]
    height = len(rows) * ROW + 4
    names = " → ".join(b.label for b in boxes)
    return (
        f'<svg viewBox="{-margin} 0 {total + 2 * margin:g} {height}" width="{total + 2 * margin:g}" height="{height}" '
        f'role="img" aria-label="{escape(names)}">\n' + "\n".join((*lines, *shapes)) + "\n</svg>"
    )


def _depths(boxes: Sequence[Box]) -> list[int]:
    """How many boxes lie above each; boxes read earlier ones only."""
    depth: list[int] = []
    for box in boxes:
        depth.append(max((depth[r] + 1 for r in box.reads), default=0))
    return depth


def _line(start: tuple[float, float], end: tuple[float, float], rows: int) -> str:
    (x1, y1), (x2, y2) = start, end
    top, bottom = y1 + HEIGHT / 2, y2 - HEIGHT / 2
    if rows <= 1:
        return f'<path d="M{x1:g} {top:g}L{x2:g} {bottom:g}"/>'
    side = max(x1, x2) + 45 + 8 * rows
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
