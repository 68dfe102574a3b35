"""Writes grammar.md and its railroad diagrams from grammar/potc.lark: ``python docs/language/make_grammar.py``.

The grammar file is read by a small parser of its own, so that the page shows the rules as they are written there and not
what lark makes of them. The same grammar gives the same bytes. A test fails when the page is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import railroad

HERE = Path(__file__).resolve().parent
GRAMMAR = HERE.parents[1] / "grammar" / "potc.lark"
# First rule of each part of the page, in the order of the grammar file.
PARTS = {
    "start": "Files",
    "ops_def": "Operators, predicates, patterns by name",
    "device": "Devices",
    "rule": "Rules",
    "chain": "Patterns",
    "qalts": "Number formats",
    "rewrite": "Rewrites and tests",
    "expr": "Expressions",
}
PROSE = {
    "NAME": "letters, digits and `_`; not a digit first, not `_` alone",
    "QUALIFIED": "`domain::Operator`; the domain may have points",
    "INT": "digits",
    "NUMBER": "digits with a point or an exponent, or both: `0.5`, `1e-3`",
    "STRING": 'text in double quotes, on one line; `\\"` and `\\\\` stand for themselves',
    "TYPE": "an element type: `i2` to `i64`, `u2` to `u64`, `f16`, `f32`, `f64`, `bf16`, `f8e4m3`, `f8e5m2`",
    "CODE": "a diagnostic's code: words joined by hyphens",
    "DOC": "lines that begin with `##`",
    "ONNX_TEXT": "a graph as ONNX text, in braces; braces inside of it are counted, to a depth of eight",
}


# ---------------------------------------------------------------------------------------------- the grammar file


@dataclass(frozen=True, slots=True)
class Symbol:
    """A rule or terminal by name, or ``literal``: the characters themselves."""

    name: str
    literal: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """``sign``: "?", "*" or "+"."""

    part: Node
    sign: str


Node = Symbol | Sequence | Choice | Repeat
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|/(?:[^/\\]|\\.)+/|->|[A-Za-z_]\w*|[()\[\]|?*+]')
_DEFINITION = re.compile(r"^\??(\w+)(?:\.\d+)?\s*:(.*(?:\n[ \t]+.*)*)", re.M)


def read_grammar(text: str) -> tuple[dict[str, Node], dict[str, Node | None]]:
    """Rules and terminals by name, in the order of the file. A terminal that is a pattern has no node."""
    rules: dict[str, Node] = {}
    terminals: dict[str, Node | None] = {}
    for match in _DEFINITION.finditer(re.sub(r"(?m)^//.*$", "", text)):
        name, tokens = match[1], _TOKEN.findall(match[2])
        if any(t.startswith("/") for t in tokens):
            terminals[name] = None
            continue
        (rules if name.islower() else terminals)[name] = _choice(tokens)
        assert not tokens, (name, tokens)
    return rules, terminals


def _choice(tokens: list[str]) -> Node:
    options = [_sequence(tokens)]
    while tokens and tokens[0] == "|":
        tokens.pop(0)
        options.append(_sequence(tokens))
    return options[0] if len(options) == 1 else Choice(tuple(options))


def _sequence(tokens: list[str]) -> Node:
    parts: list[Node] = []
    while tokens and tokens[0] not in "|)]":
        token = tokens.pop(0)
        if token == "->":  # the name of an alternative in the tree
            tokens.pop(0)
        elif token in "([":
            inner = _choice(tokens)
            tokens.pop(0)
            parts.append(Repeat(inner, "?") if token == "[" else inner)
        elif token in "?*+":
            parts.append(Repeat(parts.pop(), token))
        else:
            parts.append(Symbol(token.strip('"').replace('\\"', '"'), token.startswith('"')))
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))


def plain(node: Node, terminals: Mapping[str, Node | None]) -> Node:
    """With signs and words in the place of terminals that stand for one."""
    if isinstance(node, Symbol):
        found = None if node.literal else terminals.get(node.name)
        return found if isinstance(found, Symbol) else node
    if isinstance(node, Repeat):
        return Repeat(plain(node.part, terminals), node.sign)
    if isinstance(node, Sequence):
        return Sequence(tuple(plain(p, terminals) for p in node.parts))
    return Choice(tuple(plain(o, terminals) for o in node.options))


# ---------------------------------------------------------------------------------------------- productions as text


def spelled(node: Node, inside: bool = False) -> str:
    """A node in EBNF, words in quotes."""
    if isinstance(node, Symbol):
        return f'"{node.name}"' if node.literal else node.name
    if isinstance(node, Repeat):
        inner = spelled(node.part)
        return f"[ {inner} ]" if node.sign == "?" else f"{{ {inner} }}{'-' if node.sign == '+' else ''}"
    if isinstance(node, Sequence):
        return " ".join(spelled(p, True) for p in node.parts)
    listed = " | ".join(spelled(o) for o in node.options)
    return f"( {listed} )" if inside else listed


def production(name: str, node: Node, width: int = 118) -> str:
    """One rule, wrapped; each alternative on its own line where they don't fit on one."""
    line = f"{name} = {spelled(node)} ;"
    if len(line) <= width or not isinstance(node, Choice):
        return "\n".join(_wrapped(line, width))
    first, *rest = (spelled(o) for o in node.options)
    return "\n".join([f"{name} = {first}", *(f"  | {option}" for option in rest[:-1]), f"  | {rest[-1]} ;"])


def _wrapped(line: str, width: int) -> Iterator[str]:
    while len(line) > width:
        cut = line.rindex(" ", 0, width)
        yield line[:cut]
        line = f"    {line[cut + 1 :]}"
    yield line


# ---------------------------------------------------------------------------------------------- files


def drawn(node: Node) -> railroad.Diagram:
    """A node as a diagram."""
    if isinstance(node, Symbol):
        return railroad.box(node.name, node.literal)
    if isinstance(node, Sequence):
        return railroad.sequence([drawn(p) for p in node.parts])
    if isinstance(node, Choice):
        return railroad.choice([drawn(o) for o in node.options])
    inner = drawn(node.part)
    if node.sign == "?":
        return railroad.choice([railroad.nothing(), inner])
    looped = railroad.loop(inner)
    return looped if node.sign == "+" else railroad.choice([railroad.nothing(), looped])


def files() -> dict[str, str]:
    """What is written, by path below this folder."""
    rules, terminals = read_grammar(GRAMMAR.read_text(encoding="utf-8"))
    assert PARTS.keys() <= rules.keys(), PARTS.keys() - rules.keys()
    parts: dict[str, dict[str, Node]] = {}
    for name, node in rules.items():
        if name in PARTS:
            parts[PARTS[name]] = {}
        parts[list(parts)[-1]][name] = plain(node, terminals)
    written: dict[str, str] = {}
    page = [_HEAD]
    for title, listed in parts.items():
        stem = re.sub(r"\W+", "-", title.split(",")[0].lower())
        written[f"grammar/{stem}.svg"] = railroad.sheet(title, [(name, drawn(node)) for name, node in listed.items()])
        text = "\n".join(production(name, node) for name, node in listed.items())
        page.append(f"## {title}\n\n```ebnf\n{text}\n```\n\n![Diagrams of these productions](grammar/{stem}.svg)\n")
    page.append(_terminals(terminals))
    written["grammar.md"] = "\n".join(page)
    return written


_HEAD = """# Grammar

Made from [`grammar/potc.lark`](../../grammar/potc.lark) by `python docs/language/make_grammar.py`; don't edit it here.

A production is `name = ... ;`. `"words"` stand as they are, `[ ]` may be left out, `{ }` may be repeated or left out, `{ }-`
is there at least once, `|` separates alternatives. Blanks, line ends and remarks (`# ...`) may stand between any two words.
"""


def _terminals(terminals: Mapping[str, Node | None]) -> str:
    rows: list[str] = []
    for name, node in terminals.items():
        if node is None and name in PROSE:
            rows.append(f"| `{name}` | {PROSE[name]} |")
        elif isinstance(node, Choice):
            listed = ", ".join(f"`{o.name}`" for o in node.options if isinstance(o, Symbol))
            rows.append(f"| `{name}` | {listed} |")
    return "\n".join(["## Words and signs", "", "| name | is |", "|---|---|", *rows, ""])


def main() -> None:
    """Writes what has changed, removes diagrams that are no longer made."""
    made = files()
    (HERE / "grammar").mkdir(exist_ok=True)
    for path in (HERE / "grammar").glob("*.svg"):
        if f"grammar/{path.name}" not in made:
            path.unlink()
    for name, text in made.items():
        (HERE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
