"""What goes to people (standard error), and what is the answer (standard output)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TextIO

from potc.diagnostics.diagnostic import Diagnostic, reject
from potc.diagnostics.render_github import render_github
from potc.diagnostics.render_json import render_json
from potc.diagnostics.render_text import render


@dataclass(frozen=True, slots=True)
class Terminal:
    """How a command talks. ``verbosity``: -1 quiet, 0 normal, 1 verbose. ``as_json``: diagnostics are an answer too,
    and so they are in a ``form`` of their own: "sarif" or "github"."""

    verbosity: int = 0
    color: str = "auto"
    as_json: bool = False
    form: str = "text"

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
        with suppress(OSError):  # a full disk or a closed pipe: nobody is there to be told
            print(text, file=sys.stderr, flush=True)

    def answer(self, text: str) -> None:
        """A line of the answer, on standard output. Raises Rejected where it can't be written."""
        self.answer_bytes(f"{text}\n".encode(errors="backslashreplace"))

    def answer_bytes(self, data: bytes) -> None:
        """An answer that is no text. Raises Rejected where it can't be written."""
        try:
            sys.stdout.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            message = f"can't write to standard output: {error.strerror or error}"
            raise reject("unwritable-output", message, exit_code=2) from error

    def show(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Diagnostics in the chosen format: text for people, or on standard output one JSON object or workflow command a
        line, or one SARIF log: then everything must be told at once."""
        if self.form == "sarif":
            from potc.diagnostics.render_sarif import render_sarif

            self.answer(render_sarif(diagnostics))
            return
        for diagnostic in diagnostics:
            if self.as_json:
                self.answer(render_json(diagnostic))
            elif self.form == "github":
                self.answer(render_github(diagnostic))
            else:
                self.complain(render(diagnostic, color=wants_color(self.color, sys.stderr)))


@dataclass(slots=True)
class Session:
    """One run of the command line: commands set ``terminal`` once they know their options."""

    terminal: Terminal = field(default_factory=Terminal)
    configuration: str | None = None  # the file that gave defaults to options


def wants_color(choice: str, stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """``--color`` wins, then NO_COLOR, FORCE_COLOR (each if not empty), then whether the stream is a capable terminal."""
    if choice != "auto":
        return choice == "always"
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb"
