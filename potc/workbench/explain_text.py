"""Answers of ``explain`` for people: a first line that says it, then aligned details, most telling first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from potc.graph.snapshot import OUTER
from potc.workbench.explain_model import Reason
from potc.workbench.explain_nodes import Captured, FloatNode, NodeAnswer, OverviewAnswer, PartAnswer
from potc.workbench.explain_rules import RuleAnswer
from potc.workbench.explain_tensors import End, Stored, TensorAnswer
from potc.workbench.preparation import GoneAnswer

Rows = list[tuple[str, ...]]


def answer_lines(answer: object) -> Iterator[str]:
    """The lines of one answer, without escapes and line ends."""
    if isinstance(answer, NodeAnswer):
        yield from _node(answer)
    elif isinstance(answer, TensorAnswer):
        yield from _tensor(answer)
    elif isinstance(answer, RuleAnswer):
        yield from _rule(answer)
    elif isinstance(answer, GoneAnswer):
        instead = f"; see {', '.join(answer.instead)}" if answer.instead else ""
        yield f"{answer.name} {answer.words}{instead}{f'   {answer.place}' if answer.place else ''}"
    elif isinstance(answer, OverviewAnswer):
        yield from _overview(answer)


def _aligned(rows: Sequence[tuple[str, ...]], indent: str) -> Iterator[str]:
    """Columns as wide as their cells; the last one is free."""
    if rows:
        widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
        for *cells, last in rows:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            yield (indent + "  ".join([*padded, last])).rstrip()


def _titled(title: str, rows: Rows) -> Rows:
    """Rows under one title, which stands beside the first of them."""
    return [(title if i == 0 else "", *row) for i, row in enumerate(rows)]


# ---------------------------------------------------------------------------------------------- nodes


def _node(answer: NodeAnswer) -> Iterator[str]:
    name = f"{answer.node} ({answer.operator}{_inside(answer.body)})"
    if answer.kernel:
        rest = [n for n in answer.kernel if n != answer.node]
        also = f" with {', '.join(rest)}" if rest else ""
        yield f"{name} is covered by {answer.rule} ({answer.place}){also}"
    else:
        yield f"{name} stays in float"
        yield from _aligned([_reason_row(r) for r in answer.reasons], "  ")
    for part in answer.parts:
        indent = "  "
        if len(answer.parts) > 1:
            if not (part.captured or part.larger or part.others or part.place):
                continue
            yield f"  on {part.device}{f': {part.rule} ({part.place})' if part.place else ''}"
            indent = "    "
        yield from _aligned([_captured(c) for c in part.captured], indent)
        yield from _aligned(_details(part, bool(answer.kernel)), indent)
    if answer.rewritten:
        yield f"  rewritten: {answer.rewritten}"


def _inside(body: str) -> str:
    return f", in the body {body}" if body else ""


def _captured(captured: Captured) -> tuple[str, ...]:
    note = ", ".join(filter(None, (captured.note, _shares(captured.shared))))
    types = " | ".join(captured.types) or "float"
    comma = " " if captured.note.startswith("=") else ", " if captured.types else ": "
    return captured.name, f"= {captured.tensor}", captured.place, f"{types}{comma if note else ''}{note}"


def _shares(tensors: Sequence[str]) -> str:
    if not tensors:
        return ""
    more = f" and {len(tensors) - 3} more" if len(tensors) > 3 else ""
    return f"one scale with {', '.join(tensors[:3])}{more}"


def _details(part: PartAnswer, covered: bool) -> Rows:
    rows: Rows = []
    if part.larger is not None:
        rows += _titled("why not larger?", [(part.larger.rule, part.larger.words, part.larger.place)])
    title = "other candidates" if covered else "also near"
    rows += _titled(title, [(r.rule, r.words, r.place) for r in part.others])
    return [(title, rule, place, words) for title, rule, words, place in rows]


def _reason_row(reason: Reason) -> tuple[str, ...]:
    return reason.rule, reason.place, reason.words


# ---------------------------------------------------------------------------------------------- tensors


def _tensor(answer: TensorAnswer) -> Iterator[str]:
    shape = "" if answer.shape is None else f"[{', '.join('?' if d is None else str(d) for d in answer.shape)}]"
    what = " ".join(filter(None, ("constant" if answer.constant else "", answer.dtype, shape))) or "of unknown type"
    head = f"{answer.tensor} ({what}{_inside(answer.body)})"

    if answer.reason is not None:
        yield f"{head} stays in float: {answer.reason.words}"
        if answer.reason.place:
            yield f"  {answer.reason.rule}  {answer.reason.place}"
    elif len(answer.stored) == 1:
        yield f"{head} is stored as {_types(answer.stored[0])}"
    else:
        yield f"{head} is stored in {len(answer.stored)} ways"
    rows: Rows = []  # title, rule, place, words
    ends: Rows = []  # title, words
    for stored in answer.stored:
        where = ", ".join(f"{node}[{port}]" for node, port in stored.readers) or "everybody"
        if len(answer.stored) > 1:
            rows += _titled(f"for {where}", [("", "", _types(stored))])
        rows += _titled("asked for by", [(r.rule, r.place, r.words) for r in stored.asked])
        if stored.shared:
            rows.append(("shares its scale", "", "", f"with {', '.join(stored.shared)}"))
    if answer.model_input:
        ends.append(
            ("made by", "it comes in from outside of the body" if answer.body else "it is an input of the model")
        )
    if answer.made_by is not None:
        ends.append(("made by", _end(answer.made_by, answer)))
    ends += _titled("read by", [(_end(end, answer),) for end in answer.read_by])
    if answer.model_output:
        ends.append(("returned", f"it is an output of {'the body' if answer.body else 'the model'}"))
    width = max((len(row[0]) for row in (*rows, *ends)), default=0)
    yield from _aligned([(title.ljust(width), *rest) for title, *rest in rows], "  ")
    yield from _aligned([(title.ljust(width), *rest) for title, *rest in ends], "  ")


def _types(stored: Stored) -> str:
    return " | ".join(stored.types) + (f", {stored.note}" if stored.note else "")


def _end(end: End, answer: TensorAnswer) -> str:
    port = "" if end is answer.made_by else " in a nested graph" if end.port == OUTER else f"[{end.port}]"
    if not end.rule:
        return f"{end.node}{port}, which stays in float"
    rest = f" at {end.kernel[0]}" if len(end.kernel) > 1 and end.kernel[0] != end.node else ""
    return f"{end.node}{port}, in the kernel {end.rule}{rest}"


# ---------------------------------------------------------------------------------------------- rules and all


def _rule(answer: RuleAnswer) -> Iterator[str]:
    times = {0: "fired nowhere", 1: "fired once"}.get(len(answer.fired), f"fired {len(answer.fired)} times")
    yield f"{answer.rule} ({answer.place}) {times}"
    yield from (f"  {', '.join(nodes)}" for nodes in answer.fired)
    if answer.near:
        yield "  came near at"
        yield from _aligned([(n.node, n.place, n.words) for n in answer.near], "    ")


def _overview(answer: OverviewAnswer) -> Iterator[str]:
    yield f"{answer.model} on {answer.device}: kernels cover {answer.covered} of {answer.nodes} nodes"
    if answer.rules:
        yield "  kernels"
        yield from _aligned([(f"{r.kernels} x", r.rule, r.place) for r in answer.rules], "    ")
    if answer.floats:
        yield "  stays in float"
        yield from _aligned([row for node in answer.floats for row in _float(node)], "    ")


def _float(node: FloatNode) -> Rows:
    names = [(node.node, node.operator), *((("", ""),) * (len(node.reasons) - 1))]
    return [(*name, r.rule, r.place, r.words) for name, r in zip(names, node.reasons, strict=True)]
