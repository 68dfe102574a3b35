"""Which candidates nothing beats: accuracy against estimated speed and size, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from potc.evaluate.confidence import LEVEL
from potc.search.bench import Candidate
from potc.search.search import Found, rank
from potc.search.target import Target

VERSION = 1
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 400, 70, 40, 20, 50
GREEN, GREY, BLUE = "#2a7d2a", "#999", "#1f5fa8"


def front(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    """Indices of the candidates that no other one beats: at least as accurate, as fast and as small, and better in one."""

    def goods(c: Candidate) -> tuple[float, float, float]:
        return -c.excess, c.speedup, -float(c.size)

    def is_beaten(c: Candidate) -> bool:
        mine = goods(c)
        return any(all(a >= b for a, b in zip(goods(o), mine, strict=True)) and goods(o) != mine for o in candidates)

    return tuple(i for i, c in enumerate(candidates) if not is_beaten(c))


def front_json(found: Found, target: Target) -> str:
    """All candidates that were evaluated; ``front``: those that nothing beats."""
    document = {"potc": "front", "version": VERSION, **search_document(found, target)}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def search_document(found: Found, target: Target) -> dict[str, Any]:
    """What a search did, as JSON values. Of each candidate, in the order of evaluation: ``best_so_far``, whether it was kept
    then; ``expected_drops``: what is lost on average on other samples like these; ``highest_drops``: at most, with
    ``confidence``, whichever candidate is chosen; both null where they can't be told."""
    return {
        "metrics": [m.name for m in target.metrics],
        "max_drop": target.max_drop,
        "drop_type": "relative" if target.relative else "absolute",
        "confidence": target.confidence or LEVEL,
        "must_hold_with_confidence": target.confidence is not None,
        "float": list(found.before),
        "met": found.met,
        "evaluations": found.evaluations,
        "evaluations_allowed": target.evaluations,
        "sources_ranked": found.ranked,
        "answer": found.best,
        "front": list(front(found.candidates)),
        "candidates": [_candidate(found, target, i) for i in range(len(found.candidates))],
        "worst": [
            {"source": w.key, "noise_to_signal": float(f"{w.noise:.6g}"), "nodes": list(w.nodes)} for w in found.worst
        ],
    }


def _candidate(found: Found, target: Target, index: int) -> dict[str, Any]:
    c = found.candidates[index]
    return {
        "values": list(c.values),
        "drops": [float(d) for d in target.drops(found.before, c.values)],
        "expected_drops": list(c.expected),
        "highest_drops": list(c.highest),
        "met": c.met,
        "best_so_far": all(rank(c) < rank(earlier) for earlier in found.candidates[:index]),
        "speedup": float(f"{c.speedup:.6g}"),
        "bytes": c.size,
        "kernels": c.kernels,
        "float_nodes": sorted(c.variant.held),
        "raised": sorted(c.variant.raised),
        "sha256": c.digest,
    }


def front_svg(found: Found, target: Target) -> str:
    """The first metric against estimated speed: a dot for each candidate, a line through those that nothing beats, and what the
    target allows."""
    metric, before = target.metrics[0], found.before[0]
    allowed = float(target.allowed(found.before)[0])
    limit = before - allowed if metric.higher_is_better else before + allowed
    values = [c.values[0] for c in found.candidates]
    x = _Axis([1.0, *(c.speedup for c in found.candidates)], LEFT, WIDTH - RIGHT)
    y = _Axis([before, limit, *values], HEIGHT - BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20">{escape(metric.name)} against estimated speed; float: {before:.6g}, limit: {limit:.6g}</text>',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(limit)}" y2="{y.at(limit)}" stroke="{GREEN}" stroke-dasharray="4"/>',
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" stroke="black"/>',
        f'<line x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="black"/>',
    ]
    below = HEIGHT - BOTTOM + 18
    lines += [f'<text x="{x.at(v)}" y="{below}" text-anchor="middle">{v:.3g}x</text>' for v in x.marks()]
    lines += [f'<text x="{LEFT - 6}" y="{y.at(v)}" text-anchor="end">{v:.4g}</text>' for v in y.marks()]
    shown = sorted((found.candidates[i] for i in front(found.candidates)), key=lambda c: (c.speedup, c.values[0]))
    points = " ".join(f"{x.at(c.speedup)},{y.at(c.values[0])}" for c in shown)
    lines.append(f'<polyline points="{points}" fill="none" stroke="{BLUE}"/>')
    for index, c in enumerate(found.candidates):
        color = GREEN if c.met else GREY
        words = f"{index + 1}: {c.values[0]:.6g}, {c.speedup:.3g}x, {c.size:,} bytes, {c.kernels} kernels"
        radius = 7 if index == found.best else 4
        lines.append(
            f'<circle cx="{x.at(c.speedup)}" cy="{y.at(c.values[0])}" r="{radius}" fill="{color}">'
            f"<title>{words}</title></circle>"
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


class _Axis:
    """Numbers to places of a picture, rounded to a tenth."""

    def __init__(self, values: Sequence[float], start: int, end: int) -> None:
        low, high = min(values), max(values)
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        self._low, self._high, self._start, self._end = low - room, high + room, start, end

    def at(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def marks(self) -> list[float]:
        return [self._low + (self._high - self._low) * i / 4 for i in range(5)]
