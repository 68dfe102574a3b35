"""A bar chart as SVG, of plain shapes and text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

ROW, LABEL, WIDTH, END = 28, 190, 420, 90  # pixels


@dataclass(frozen=True, slots=True)
class Bar:
    """``note``: what to say in place of a bar."""

    label: str
    value: float
    note: str = ""


def bars(title: str, unit: str, shown: list[Bar]) -> str:
    """One bar below the other, each with its value. The same bars give the same bytes."""
    most = max((b.value for b in shown if not b.note), default=0.0) or 1.0
    height = ROW * len(shown) + 44
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LABEL + WIDTH + END}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><text x="10" y="22" font-weight="bold">{escape(title)}</text>',
    ]
    for place, bar in enumerate(shown):
        top = 36 + ROW * place
        parts.append(f'<text x="{LABEL - 8}" y="{top + 15}" text-anchor="end">{escape(bar.label)}</text>')
        if bar.note:
            parts.append(f'<text x="{LABEL}" y="{top + 15}" fill="#a00000">{escape(bar.note)}</text>')
            continue
        wide = WIDTH * bar.value / most
        parts.append(f'<rect x="{LABEL}" y="{top}" width="{wide:.1f}" height="{ROW - 8}" fill="#3b6ea5"/>')
        parts.append(f'<text x="{LABEL + wide + 6:.1f}" y="{top + 15}">{bar.value:.2f} {escape(unit)}</text>')
    return "\n".join([*parts, "</svg>", ""])
