"""Grammar terminals in people's words: what was found, what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lark import Lark, Token

_PHRASES = {
    "NAME": "a name",
    "QUALIFIED": "an operator",
    "STRING": 'text in "quotes"',
    "INT": "a whole number",
    "NUMBER": "a number",
    "TYPE": "an element type such as `u8` or `f32`",
    "DOC": "documentation",
    "CMP": "a comparison",
    "CODE": "a diagnostic's code",
    "ONNX_TEXT": "a graph in braces",
    "ARROW": "`->`",
    "ELLIPSIS": "`...`",
    "UNDERSCORE": "`_`",
    "FLAG": "`commutative`",
    "DIRECTION": "`input` or `output`",
    "WORD_MOD": "a property of a number format such as `sym` or `per_tensor`",
    "$END": "the end of the file",
}
_EXPRESSION_STARTS = {"NUMBER", "INT", "STRING", "TYPE", "NAME", "TRUE", "FALSE", "NOT", "MINUS", "LPAR", "QUALIFIED"}
_OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "PERCENT", "CMP", "AND", "OR", "IN", "LPAR", "LSQB", "DOT", "__DOTDOT"}
STATEMENTS = [
    "use",
    "ops",
    "op",
    "pred",
    "extern",
    "pattern",
    "abstract",
    "device",
    "rewrite",
    "test",
    "prefer",
    "opset",
    "interchange",
    "requantize",
    "feature",
    "set",
    "remove",
    "qtype",
    "accum",
    "graph",
    "pass",
    "same_scale",
    "rule",
    "float",
    "override",
    "match",
    "require",
    "quant",
    "unify",
    "keep",
    "note",
    "speedup",
    "emit",
    "expect",
]
_STATEMENT_SET = {w.upper() for w in STATEMENTS} | {"DOC"}


def found(token: Token | None, text: str, offset: int) -> str:
    """The thing at an offset: a token if the lexer made one, else a character."""
    if (token is not None and token.type == "$END") or offset >= len(text):
        return "the end of the file"
    word = str(token) if token is not None else text[offset]
    word = word.splitlines()[0] if word.splitlines() else word
    return f"`{word if len(word) <= 40 else word[:37] + '...'}`"


def expected(terminals: Iterable[str], lark: Lark) -> str:
    """At most a few phrases joined by "or"; families of terminals become one phrase."""
    left = set(terminals)
    phrases: list[str] = []
    if {"NUMBER", "STRING", "LPAR"} <= left:
        left -= _EXPRESSION_STARTS
        phrases.append("an expression")
    if len(left & _OPERATORS) >= 4:
        left -= _OPERATORS
        phrases.append("an operator")
    statements = left & _STATEMENT_SET
    if len(statements) > 3:
        left -= statements
        phrases.append("the next statement")
    left -= {"DOC"} if len(left) > 1 else set()
    phrases = [*(phrase(t, lark) for t in sorted(left)), *phrases]
    if len(phrases) > 5:
        phrases = [*phrases[:4], "something else that may follow"]
    return " or ".join((", ".join(phrases[:-1]), phrases[-1]) if len(phrases) > 1 else phrases)


def phrase(terminal: str, lark: Lark) -> str:
    """One terminal in words."""
    known = _PHRASES.get(terminal)
    if known is not None:
        return known
    for definition in lark.terminals:
        if definition.name == terminal and definition.pattern.type == "str":
            return f"`{definition.pattern.value}`"
    return re.sub("_", " ", terminal.lower()).strip()
