"""Parsing: several mistakes per run, the table of common slips, and nothing but Rejected on any text."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.diagnostics.render_text import render
from potc.diagnostics.source import Source
from potc.language import mistakes
from potc.language.parse import parse
from potc.limits import limits

RULES = Path(__file__).parents[2] / "rules"
SHIPPED = {p.stem: p.read_text() for p in sorted(RULES.glob("*.rules"))}


def diagnose(text: str) -> tuple[Diagnostic, ...]:
    try:
        parse(Source("x.rules", text))
    except Rejected as rejected:
        return rejected.diagnostics
    return ()


def in_rule(body: str) -> str:
    return f"device d {{\n  rule r {{\n{body}\n  }}\n}}\n"


SLIPS = [  # rules, words of the message, words of the help
    ('device d {\n  rule r { note "x\n  }\n}', "no closing quote", '"'),
    ("device d {\n  rule r { note 'x' }\n}", "double quotes", '"..."'),
    ("device d {\n  opset ai.onnx 13 .. 25;\n}", "no `;`", "remove"),
    ("// remark\ndevice d { }", "begin with `#`", "`#`"),
    ("device d {\n  ## left over\n}", "documents a declaration", "`#`"),
    (
        "device d {\n  rule a { match Relu(x)\n  rule b { match Tanh(x) }\n}",
        "before `rule a {` is closed",
        "missing `}`",
    ),
    ("device d {\n  pass MaxPool\n", "the file ends before `device d {` is closed", "missing `}`"),
    ("device d { }\n}\n", "closes nothing", "remove it"),
    (in_rule("match Conv[group = 1](x)"), "`=` gives a name", "`==`"),
    ("device d {\n  qtype a == u8 sym\n}", "`==` compares, `=` gives a name", "`=`"),
    (in_rule("match Conv(x) => Relu as y"), "joined by `->`", "`->`"),
    (in_rule("match Relu(x) quant x: u8 per-tensor"), "`per-tensor` is spelled with a hyphen", "`per_tensor`"),
    (in_rule("match Relu(x) require a == 1 && b == 2"), "`&&` is written `and`", "`and`"),
    (in_rule("match Relu(x) require a == 1 || b == 2"), "`||` is written `or`", "`or`"),
    (in_rule("match Relu(x) require !stored(x)"), "`!` is written `not`", "`not`"),
    ("device d {\n  accum int16 lanes 2\n}", "`int16` is spelled `i16`", "`i16`"),
    ("device d {\n  opset ai.onnx 13 ... 25\n}", "two dots", "low .. high"),
    ("device d {\n  opset 13 .. 25\n}", "an opset has a domain", "`opset ai.onnx LOW .. HIGH`"),
    ("device d {\n  match Relu(x)\n}", "`match` belongs inside a rule", "braces"),
    (in_rule("Conv(x, w) as y"), "must begin with `match`", "`match`"),
    (in_rule("match Conv(x w) as y"), "comma is missing before `w`", "`,`"),
    ("device d {\n  pass MaxPool Reshape\n}", "comma is missing before `Reshape`", "`,`"),
    (in_rule("match Relu(x) as y quant x: u8 sym y: u8 sym"), "comma is missing before `y`", "`,`"),
]


@pytest.mark.parametrize(("text", "message", "help_"), SLIPS, ids=[m for _, m, _ in SLIPS])
def test_common_slips_have_their_own_sentence(text: str, message: str, help_: str) -> None:
    first = diagnose(text)[0]
    assert first.code == "syntax-error"
    assert message in first.message
    assert help_ in (first.help or "")


def test_every_slip_of_the_table_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    met: set[str] = set()

    def watched(entry: mistakes.Entry) -> mistakes.Entry:
        def run(place: mistakes.Place) -> mistakes.Slip | None:
            slip = entry(place)
            if slip is not None:
                met.add(entry.__name__)
            return slip

        return run

    table = mistakes.TABLE
    monkeypatch.setattr(mistakes, "TABLE", tuple(watched(e) for e in table))
    for text, _, _ in SLIPS:
        diagnose(text)
    assert {e.__name__ for e in table} - met == set()


def test_three_mistakes_are_told_in_one_run() -> None:
    text = SHIPPED["cpu"]
    broken = (
        text.replace("group == x", "group = x", 1)
        .replace("u8 asym per_tensor fixed", "u8 asym per-tensor fixed", 1)
        .replace("pass MaxPool,", "pass MaxPool", 1)
    )
    found = diagnose(broken)
    assert len(found) == 3
    assert len({d.at.line for d in found if d.at}) == 3


def test_plain_mistakes_say_found_and_expected() -> None:
    (only,) = diagnose("device d {\n  feature fast bool = true\n}")
    assert only.message == "found `bool`, expected `:`"


def test_nesting_is_bounded() -> None:
    for deep in ("(" * 5000 + "1" + ")" * 5000, "-" * 5000 + "1", "not " * 5000 + "true", " + ".join("1" * 5000)):
        (only,) = diagnose(f"pred p() = {deep}")
        assert str(limits().rule_nesting) in only.message


@pytest.mark.parametrize(
    "text",
    ["", "potc 2", "pred p() = 1e999", f"potc {'9' * 5000}", "pred p() = Conv[attrs of c](x) + 1", "pred p() = (1)(2)"],
)
def test_odd_texts(text: str) -> None:
    assert all(d.code == "syntax-error" for d in diagnose(text))


WORDS = [
    *[
        "potc",
        "use",
        "ops",
        "op",
        "pred",
        "pattern",
        "device",
        "rule",
        "float",
        "match",
        "require",
        "quant",
        "unify",
        "emit",
        "test",
        "graph",
        "{",
        "}",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        "=",
        "==",
        "->",
        "~>",
        "?",
        "...",
        "..",
        "|",
        "&",
        "+",
        "-",
        "*",
        "/",
        "%",
    ],
    *[
        "Conv",
        "x",
        "y",
        "w:",
        "const",
        '"text"',
        "1",
        "2.5",
        "u8",
        "sym",
        "per_channel(out)",
        "in",
        "not",
        "and",
        "or",
        "as",
        "any",
        "all",
        "when",
        "else",
        "$",
        "##",
        "#",
        "\n",
    ],
]


@given(st.text())
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    for d in diagnose(text):
        render(d)


@given(st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join))
@settings(max_examples=300)
def test_any_words_are_parsed_or_rejected(text: str) -> None:
    for d in diagnose(text):
        render(d)


@given(
    st.sampled_from(sorted(SHIPPED)), st.integers(0, 10_000), st.integers(0, 40), st.text(string.printable, max_size=12)
)
@settings(max_examples=150, deadline=None)
def test_damaged_files_are_parsed_or_rejected(name: str, start: int, length: int, put: str) -> None:
    text = SHIPPED[name]
    start %= len(text)
    for d in diagnose(text[:start] + put + text[start + length :]):
        assert d.code == "syntax-error"
        render(d)
