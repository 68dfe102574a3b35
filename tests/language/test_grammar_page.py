"""The grammar page and its diagrams are what ``docs/language/make_grammar.py`` makes of the grammar file now."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "language"
COMMAND = "python docs/language/make_grammar.py"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    sys.path.insert(0, str(FOLDER))
    try:
        from make_grammar import files

        return files()
    finally:
        sys.path.remove(str(FOLDER))


def test_the_page_is_up_to_date(made: dict[str, str]) -> None:
    stale = [name for name, text in made.items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text]
    assert not stale, f"run `{COMMAND}` and commit what it writes"
    assert {p.name for p in (FOLDER / "grammar").iterdir()} == {n.split("/")[1] for n in made if "/" in n}


def test_every_rule_and_word_of_the_grammar_is_on_it(made: dict[str, str]) -> None:
    text = (FOLDER.parents[1] / "grammar" / "potc.lark").read_text()
    rules = re.findall(r"(?m)^\??([a-z_]+)\s*:", text)
    assert len(rules) > 100
    for name in rules:
        assert re.search(rf"(?m)^{name} = ", made["grammar.md"]), name
    for word in re.findall(r'"([a-z_]+)"', re.sub(r"(?m)^//.*$|^[A-Z_]+:.*$", "", text)):
        assert f'"{word}"' in made["grammar.md"], word


def test_diagrams_are_whole_and_need_nothing_else(made: dict[str, str]) -> None:
    for name, text in made.items():
        if name.endswith(".svg"):
            root = ElementTree.fromstring(text)
            titles = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text") if e.get("class") == "title"]
            assert titles
            assert all(re.search(rf"(?m)^{title} = ", made["grammar.md"]) for title in titles)
            assert "href" not in text
            width, height = float(root.get("width", 0)), float(root.get("height", 0))
            for box in root.iter("{http://www.w3.org/2000/svg}rect"):
                if box.get("class") != "page":
                    assert 0 <= float(box.get("x", -1)) <= width - float(box.get("width", 0))
                    assert 0 <= float(box.get("y", -1)) <= height - float(box.get("height", 0))
