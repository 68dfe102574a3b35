"""What goes to people (standard error), and what is the answer (standard output)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.render_text import render

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Terminal:
    """How a command talks. ``verbosity``: -1 quiet, 0 normal, 1 verbose. ``as_json``: diagnostics are an answer too."""

    verbosity: int = 0
    color: str = "auto"
    as_json: bool = False

    @property
    def quiet(self) -> bool:
        return self.verbosity < 0

    @property
    def verbose(self) -> bool:
        return self.verbosity > 0

    @property
    def live(self) -> bool:
        """May a line be redrawn? Only on a terminal that is not quiet."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """One line, or several, for people; silent with -q."""
        if not self.quiet:
            self.complain(text)

    def complain(self, text: str) -> None:
        """For people, with -q as well: something is wrong."""
        print(text, file=sys.stderr, flush=True)

    def answer(self, text: str) -> None:
        """A line of the answer, on standard output."""
        print(text)

    def show(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Diagnostics in the chosen format: text for people, or one JSON object a line on standard output."""
        for diagnostic in diagnostics:
            if self.as_json:
                self.answer(json.dumps(diagnostic_json(diagnostic), ensure_ascii=False))
            else:
                self.complain(render(diagnostic, color=wants_color(self.color, sys.stderr)).rstrip("\n"))


@dataclass(slots=True)
class Session:
    """One run of the command line: commands set ``terminal`` once they know their options."""

    terminal: Terminal = field(default_factory=Terminal)


def wants_color(choice: str, stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """``--color`` wins, then NO_COLOR, FORCE_COLOR (each if not empty), then whether the stream is a capable terminal."""
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb"


def diagnostic_json(diagnostic: Diagnostic) -> dict[str, object]:
    """One diagnostic as plain values: the machine-readable form, the same in every command."""
    value: dict[str, object] = {
        "schema": SCHEMA,
        "severity": diagnostic.severity.value,
        "code": diagnostic.code,
        "message": diagnostic.message,
    }
    if diagnostic.at is not None:
        line, column = diagnostic.at.source.position(diagnostic.at.start)
        end_line, end_column = diagnostic.at.source.position(diagnostic.at.end)
        value |= {"file": diagnostic.at.source.path, "line": line, "column": column}
        value |= {"end_line": end_line, "end_column": end_column, "label": diagnostic.label}
    if diagnostic.node is not None:
        value["node"] = diagnostic.node
    if diagnostic.related:
        value["related"] = [{"at": str(r.at), "label": r.label} for r in diagnostic.related]
    if diagnostic.help is not None:
        value["help"] = diagnostic.help
    return value


def printable(name: str) -> str:
    """A name from a model with everything that could drive a terminal escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
