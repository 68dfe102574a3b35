"""Diagnostics for programs: one JSON object each, on one line."""

from __future__ import annotations

import json

from potc.diagnostics.codes import help_of
from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.source import Span


def render_json(diagnostic: Diagnostic) -> str:
    """One line of JSON. Lines and columns count from 1, ``end_column`` is the first after the place."""
    document = {
        "code": diagnostic.code,
        "severity": diagnostic.severity.value,
        "message": diagnostic.message,
        "at": _place(diagnostic.at),
        "label": diagnostic.label or None,
        "node": diagnostic.node,
        "related": [{"at": _place(r.at), "label": r.label} for r in diagnostic.related],
        "help": diagnostic.help or help_of(diagnostic.code),
        "example": diagnostic.example,
    }
    return json.dumps(document, ensure_ascii=True)


def _place(at: Span | None) -> dict[str, object] | None:
    if at is None:
        return None
    line, column = at.source.position(at.start)
    end_line, end_column = at.source.position(at.end)
    return {"file": at.source.path, "line": line, "column": column, "end_line": end_line, "end_column": end_column}
