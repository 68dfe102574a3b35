"""Formatting: parse(format(p)) == p, formatting twice changes nothing, no remark is lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from expression_trees import expressions
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.source import Source
from potc.language import syntax as s
from potc.language.format import format_file
from potc.language.parse import parse
from potc.language.text import text

RULES = Path(__file__).parents[2] / "rules"
EVERYTHING = Path(__file__).parent / "everything.rules"
CASES = Path(__file__).parents[1] / "cases" / "format"


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


TOKEN = re.compile(r'graph \{.*?\n  \} \}|(?:##[^\n]*\n\s*)+|#[^\n]*\n|"(?:[^"\\\n]|\\.)*"|[^\s"#]+|\s+', re.S)
GAPS = st.sampled_from(
    [" ", "\n", "\n\n", "\n\n\n    ", "\t", " # a remark\n", "\n# own line\n", "\n\n  # apart\n\n", " \n"]
)


@given(st.data())
@settings(max_examples=25)
def test_laws_on_any_layout(data: st.DataObject) -> None:
    """Wherever lines end, blank lines are and remarks stand."""
    plain = EVERYTHING.read_text()
    pieces: list[str] = []
    for token in TOKEN.findall(plain):
        if token.isspace() and data.draw(st.integers(0, 9)) == 0:
            token = data.draw(GAPS)
        pieces.append(token)
    moved = parse(Source("a", "".join(pieces)))
    once = format_file(moved)
    again = parse(Source("b", once))
    assert again == moved
    assert format_file(again) == once
    assert [c.text for c in again.comments] == [c.text for c in moved.comments]


def canonical(text: str) -> str:
    return format_file(parse(Source("a", text)))


def test_style() -> None:
    """What the canonical layout is; the blank lines are the author's."""
    assert canonical((CASES / "style.rules").read_text()) == (CASES / "style.formatted.rules").read_text()


def test_short_rules_stand_on_one_line_whoever_wrote_them() -> None:
    short = "device d {\n  rule f { match Relu(x) as y   quant x, y: u8 }\n}\n"
    assert canonical("device d {rule f {\nmatch Relu(x) as y\nquant x, y: u8}}") == short
    assert canonical(short) == short
    assert canonical("device d { rule f { match Relu(x) # why\n } }") == (
        "device d {\n  rule f {\n    match Relu(x)  # why\n  }\n}\n"
    )


def test_braces_of_short_neighbours_line_up() -> None:
    text = "device d {\n  rule f { match A }\n  float long { match B }\n\n  rule g { match C }\n  ## Doc.\n  rule gg { match D }\n}\n"
    assert canonical(text) == text.replace("rule f {", "rule f     {")


def test_graphs_are_left_byte_for_byte() -> None:
    graph = 'graph {  g(float[1] x)\t=> (float[1] y)\n{ y =  Relu (x)\n\n\n   # "no remark"\n} \t}'
    assert canonical(f'test "t" {{{graph}\n expect float y}}') == f'test "t" {{\n  {graph}\n  expect float y\n}}\n'


def test_remarks_keep_their_inner_layout_and_line_up() -> None:
    text = "#  - a list\n#x\n#\ndevice d {\n  requantize # one\n  interchange i8, u8   # two\n  graph input: u8\n  graph output: u8 # alone\n}\n"
    assert canonical(text) == (
        "#  - a list\n# x\n#\ndevice d {\n  requantize          # one\n  interchange i8, u8  # two\n"
        "  graph input: u8\n  graph output: u8  # alone\n}\n"
    )


def test_small_numbers_are_powers_of_ten() -> None:
    pattern = "pattern P(x) match Mul(x, 0.044715 within {})\n"
    assert canonical(pattern.format("0.00001")) == pattern.format("1e-5")
    assert canonical(pattern.format("1e-3")) == pattern.format("1e-3")
    assert canonical(pattern.format("0.25")) == pattern.format("0.25")


def test_remarks_stay_between_the_lines_of_a_pattern_and_of_an_emit() -> None:
    text = (
        "pattern p(x) match {  # open\n  # first\n  a = Relu(x)  # one\n\n  # second\n  y = Abs(a)\n  # last\n}\n"
        "  require x.rank == 4  # why\n\n"
        "rewrite q {\n  match {\n    # only\n    y = Relu(x)\n  }  # after\n  # up\n  emit a = Abs(x)\n"
        "       # between\n       y = Neg(a)  # tail\n}\n"
    )
    assert canonical(text) == text
    assert canonical("rewrite q {\n match { y = Add(a, # mid\n b) }\n emit y = a }\n") == (
        "rewrite q {\n  match {\n    # mid\n    y = Add(a, b)\n  }\n  emit y = a\n}\n"
    )
