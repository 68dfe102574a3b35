"""Text to ``syntax.File``. Several mistakes are told in one run: after each, parsing goes on at the next statement."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics
from potc.diagnostics.source import Source, Span
from potc.language import build_patterns, build_statements, mistakes, syntax, words
from potc.language.build import build
from potc.language.tables import load_parser
from potc.shipped import shipped_folder

_BUILDERS = (build_patterns, build_statements)  # imported for what they register
MAX_NESTING = 200
MAX_MISTAKES = 20  # of one file; more are noise that follows from the first
MAX_CHARACTERS = 1_000_000
_STATEMENT = re.compile(rf"^[ \t]*({'|'.join(words.STATEMENTS)})(?![A-Za-z0-9_])", re.M)
_SKIPPED = re.compile(r'##?[^\n]*|"(?:[^"\\\n]|\\[^\n])*"')


@dataclass(frozen=True, slots=True)
class Grammar:
    """lark's tables, and the terminal of each statement keyword."""

    lark: Lark
    keywords: dict[str, str]


@lru_cache(maxsize=1)
def grammar() -> Grammar:
    """The grammar file, read once."""
    inner = r"\{(?:[^{}\"]|\"[^\"\n]*\")*+\}"
    for _ in range(7):
        inner = rf"\{{(?:[^{{}}\"]|\"[^\"\n]*\"|{inner})*+\}}"
    text = (shipped_folder("grammar") / "potc.lark").read_text(encoding="utf-8").replace("BRACES", inner)
    lark = load_parser(text)
    return Grammar(lark, {t.pattern.value: t.name for t in lark.terminals if t.pattern.type == "str"})


@lru_cache(maxsize=64)
def parse(source: Source) -> syntax.File:
    """Parses one file. Raises Rejected (``syntax-error``, up to 20 of them), and nothing else, whatever the text.

    The same text is parsed once in a run: many files use the same ones.
    """
    problems = Diagnostics()
    if len(source.text) > MAX_CHARACTERS:
        _tell(
            problems,
            f"a rule file has at most {MAX_CHARACTERS:,} characters, this one has {len(source.text):,}",
            Span(source, 0, 0),
            None,
        )
        problems.stop()
    tree = _tree(source, problems)
    problems.stop()
    assert tree is not None
    _bound(tree, source, problems)
    problems.stop()
    file, more = build(tree, source)
    more.stop()
    return syntax.File(file.version, file.items, source, _comments(file))


def _tell(problems: Diagnostics, message: str, at: Span, help: str | None, label: str = "") -> None:
    problems.add(Diagnostic("syntax-error", message, at=at, help=help, label=label))


# ---------------------------------------------------------------------------------------------- recovery


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


# ---------------------------------------------------------------------------------------------- bounds and comments


def _bound(tree: Tree[Token], source: Source, problems: Diagnostics) -> None:
    """Nesting is bounded, so that no later walk over the tree can run out of stack."""
    level = [tree]
    for _ in range(MAX_NESTING):
        level = [c for branch in level for c in branch.children if isinstance(c, Tree)]
        if not level:
            return
    meta = level[0].meta
    span = Span(source, 0, 0) if meta.empty else Span(source, meta.start_pos, min(meta.end_pos, meta.start_pos + 1))
    _tell(
        problems,
        f"this is nested more than {MAX_NESTING} deep",
        span,
        "give parts of it a name, as a `pred` or a `pattern`",
    )


def _comments(file: syntax.File) -> tuple[syntax.Comment, ...]:
    """The remarks of a file; what looks like one inside a test's graph is none."""
    source = file.source
    graphs: list[tuple[int, int]] = []
    for item in file.items:
        if isinstance(item, syntax.Test):
            start = source.text.index(item.graph, item.span.start)
            graphs.append((start, start + len(item.graph)))
    found: list[syntax.Comment] = []
    for match in _SKIPPED.finditer(source.text):
        if match[0].startswith("#") and not match[0].startswith("##"):
            if any(low <= match.start() < high for low, high in graphs):
                continue
            line = source.text.rfind("\n", 0, match.start()) + 1
            own = not source.text[line : match.start()].strip()
            found.append(syntax.Comment(match[0][1:].strip(), own, Span(source, match.start(), match.end())))
    return tuple(found)
