"""lark's tables as plain data, in the form that ``driver`` runs: what lark does with a rule is decided here, once.

Tables are a dict: ``start`` and ``end`` (states); ``actions``, for each state a dict from terminal to the next state, or to
``~rule``; ``gotos``, for each state a dict from nonterminal to the next state; ``rules``, tuples
``(size, nonterminal, builder, hands on, picks, nones)``; ``scanner_of``, for each state an index into ``scanners``: a regular
expression with a group for each terminal or for several fixed ones, and for such groups a dict from text to terminal.

``builder`` is the name of a building function, None where children are collected for the rule above. ``hands on``: where one
child is picked, it is the result. ``picks`` are triples: how many None to put before, which child, whether its children are
meant; ``nones``: how many None come last.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import Any

from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef


def tables_of(lark: Lark) -> dict[str, Any]:
    """The tables of a parser with a contextual lexer."""
    parsing: Any = lark.parse_interactive("").parser_state.parse_conf
    table = parsing.parse_table
    numbers: dict[Rule, int] = {}
    terminals = {t.name: t for t in lark.terminals}
    actions: dict[int, dict[str, int]] = {}
    gotos: dict[int, dict[str, int]] = {}
    scanners: dict[tuple[str, ...], int] = {}
    scanner_of: dict[int, int] = {}
    for state, row in table.states.items():
        shifts = {
            str(word): arg if action.name == "Shift" else ~numbers.setdefault(arg, len(numbers))
            for word, (action, arg) in row.items()
        }
        actions[state] = {w: to for w, to in shifts.items() if w in terminals or w == "$END"}
        gotos[state] = {w: to for w, to in shifts.items() if w not in actions[state]}
        accepted = tuple(sorted(w for w in actions[state] if w in terminals))
        scanner_of[state] = scanners.setdefault(accepted, len(scanners))
    return {
        "start": parsing.start_state,
        "end": parsing.end_state,
        "actions": actions,
        "gotos": gotos,
        "rules": [_rule(rule) for rule in numbers],
        "scanner_of": scanner_of,
        "scanners": [_scanner([terminals[w] for w in words], _skipped(lark)) for words in scanners],
    }


def _skipped(lark: Lark) -> str:
    """What may stand before any token; no token starts as something that is skipped."""
    terminals = {t.name: t.pattern.to_regexp() for t in lark.terminals}
    return "(?:" + "|".join(terminals[name] for name in lark.lexer_conf.ignore) + ")*"


def _scanner(terminals: list[TerminalDef], skipped: str) -> tuple[str, dict[str, dict[str, str]]]:
    """As lark's lexer does: high priorities and long patterns first, keywords looked up among what a pattern takes."""
    order = sorted(terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    keywords: dict[str, dict[str, str]] = {}
    embedded: set[str] = set()
    for pattern in (t for t in order if t.pattern.type == "re"):
        for word in (t for t in order if t.pattern.type == "str" and t.priority == pattern.priority):
            text = word.pattern.value
            found = re.match(pattern.pattern.to_regexp(), text)
            if found is not None and found[0] == text:
                keywords.setdefault(str(pattern.name), {})[str(text)] = str(word.name)
                embedded.add(word.name)
    groups: list[str] = []
    for kind, run in groupby((t for t in order if t.name not in embedded), key=lambda t: t.pattern.type):
        if kind == "re":
            groups.extend(f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in run)
        else:  # fixed words share a group: it is compiled faster
            words = list(run)
            group = f"_{len(groups)}"
            keywords[group] = {str(t.pattern.value): str(t.name) for t in words}
            groups.append(f"(?P<{group}>{'|'.join(t.pattern.to_regexp() for t in words)})")
    return skipped + "(?:" + "|".join([*groups, r"(?P<_END>\Z)"]) + ")", keywords


def _rule(rule: Rule) -> tuple[int, str, str | None, bool, list[tuple[int, int, bool]], int]:
    """What becomes of the children of a rule, as lark's tree builder does it."""
    empty = list(rule.options.empty_indices) or [False] * len(rule.expansion)
    nones = [len(run) for run in "".join("1" if e else "0" for e in empty).split("0")]
    picks: list[tuple[int, int, bool]] = []
    waiting = 0
    for k, symbol in enumerate(rule.expansion):
        waiting += nones[k]
        if rule.options.keep_all_tokens or not (symbol.is_term and getattr(symbol, "filter_out", False)):
            picks.append((waiting, k, not symbol.is_term and symbol.name.startswith("_")))
            waiting = 0
    origin = str(rule.origin.name)  # lark's names are tokens
    name = str(rule.alias or origin)
    hands_on = bool(rule.options.expand1) and not rule.alias
    return len(rule.expansion), origin, None if origin.startswith("_") else name, hands_on, picks, waiting + nones[-1]
