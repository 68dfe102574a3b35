"""Why a text is no rule file: several mistakes in one run; after each, parsing goes on at the next statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Rejected
from potc.diagnostics.source import Source, Span
from potc.language import mistakes, words
from potc.language.tables import grammar_text, load_parser
from potc.limits import limits, with_raising

MAX_MISTAKES = 20  # of one file; more are noise that follows from the first
_STATEMENT = re.compile(rf"^[ \t]*({'|'.join(words.STATEMENTS)})(?![A-Za-z0-9_])", re.M)
_SKIPPED = re.compile(r'##?[^\n]*|"(?:[^"\\\n]|\\[^\n])*"')


@dataclass(frozen=True, slots=True)
class Grammar:
    """lark's parser, and the terminal of each statement keyword."""

    lark: Lark
    keywords: dict[str, str]


@lru_cache(maxsize=1)
def grammar() -> Grammar:
    """The grammar file, read once."""
    lark = load_parser(grammar_text())
    return Grammar(lark, {t.pattern.value: t.name for t in lark.terminals if t.pattern.type == "str"})


def rejection(source: Source) -> Rejected:
    """The mistakes of a text that the tables do not accept, or that is nested too deep."""
    problems = Diagnostics()
    tree = _tree(source, problems)
    if tree is not None:
        _bound(tree, source, problems)
    if not len(problems):
        raise AssertionError(f"lark accepts {source.path}, and its tables do not")
    return Rejected(problems)


def _tell(problems: Diagnostics, message: str, at: Span, help: str | None, label: str = "") -> None:
    problems.add(Diagnostic("syntax-error", message, at=at, help=help, label=label))


def _tree(source: Source, problems: Diagnostics) -> Tree[Token] | None:
    """The whole tree, or None with everything that went wrong in ``problems``."""
    parser = grammar().lark.parse_interactive(source.text)
    resumed = -1
    while True:
        try:
            tree = _advance(parser)
        except UnexpectedInput as error:
            offset = _report(error, source, problems)
            if len(problems) >= MAX_MISTAKES:
                return None
            resumed = _resume(parser, source, offset, resumed)
            if resumed < 0:
                return None
        else:
            return None if len(problems) else tree


def _advance(parser: InteractiveParser) -> Tree[Token]:
    for token in parser.lexer_thread.lex(parser.parser_state):
        parser.feed_token(token)
    return parser.feed_eof()


def _report(error: UnexpectedInput, source: Source, problems: Diagnostics) -> int:
    """Adds one diagnostic; returns the offset of what was not understood."""
    token: Token | None = None
    allowed: set[str] = set()
    offset = len(source.text)
    if isinstance(error, UnexpectedToken):
        token = error.token
        allowed = set(error.accepts or error.expected)
        if token is not None and token.type != "$END":
            offset = token.start_pos or 0
    elif isinstance(error, UnexpectedCharacters):
        offset = error.pos_in_stream or 0
        allowed = set(error.allowed or ())
    end = min(len(source.text), offset + max(1, len(str(token).split("\n")[0]) if token is not None else 1))
    span = Span(source, offset, end)
    slip = mistakes.explain(source, offset, allowed, grammar().keywords)
    if slip is not None:
        _tell(problems, slip.message, slip.at or span, slip.help)
    else:
        what = words.found(token, source.text, offset)
        wanted = words.expected(allowed, grammar().lark)
        _tell(problems, f"found {what}, expected {wanted}", span, None, f"expected {wanted}")
    return offset


def _resume(parser: InteractiveParser, source: Source, offset: int, before: int) -> int:
    """Continues at the next statement keyword that some open construct can take; its offset, -1 if there is none."""
    for match in _STATEMENT.finditer(source.text, source.text.rfind("\n", 0, offset) + 1):
        start = match.start(1)
        if start < offset or start <= before or _inside_text(source.text, start):
            continue
        if _unwind(parser, grammar().keywords[match[1]]):
            lexer: Any = parser.lexer_thread
            lexer.state.line_ctr.char_pos = start
            return start
    return -1


def _inside_text(text: str, offset: int) -> bool:
    line = text.rfind("\n", 0, offset) + 1
    return any(m.start() <= offset - line < m.end() for m in _SKIPPED.finditer(text[line : offset + 1]))


def _unwind(parser: InteractiveParser, terminal: str) -> bool:
    """Closes the innermost constructs until one can take the keyword; nothing changes where none can."""
    state = parser.parser_state
    table: Any = state.parse_conf.parse_table.states
    for depth in range(len(state.state_stack) - 1, -1, -1):
        if _takes(table, state.state_stack[depth], terminal):
            del state.state_stack[depth + 1 :]
            del state.value_stack[depth:]
            return True
    return False


def _takes(table: Any, state: int, terminal: str) -> bool:
    action = table[state].get(terminal)
    return action is not None and action[0].name == "Shift"


def _bound(tree: Tree[Token], source: Source, problems: Diagnostics) -> None:
    """The first place that is nested deeper than allowed."""
    level = [tree]
    for _ in range(limits().rule_nesting):
        level = [c for branch in level for c in branch.children if isinstance(c, Tree)]
        if not level:
            return
    meta = level[0].meta
    span = Span(source, 0, 0) if meta.empty else Span(source, meta.start_pos, min(meta.end_pos, meta.start_pos + 1))
    _tell(
        problems,
        f"this is nested more than {limits().rule_nesting} deep",
        span,
        with_raising("give parts of it a name, as a `pred` or a `pattern`", "rule-nesting"),
    )
