"""Formatting: parse(format(p)) == p, formatting twice changes nothing, no remark is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from expression_trees import expressions
from hypothesis import given, settings

from potc.diagnostics.source import Source
from potc.language import syntax as s
from potc.language.format import format_file
from potc.language.parse import parse
from potc.language.text import text

RULES = Path(__file__).parents[2] / "rules"
EVERYTHING = Path(__file__).parent / "everything.rules"


@pytest.mark.parametrize("path", [*sorted(RULES.glob("*.rules")), EVERYTHING], ids=lambda p: p.stem)
def test_laws_on_files(path: Path) -> None:
    file = parse(Source("a", path.read_text()))
    once = format_file(file)
    again = parse(Source("b", once))
    assert again == file
    assert format_file(again) == once
    assert [c.text for c in again.comments] == [c.text for c in file.comments]


@given(expressions())
@settings(max_examples=300, deadline=None)
def test_expressions_survive_their_text(expr: s.Expr) -> None:
    source = Source("a", f"pred p(x) = {text(expr)}\n")
    predicate = parse(source).items[0]
    assert isinstance(predicate, s.Predicate)
    assert predicate.body == expr
    assert text(predicate.body) == text(expr)
