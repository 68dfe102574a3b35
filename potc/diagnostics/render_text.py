"""Diagnostics for terminals: the sentence, the place with its source line, a second place, and what to do."""

from __future__ import annotations

from potc.diagnostics.codes import help_of
from potc.diagnostics.diagnostic import Diagnostic, Related, Severity
from potc.diagnostics.source import Span

_COLORS = {Severity.ERROR: "31", Severity.WARNING: "33", Severity.NOTE: "36"}
_EXCERPT = 160  # characters of a source line; longer lines are cut around the place
_TAB = "    "


def render(diagnostic: Diagnostic, color: bool = False) -> str:
    """Several lines without a final line end. Control characters of names and files are escaped."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if color else text

    tone = _COLORS[diagnostic.severity]
    head = paint(f"{diagnostic.severity.value}[{diagnostic.code}]", f"1;{tone}") + paint(
        f": {escaped(diagnostic.message)}", "1"
    )
    lines = [head]
    places = [r.at for r in diagnostic.related] + ([diagnostic.at] if diagnostic.at is not None else [])
    margin = max((len(str(p.line)) for p in places), default=1)
    if diagnostic.at is not None:
        lines += _place(diagnostic.at, diagnostic.label, "-->", "^", margin, lambda t: paint(t, tone))
    elif diagnostic.node is not None:
        lines.append(f"{' ' * margin}--> node {escaped(diagnostic.node)}")
    if diagnostic.at is not None and diagnostic.node is not None:
        lines.append(f"{' ' * margin} = node: {escaped(diagnostic.node)}")
    for related in diagnostic.related:
        lines += _related(related, margin, lambda t: paint(t, "34"))
    if diagnostic.example is not None:
        lines.append(f"{' ' * margin} = example:")
        lines += [f"{' ' * margin} |   {_shown(line)}".rstrip() for line in diagnostic.example.splitlines()]
    help_ = diagnostic.help or help_of(diagnostic.code)
    if help_ is not None:
        lines.append(f"{' ' * margin} = help: {escaped(help_)}")
    return "\n".join(lines)


def _related(related: Related, margin: int, paint) -> list[str]:  # type: ignore[no-untyped-def]
    return _place(related.at, related.label, ":::", "-", margin, paint)


def _place(at: Span, label: str, arrow: str, mark: str, margin: int, paint) -> list[str]:  # type: ignore[no-untyped-def]
    """``--> file:line:column``, the source line, and marks below it."""
    number, column = at.source.position(at.start)
    line = at.source.line(number)
    width = max(1, min(at.end, at.start + len(line) - column + 1) - at.start)
    start = column - 1
    cut = max(0, start - _EXCERPT // 2)
    before, marked, after = line[cut:start], line[start : start + width], line[start + width : cut + _EXCERPT]
    shown = _shown(before) + _shown(marked)[:_EXCERPT] + _shown(after)
    below = " " * len(_shown(before)) + paint(
        mark * max(1, min(len(_shown(marked)), _EXCERPT)) + (f" {escaped(label)}" if label else "")
    )
    blank = " " * margin
    return [
        f"{blank}{arrow} {escaped(str(at))}",
        f"{blank} |",
        f"{number:>{margin}} | {shown}".rstrip(),
        f"{blank} | {below}",
    ]


def _shown(text: str) -> str:
    return escaped(text.replace("\t", _TAB))


def escaped(text: str) -> str:
    """Text without control characters, line ends and direction marks: what a name says can't move a cursor."""
    return "".join(c if c.isprintable() or c == " " else f"\\u{{{ord(c):x}}}" for c in text)
