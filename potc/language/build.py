"""From words to ``syntax``: one small function per grammar rule, called by ``driver`` from the leaves up without recursion.

The functions are in ``build_statements`` and ``build_patterns``; ``parse`` imports both, which registers them here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics
from potc.diagnostics.source import Source, Span
from potc.language import syntax as s

MAX_DIGITS = 300  # far above any number that a rule needs, far below what makes Python slow or refuse


@dataclass(slots=True)
class Builder:
    """What the functions need beside their children: the source for spans, and where mistakes go."""

    source: Source
    problems: Diagnostics = field(default_factory=Diagnostics)
    emitted: bool = False  # whether there is any node with brackets, which can stand in few places

    def mistake(self, message: str, at: Span, help: str | None = None) -> None:
        self.problems.add(Diagnostic("syntax-error", message, at=at, help=help))

    def number(self, word: str, at: Span) -> int | float:
        """An int or a finite float."""
        if len(word) > MAX_DIGITS:
            self.mistake(f"this number has {len(word)} digits", at)
            return 0
        if word.lstrip("-").isdigit():
            return int(word)
        value = float(word)
        if not math.isfinite(value):
            self.mistake(f"`{word}` is too large for a number", at)
            return 0
        return value


@dataclass(frozen=True, slots=True)
class AttributeItem:
    """``name = value`` between an emit's brackets; ``name`` None: ``attrs of`` what ``copy_from`` says."""

    name: str | None
    value: s.Expr | None
    copy_from: str | None
    span: Span


@dataclass(frozen=True, slots=True)
class Bracket:
    """``target[...]`` that is no index: an emitted node before its arguments, or a mistake."""

    target: Any
    items: tuple[Any, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Mark:
    """A flag-like rule (``abstract``, ``once``, ``?``) was present."""


class Doc(str):
    """The lines of documentation before a statement; all other words of a file are plain text."""

    __slots__ = ()


AFTER_DOC = re.compile(r"(?:\s|#[^\n]*)*")  # a statement starts behind its documentation


Rule = Callable[[Builder, Span, list[Any]], Any]
RULES: dict[str, Rule] = {}


def on(*names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def placed(builder: Builder, rule: str, children: list[Any]) -> list[Any]:
    """Says so where an emitted node or its brackets stand in the middle of an expression."""
    for k, child in enumerate(children):
        if isinstance(child, s.NodeCall) and rule != "ebind":
            builder.mistake("a node with brackets must be the whole right side of a line of `emit`", child.span)
        elif isinstance(child, Bracket) and rule != "call":
            builder.mistake("an index is one expression", child.span)
        else:
            continue
        children[k] = s.Number(0, child.span)
    return children


def doc_of(children: list[Any]) -> str:
    """Takes the documentation off the front; its text without ``##``."""
    if children and isinstance(children[0], Doc):
        lines = [line.strip()[2:].strip() for line in str(children.pop(0)).splitlines() if line.strip()]
        return "\n".join(lines)
    return ""


def marked(children: list[Any]) -> bool:
    """Takes a flag off the front if there is one."""
    if children and isinstance(children[0], Mark):
        children.pop(0)
        return True
    return False


def names_of(value: Any) -> tuple[str, ...]:
    return tuple(value) if value else ()


def unquote(token: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), token[1:-1])
