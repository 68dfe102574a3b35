"""Diagnostic, and the two ways out of a stage: go on, or Rejected."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from potc.diagnostics.source import Span


class Severity(Enum):
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Related:
    """A second place that belongs to a diagnostic, with its label."""

    at: Span
    label: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing to say. ``code`` is a kebab-case name from ``codes.py`` and its only identity.

    ``message`` is one sentence without a final period that names the thing; ``at`` is a place in a rule file with its
    ``label``; ``node`` a node or tensor of a model; ``help`` says what to do, imperative. ``example`` is a text of several
    lines that shows it, such as a model in the ONNX text syntax.
    """

    code: str
    message: str
    severity: Severity = Severity.ERROR
    at: Span | None = None
    label: str = ""
    node: str | None = None
    related: tuple[Related, ...] = ()
    help: str | None = None
    example: str | None = None


class Rejected(Exception):
    """The rules, the model or the data are at fault: no traceback is shown. Holds at least one error."""

    def __init__(self, diagnostics: Iterable[Diagnostic], exit_code: int = 1) -> None:
        self.diagnostics = tuple(diagnostics)
        self.exit_code = exit_code
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))


class Diagnostics:
    """Collects what a stage finds, so that several mistakes are told in one run."""

    def __init__(self) -> None:
        self._all: list[Diagnostic] = []

    def add(self, diagnostic: Diagnostic) -> None:
        if diagnostic not in self._all:
            self._all.append(diagnostic)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self._all if d.severity is Severity.ERROR)

    def stop(self) -> None:
        """Raises ``Rejected`` with everything collected if any of it is an error."""
        if self.errors:
            raise Rejected(self._all)


def reject(
    code: str,
    message: str,
    *,
    at: Span | None = None,
    node: str | None = None,
    help: str | None = None,
    exit_code: int = 1,
) -> Rejected:
    """A ``Rejected`` with one error, to be raised: ``raise reject("empty-model", ...)``."""
    return Rejected([Diagnostic(code, message, at=at, node=node, help=help)], exit_code)
