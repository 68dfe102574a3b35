"""Runs the parser's tables over a text, and builds on the way: no token objects, no tree in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from potc.diagnostics.source import Source, Span
from potc.language.build import AFTER_DOC, Builder, Doc, Rule, placed

_Picks = list[tuple[int, int, bool]]


@dataclass(frozen=True, slots=True)
class Made:
    """What a text became. ``depth``: how deep it is nested, in rules."""

    value: Any
    depth: int


# A value, where its text starts and ends (both -1: it has none), how deep it is nested.
_Piece = tuple[Any, int, int, int]
_Scanner = tuple[Callable[[str, int], re.Match[str] | None], dict[str, dict[str, str]]]
_Finish = Callable[[Source, Builder, list[_Piece]], _Piece]


def _finisher(name: str | None, hands_on: bool, picks: _Picks, nones: int, size: int, build: Rule) -> _Finish | None:
    """Makes one piece of the pieces that a rule has put together; None: the only piece stays as it is."""
    simple = not nones and all(not before and not inner for before, _, inner in picks)
    if hands_on and size == 1 and len(picks) == 1 and simple:
        return None
    order = [k for _, k, _ in picks]
    every = order == list(range(size))

    def chosen(pieces: list[_Piece]) -> list[Any]:
        if simple:
            return [p[0] for p in pieces] if every else [pieces[k][0] for k in order]
        children: list[Any] = []
        for before, k, inner in picks:
            if before:
                children += [None] * before
            if not inner:
                children.append(pieces[k][0])
            elif children:
                children += pieces[k][0]
            else:
                children = pieces[k][0]  # its own list grows: lists are recursive to the left
        return children + [None] * nones if nones else children

    def finish(source: Source, builder: Builder, pieces: list[_Piece]) -> _Piece:
        start = end = -1
        depth = 0
        for piece in pieces:
            if piece[1] >= 0:
                end = piece[2]
                if start < 0:
                    start = piece[1]
            if piece[3] > depth:
                depth = piece[3]
        children = chosen(pieces)
        if name is None:
            return children, start, end, depth
        if hands_on and len(children) == 1:
            return children[0], start, end, depth
        begin = start
        if children and children[0].__class__ is Doc:
            blank = AFTER_DOC.match(source.text, pieces[0][2])
            begin = blank.end() if blank is not None else start
        span = Span(source, begin, max(begin, end)) if start >= 0 else Span(source, 0, 0)
        if builder.emitted:
            children = placed(builder, name, children)
        return build(builder, span, children), start, end, depth + 1

    return finish


def _never(builder: Builder, span: Span, children: list[Any]) -> Any:
    raise AssertionError("a rule without a building function always hands on its one child")


class Machine:
    """An LALR(1) automaton with its lexer, see ``plain``, and the building function of each rule, by name."""

    def __init__(self, tables: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
        self._start: int = tables["start"]
        self._end: int = tables["end"]
        self._actions: dict[int, dict[str, int]] = tables["actions"]
        self._gotos: dict[int, dict[str, int]] = tables["gotos"]
        self._scanner_of: dict[int, int] = tables["scanner_of"]
        self._scanners: list[tuple[str, dict[str, dict[str, str]]]] = tables["scanners"]
        self._finish = [
            (size, origin, _finisher(name, hands_on, picks, nones, size, rules.get(name or "", _never)))
            for size, origin, name, hands_on, picks, nones in tables["rules"]
        ]
        self._compiled: dict[int, _Scanner] = {}

    def _scanner(self, number: int) -> _Scanner:
        """Compiled when a text first comes to a state that needs it."""
        if number not in self._compiled:
            pattern, keywords = self._scanners[number]
            self._compiled[number] = re.compile(pattern).match, keywords
        return self._compiled[number]

    def run(self, source: Source, builder: Builder) -> Made | None:
        """The value of the whole text; None where it is not of the language."""
        text, actions, gotos = source.text, self._actions, self._gotos
        states, pieces = [self._start], list[_Piece]()
        at = 0
        while True:
            match, keywords = self._scanner(self._scanner_of[states[-1]])
            found = match(text, at)
            if found is None:
                return None
            kind = found.lastgroup or ""
            word = found[kind]
            at = found.end()
            if kind in keywords:
                kind = keywords[kind].get(word, kind)
            elif kind == "_END":
                kind = "$END"
            while (action := actions[states[-1]].get(kind)) is not None and action < 0:
                size, origin, finish = self._finish[~action]
                if finish is not None:
                    piece = finish(source, builder, pieces[-size:] if size else [])
                    if size:
                        del states[-size:], pieces[-size:]
                    pieces.append(piece)
                elif size:  # one rule in the place of another
                    states.pop()
                states.append(gotos[states[-1]][origin])
                if kind == "$END" and states[-1] == self._end:
                    return Made(pieces[-1][0], pieces[-1][3])
            if action is None:
                return None
            states.append(action)
            pieces.append((Doc(word) if kind == "DOC" else word, at - len(word), at, 0))
