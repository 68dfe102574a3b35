"""How diagnostics look: for people in terminals, and for programs."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Diagnostic, Related, Severity
from potc.diagnostics.render_json import render_json
from potc.diagnostics.render_text import render
from potc.diagnostics.source import Source, Span

SOURCE = Source("npu.rules", "potc 1\n" * 8 + "\trule conv { }\nrule any { }\n")


def at(text: str) -> Span:
    start = SOURCE.text.index(text)
    return Span(SOURCE, start, start + len(text))


def test_two_places() -> None:
    diagnostic = Diagnostic(
        "overlapping-rules",
        "`conv` and `any` match the same nodes",
        at=at("rule any"),
        label="this one",
        related=(Related(at("conv"), "and this one"),),
        help="narrow one",
    )
    assert (
        render(diagnostic)
        == """\
error[overlapping-rules]: `conv` and `any` match the same nodes
  --> npu.rules:10:1
   |
10 | rule any { }
   | ^^^^^^^^ this one
  ::: npu.rules:9:7
   |
 9 |     rule conv { }
   |          ---- and this one
   = help: narrow one"""
    )


def test_a_node_of_a_model() -> None:
    diagnostic = Diagnostic("no-kernel", "nothing is read", Severity.WARNING, node="a\nb\x1b[31m\u202e", help="look")
    wanted = "warning[no-kernel]: nothing is read\n --> node a\\u{a}b\\u{1b}[31m\\u{202e}\n  = help: look"
    assert render(diagnostic) == wanted


def test_without_help_of_its_own_a_diagnostic_has_that_of_its_code() -> None:
    diagnostic = Diagnostic("no-kernel", "nothing reads it")
    assert render(diagnostic).endswith("= help: remove the quantizer, or add a rule for the operator")
    assert json.loads(render_json(diagnostic))["help"] == "remove the quantizer, or add a rule for the operator"


def test_color_surrounds_and_nothing_else_changes() -> None:
    diagnostic = Diagnostic("usage", "no", at=at("any"), label="here")
    colored = render(diagnostic, color=True)
    assert "\x1b[" in colored
    plain = colored
    for code in ("\x1b[0m", "\x1b[1;31m", "\x1b[1m", "\x1b[31m", "\x1b[34m"):
        plain = plain.replace(code, "")
    assert plain == render(diagnostic)


def test_json_is_one_line() -> None:
    line = render_json(Diagnostic("usage", "no\nway", at=at("any"), related=(Related(at("conv"), "x"),)))
    assert "\n" not in line
    document = json.loads(line)
    assert document["at"] == {"file": "npu.rules", "line": 10, "column": 6, "end_line": 10, "end_column": 9}
    assert document["severity"] == "error"


@given(st.text(), st.text(), st.integers(0, 50), st.integers(0, 50))
def test_any_place_in_any_text(text: str, label: str, start: int, length: int) -> None:
    span = Span(Source("a", text), min(start, len(text)), min(start + length, len(text)))
    shown = render(Diagnostic("usage", label, at=span, label=label, node=label))
    assert all(c.isprintable() or c in "\n " for c in shown)
    json.loads(render_json(Diagnostic("usage", label, at=span)))
