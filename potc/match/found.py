"""What a walk finds: tensors under the names of a pattern, whole matches, and where and why it stopped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from potc.diagnostics.source import Span
from potc.match.record import record


@record
class Bound:
    """A tensor under a pattern's name. ``node`` and ``port`` are where the match reads it; port -1 - k: ``node`` makes it,
    as its output k."""

    tensor: int
    node: int
    port: int


Binding = Bound | tuple[Bound, ...] | None  # one tensor, a variadic capture, an optional input that is absent


@record
class Match:
    """Covered nodes in data-flow order of the pattern (DAG part, then chain), and what every name is bound to."""

    nodes: tuple[int, ...]
    bindings: Mapping[str, Binding]
    result: int  # the tensor that the last node makes


@dataclass(slots=True)
class Trail:
    """The deepest place that a walk reached, and why it ended there. ``steps`` counts nodes on the way; ``whole``: nothing
    but a requirement of the whole match failed, which tells more than an optional step that did not fit at the same depth.
    In between is a node whose operator ``fits``: its inputs tell more than that it is none of the other alternatives."""

    steps: int = -1
    reason: str = ""
    at: Span | None = None
    found: str = ""  # what stood where an operator was wanted
    wanted: frozenset[str] = frozenset()
    whole: bool = False
    fits: bool = False

    def stop(self, steps: int, reason: str, at: Span, whole: bool = False) -> None:
        if (steps, whole, True) > (self.steps, self.whole, self.fits):
            self.steps, self.reason, self.at, self.found = steps, reason, at, ""
            self.whole, self.fits = whole, True

    def stop_before(self, steps: int, words: str, found: str, wanted: frozenset[str], at: Span) -> None:
        """An operator is not there. ``words`` have ``{found}`` and ``{wanted}``; alternatives of one step are told together."""
        if steps == self.steps and found == self.found:
            self.wanted |= wanted
        elif steps > self.steps:
            self.steps, self.at, self.found, self.wanted = steps, at, found, wanted
            self.whole = self.fits = False
        else:
            return
        self.reason = words.format(found=found, wanted=one_of(self.wanted))


def one_of(ops: frozenset[str]) -> str:
    return " | ".join(sorted(ops))
