"""`potc test --update`: what was found, written in place of what was expected; everything else stays byte for byte."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from potc.diagnostics.source import Span
from potc.workbench.run_tests import Outcome


def updated(data: bytes, outcomes: Sequence[Outcome]) -> bytes:
    """The bytes of a rule file with its failed expectations replaced.

    An expectation of several devices is replaced only if all of them found the same; those of tests that are themselves
    at fault stay.
    """
    text = data.decode("utf-8")
    offsets = _offsets(text)
    pieces: list[str] = []
    done = 0
    for span, statements in sorted(_edits(outcomes).items(), key=lambda e: e[0].start):
        start, end = offsets[span.start], offsets[span.end]
        if not statements:
            start = len(text[:start].rstrip(" \t"))
            start -= text[:start].endswith("\n")
            start -= text[:start].endswith("\r")
        line = text.rfind("\n", 0, start) + 1
        margin = text[line:start] if not text[line:start].strip() else " " * (start - line)
        ending = "\r\n" if text[:line].endswith("\r\n") else "\n"
        pieces += [text[done:start], f"{ending}{margin}".join(statements)]
        done = end
    return "".join((*pieces, text[done:])).encode()


def _edits(outcomes: Sequence[Outcome]) -> Mapping[Span, tuple[str, ...]]:
    """What comes in place of each failed expectation."""
    wishes: dict[Span, list[tuple[str, ...] | None]] = {}
    for outcome in outcomes:
        failed = {f.expect.span: f.instead for f in outcome.failures}
        for expect in outcome.test.expects:
            wish = None if outcome.errors else failed.get(expect.span, (_written(expect.span),))
            wishes.setdefault(expect.span, []).append(wish)
    edits: dict[Span, tuple[str, ...]] = {}
    for span, mine in wishes.items():
        first = mine[0]
        if first is not None and first != (_written(span),) and all(w == first for w in mine):
            edits[span] = first
    for test in dict.fromkeys(outcome.test for outcome in outcomes):
        told: set[str] = set()
        for expect in test.expects:
            fresh = tuple(s for s in edits.get(expect.span, ()) if s not in told)
            told.update(edits.get(expect.span, (_written(expect.span),)))
            if expect.span in edits:
                edits[expect.span] = fresh  # what the test says already is not said again
    return edits


def _written(span: Span) -> str:
    return span.source.text[span.start : span.end]


def _offsets(text: str) -> list[int]:
    """Offset in the file's own text for each offset of the text as it is read: without a mark in front, lines ended by \\n."""
    start = 1 if text.startswith("\ufeff") else 0
    kept = [i for i in range(start, len(text)) if text[i] != "\n" or text[i - 1 : i] != "\r"]
    return [*kept, len(text)]
