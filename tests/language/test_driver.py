"""The parser's driver takes what lark takes: texts of the shipped rules with words and signs moved, left out or doubled."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st
from lark.exceptions import UnexpectedInput

from potc.diagnostics.source import Source
from potc.language.build import Builder
from potc.language.parse import machine
from potc.language.recovery import grammar
from potc.shipped import shipped_rules

WORDS = re.compile(r'"[^"\n]*"|##?[^\n]*\n|\w+|\s+|[^\w\s]')
STATEMENTS = [
    block
    for path in shipped_rules().values()
    for block in re.split(r"\n(?=\S)|\n  (?=rule|float|pass|graph|accum|qtype)", path.read_text(encoding="utf-8"))
]
PIECES = sorted({word for block in STATEMENTS for word in WORDS.findall(block) if len(word) < 20})


@st.composite
def texts(draw: st.DrawFn) -> str:
    blocks = draw(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=2))
    words = WORDS.findall("device d {\n" + "\n".join(blocks) + "\n}" if draw(st.booleans()) else "\n".join(blocks))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(words)))
        what = draw(st.sampled_from(["drop", "insert", "double"]))
        words[at : at + 1] = {
            "drop": [],
            "insert": [draw(st.sampled_from(PIECES)), *words[at : at + 1]],
            "double": words[at : at + 1] * 2,
        }[what]
    return "".join(words)


def lark_takes(text: str) -> bool:
    try:
        grammar().lark.parse(text)
    except UnexpectedInput:
        return False
    return True


SEEN: set[bool] = set()  # of all examples


@settings(max_examples=250, deadline=None)
@given(texts())
def test_the_driver_takes_what_lark_takes(text: str) -> None:
    source = Source("a.rules", text)
    taken = machine().run(source, Builder(source)) is not None
    SEEN.add(taken)
    assert taken == lark_takes(text)


def test_both_answers_were_seen() -> None:
    assert {True, False} == SEEN
