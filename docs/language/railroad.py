"""Railroad diagrams as SVG: boxes on tracks, side by side, one below the other, and looped. Knows nothing of grammars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

CHAR = 7.2  # width of a character of the font
HEIGHT, GAP, ARC = 22, 10, 8
WIDEST = 860  # a longer row goes on in the next line
STYLE = (
    "rect.page{fill:#fff}path{fill:none;stroke:#555;stroke-width:1.5}rect{stroke:#555;stroke-width:1.2}"
    "rect.word{fill:#e8f0e4}rect.name{fill:#eef2fb}text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#111}"
    "text.title{font-weight:bold}"
)

Paint = Callable[[float, float], str]


@dataclass(frozen=True, slots=True)
class Diagram:
    """``up`` and ``down``: how far it reaches above and below its track, which enters at the left and leaves at the right.
    ``paint``: the elements, with the track's left end at (x, y)."""

    width: float
    up: float
    down: float
    paint: Paint


def box(text: str, word: bool) -> Diagram:
    """A word as it stands (rounded), or the name of another diagram."""
    width = len(text) * CHAR + 16

    def paint(x: float, y: float) -> str:
        kind, radius = ("word", HEIGHT / 2) if word else ("name", 3)
        return (
            f'<rect class="{kind}" x="{x:g}" y="{y - HEIGHT / 2:g}" width="{width:g}" height="{HEIGHT}" rx="{radius:g}"/>'
            f'<text x="{x + width / 2:g}" y="{y + 4:g}" text-anchor="middle">{escape(text)}</text>'
        )

    return Diagram(width, HEIGHT / 2, HEIGHT / 2, paint)


def nothing() -> Diagram:
    """A piece of track."""
    return Diagram(0, 0, 0, lambda x, y: "")


def _line(x: float, y: float, to: float) -> str:
    return f'<path d="M{x:g} {y:g}H{to:g}"/>' if to > x else ""


def sequence(parts: Sequence[Diagram]) -> Diagram:
    """One behind the other; a row that is too wide goes on in the next line."""
    rows: list[list[Diagram]] = [[]]
    for part in parts:
        if rows[-1] and sum(p.width + GAP for p in rows[-1]) + part.width > WIDEST:
            rows.append([])
        rows[-1].append(part)
    lines = [_row(row) for row in rows]
    return lines[0] if len(lines) == 1 else _lines(lines)


def _row(parts: Sequence[Diagram]) -> Diagram:
    def paint(x: float, y: float) -> str:
        drawn: list[str] = []
        for k, part in enumerate(parts):
            if k:
                drawn.append(_line(x, y, x + GAP))
                x += GAP
            drawn.append(part.paint(x, y))
            x += part.width
        return "".join(drawn)

    width = sum(p.width for p in parts) + GAP * (len(parts) - 1)
    return Diagram(width, max(p.up for p in parts), max(p.down for p in parts), paint)


def _lines(rows: Sequence[Diagram]) -> Diagram:
    """Rows below one another, each joined to the next by a track back to the left; it leaves at the right of the last one."""
    inner = max(row.width for row in rows)
    tops = [0.0]
    for above, row in pairwise(rows):
        tops.append(tops[-1] + above.down + GAP * 2 + row.up)

    def paint(x: float, y: float) -> str:
        drawn: list[str] = []
        right = x + 2 * ARC + inner
        for k, (row, top) in enumerate(zip(rows, tops, strict=True)):
            here = y + top
            drawn.append(_line(x, here, x + 2 * ARC) if k == 0 else "")
            drawn.append(row.paint(x + 2 * ARC, here))
            drawn.append(_line(x + 2 * ARC + row.width, here, right))
            if k + 1 < len(rows):
                middle, below = here + row.down + GAP, y + tops[k + 1]
                drawn.append(
                    f'<path d="M{right:g} {here:g}a{ARC} {ARC} 0 0 1 {ARC} {ARC}V{middle - ARC:g}'
                    f"a{ARC} {ARC} 0 0 1 {-ARC} {ARC}H{x + 2 * ARC:g}a{ARC} {ARC} 0 0 0 {-ARC} {ARC}"
                    f'V{below - ARC:g}a{ARC} {ARC} 0 0 0 {ARC} {ARC}"/>'
                )
            else:
                drawn.append(_line(right, here, right + 2 * ARC))
        # The track goes on where the diagram leaves: back up at the right.
        end = y + tops[-1]
        drawn.append(
            f'<path d="M{right + 2 * ARC:g} {end:g}a{ARC} {ARC} 0 0 0 {ARC} {-ARC}V{y + ARC:g}a{ARC} {ARC} 0 0 1 {ARC} {-ARC}"/>'
        )
        return "".join(drawn)

    return Diagram(inner + 6 * ARC, rows[0].up, tops[-1] + rows[-1].down, paint)


def choice(options: Sequence[Diagram]) -> Diagram:
    """One of several; the first is on the track, the others below it."""
    inner = max(o.width for o in options)
    tops = [0.0]
    for above, option in pairwise(options):
        tops.append(tops[-1] + max(above.down + GAP + option.up, 2 * ARC))

    def paint(x: float, y: float) -> str:
        drawn: list[str] = []
        left, right = x + 2 * ARC, x + 2 * ARC + inner
        for option, top in zip(options, tops, strict=True):
            here = y + top
            if top:
                down = f"V{here - ARC:g}"
                drawn.append(
                    f'<path d="M{x:g} {y:g}a{ARC} {ARC} 0 0 1 {ARC} {ARC}{down}a{ARC} {ARC} 0 0 0 {ARC} {ARC}"/>'
                )
                up = f"V{y + ARC:g}"
                drawn.append(
                    f'<path d="M{right:g} {here:g}a{ARC} {ARC} 0 0 0 {ARC} {-ARC}{up}a{ARC} {ARC} 0 0 1 {ARC} {-ARC}"/>'
                )
            else:
                drawn.append(_line(x, here, left) + _line(right, here, right + 2 * ARC))
            drawn.append(option.paint(left, here))
            drawn.append(_line(left + option.width, here, right))
        return "".join(drawn)

    return Diagram(inner + 4 * ARC, options[0].up, tops[-1] + options[-1].down, paint)


def loop(part: Diagram) -> Diagram:
    """Once or several times: a track leads back above it."""
    back = part.up + GAP

    def paint(x: float, y: float) -> str:
        left, right = x + 2 * ARC, x + 2 * ARC + part.width
        return (
            _line(x, y, left)
            + part.paint(left, y)
            + _line(right, y, right + 2 * ARC)
            + f'<path d="M{right:g} {y:g}a{ARC} {ARC} 0 0 0 {ARC} {-ARC}V{y - back + ARC:g}a{ARC} {ARC} 0 0 0 {-ARC} {-ARC}'
            f'H{left:g}a{ARC} {ARC} 0 0 0 {-ARC} {ARC}V{y - ARC:g}a{ARC} {ARC} 0 0 0 {ARC} {ARC}"/>'
        )

    return Diagram(part.width + 4 * ARC, max(back, 2 * ARC), part.down, paint)


def sheet(title: str, diagrams: Sequence[tuple[str, Diagram]]) -> str:
    """One SVG file with all diagrams below one another, each with its name and its ends."""
    drawn: list[str] = []
    y, width = 10.0, 0.0
    for name, diagram in diagrams:
        drawn.append(f'<text class="title" x="10" y="{y + 12:g}">{escape(name)}</text>')
        track = y + 26 + diagram.up
        left, right = 22.0, 32 + diagram.width
        drawn.append(
            f'<path d="M12 {track - 5:g}v10M12 {track:g}H{left:g}M{right - 10:g} {track:g}H{right:g}M{right:g} {track - 5:g}v10"/>'
        )
        drawn.append(diagram.paint(left, track))
        y, width = track + diagram.down + 16, max(width, right + 12)
    size = f'width="{width:g}" height="{y:g}" viewBox="0 0 {width:g} {y:g}"'
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{escape(title)}</title>\n'
        f'<style>{STYLE}</style>\n<rect class="page" width="100%" height="100%" stroke="none"/>\n{body}\n</svg>\n'
    )
