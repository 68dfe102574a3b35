"""The language's book is complete: every keyword, production, function, question and storage stands in some block of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lark import Token, Tree

from potc.diagnostics.source import Source
from potc.language.arithmetic import FUNCTIONS
from potc.language.conditions import QUESTIONS, TENSOR_FIELDS
from potc.language.format import format_file
from potc.language.parse import parse
from potc.language.program import INTEGERS, LARGEST_FLOAT
from potc.language.recovery import grammar

BOOK = Path(__file__).parents[2] / "docs" / "language"
BLOCK = re.compile(r"^```rules\n(.*?)^```", re.M | re.S)
PAGES = [page for page in sorted(BOOK.glob("*.md")) if page.stem != "tour"]
TREES = [grammar().lark.parse(block) for page in PAGES for block in BLOCK.findall(page.read_text())]
BRANCHES = [branch for tree in TREES for branch in tree.iter_subtrees()]
WORDS = re.compile(r"^[a-z][a-z0-9_]*$")


def tokens() -> Iterator[Token]:
    for branch in BRANCHES:
        yield from (child for child in branch.children if isinstance(child, Token))


def text_of_blocks() -> str:
    blocks = "\n".join(block for page in PAGES for block in BLOCK.findall(page.read_text()))
    return re.sub(r'"[^"\n]*"|#[^\n]*', "", blocks)


def called() -> set[str]:
    """Names of functions and questions that some expression calls."""
    calls = (b.children[0] for b in BRANCHES if b.data == "call")
    return {str(c.children[0]) for c in calls if isinstance(c, Tree) and c.data == "name"}


def alternatives(pattern: str) -> set[str]:
    """What ``(?:a|b|c)`` can be, where it is a list of words or signs."""
    found = re.fullmatch(r"\(\?:([^()\[\]]+)\)", pattern)
    return {re.sub(r"\\(.)", r"\1", word) for word in found[1].split("|")} if found else set()


WANTED = [
    word
    for terminal in grammar().lark.terminals
    for word in ([terminal.pattern.value] if terminal.pattern.type == "str" else alternatives(terminal.pattern.value))
]


def test_the_words_of_the_grammar_are_found() -> None:
    assert len(WANTED) > 100
    assert {"requantize", "shared_zero_point", "~>", "!=", "commutative", "input"} <= set(WANTED)


@pytest.mark.parametrize("word", sorted(WANTED))
def test_every_word_and_sign_is_shown(word: str) -> None:
    text = text_of_blocks()
    assert re.search(rf"\b{word}\b", text) if WORDS.match(word) else word in text


def test_every_production_is_shown() -> None:
    shown = {str(branch.data) for branch in BRANCHES}
    inlined = {rule.origin.name for rule in grammar().lark.rules if rule.options.expand1}
    every = {rule.alias or rule.origin.name for rule in grammar().lark.rules}
    missing = {name for name in every if not name.startswith("_")} - shown - inlined
    assert not missing


@pytest.mark.parametrize("name", sorted({*FUNCTIONS, *QUESTIONS, "scale"}))
def test_every_function_is_shown_and_told(name: str) -> None:
    assert name in called()
    if name != "scale":
        assert f"`{name}(" in (BOOK / "conditions.md").read_text()


@pytest.mark.parametrize("name", sorted({*INTEGERS, *LARGEST_FLOAT}))
def test_every_storage_is_shown_and_told(name: str) -> None:
    assert any(token.type == "TYPE" and token == name for token in tokens())
    assert f"`{name}`" in (BOOK / "formats.md").read_text()


@pytest.mark.parametrize("name", sorted(TENSOR_FIELDS))
def test_every_property_of_tensors_is_told(name: str) -> None:
    assert f"`x.{name}`" in (BOOK / "conditions.md").read_text()


def test_the_table_of_contents_has_every_page() -> None:
    index = (BOOK / "index.md").read_text()
    assert all(f"({page.name})" in index for page in BOOK.glob("*.md") if page.stem != "index")


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem != "grammar"], ids=lambda p: p.stem)
def test_prose_fits_into_a_line(page: Path) -> None:
    prose = re.sub(r"(?ms)^```.*?^```|^\|.*?$", "", page.read_text())
    assert all(len(line) <= 130 for line in prose.splitlines())


@pytest.mark.parametrize("page", sorted(BOOK.glob("*.md")), ids=lambda p: p.stem)
def test_blocks_have_the_one_layout(page: Path) -> None:
    """``POTC_BLESS=1 pytest`` writes it."""
    text = page.read_text()
    laid_out = BLOCK.sub(lambda m: f"```rules\n{format_file(parse(Source('page', m[1])))}```", text)
    if os.environ.get("POTC_BLESS"):
        page.write_text(laid_out)
    else:
        assert text == laid_out
