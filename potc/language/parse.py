"""Text to ``syntax.File``: lark's tables, run over the text by ``driver``; where that stops, ``recovery`` says why."""

from __future__ import annotations

import re
from functools import lru_cache

from potc.diagnostics.diagnostic import reject
from potc.diagnostics.source import Source, Span
from potc.language import build_patterns, build_statements, syntax
from potc.language.build import RULES, Builder
from potc.language.driver import Machine
from potc.language.tables import grammar_text, load_tables
from potc.limits import limits, with_raising

_BUILDERS = (build_patterns, build_statements)  # imported for what they register
_SKIPPED = re.compile(r'##?[^\n]*|"(?:[^"\\\n]|\\[^\n])*"')


@lru_cache(maxsize=1)
def machine() -> Machine:
    """The grammar file's tables, read once."""
    return Machine(load_tables(grammar_text()), RULES)


def parse(source: Source) -> syntax.File:
    """Parses one file. Raises Rejected (``syntax-error``, up to 20 of them), and nothing else, whatever the text.

    The same text is parsed once in a run: many files use the same ones.
    """
    length, most = len(source.text), limits().rule_characters
    if length > most:
        message = f"a rule file has at most {most:,} characters, this one has {length:,}"
        help_ = with_raising("take it apart, and `use` the parts", "rule-characters", length)
        raise reject("syntax-error", message, at=Span(source, 0, 0), help=help_)
    return _parsed(source, limits().rule_nesting)


@lru_cache(maxsize=64)
def _parsed(source: Source, nesting: int) -> syntax.File:
    builder = Builder(source)
    made = machine().run(source, builder)
    if made is None or made.depth > nesting:
        from potc.language.recovery import rejection  # imports lark, which a file without mistakes does not need

        raise rejection(source)
    builder.problems.stop()
    file: syntax.File = made.value
    return syntax.File(file.version, file.items, source, _comments(file))


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
