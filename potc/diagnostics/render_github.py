"""Diagnostics as workflow commands of GitHub Actions, which shows them beside the lines of rule files.

Source: GitHub documentation, "Workflow commands for GitHub Actions", section "Setting an error message".
"""

from __future__ import annotations

from potc.diagnostics.codes import help_of
from potc.diagnostics.diagnostic import Diagnostic

LINE_END = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
PROPERTY = LINE_END | str.maketrans({":": "%3A", ",": "%2C"})
LEVEL = {"note": "notice"}


def render_github(diagnostic: Diagnostic) -> str:
    """One line: ``::error file=F,line=L,col=C,endLine=L,endColumn=C,title=CODE::message``. Columns count from 1."""
    properties: dict[str, object] = {}
    if diagnostic.at is not None:
        source = diagnostic.at.source
        line, column = source.position(diagnostic.at.start)
        end_line, end_column = source.position(diagnostic.at.end)
        properties = {"file": source.path, "line": line, "col": column, "endLine": end_line, "endColumn": end_column}
    properties["title"] = diagnostic.code
    words = ",".join(f"{name}={str(value).translate(PROPERTY)}" for name, value in properties.items())
    help_ = diagnostic.help or help_of(diagnostic.code)
    text = f"{diagnostic.message}\nhelp: {help_}" if help_ else diagnostic.message
    level = LEVEL.get(diagnostic.severity.value, diagnostic.severity.value)
    return f"::{level} {words}::{text.translate(LINE_END)}"
