"""Planted faults: each is told by its code on its line, with both places where there are two, and nothing else is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.diagnostics.render_text import render
from potc.language.check import check_file
from potc.workbench.proofs import find_common

FOLDER = Path(__file__).parents[1] / "cases" / "language" / "planted"
CASE = re.compile(r"^## (.*?)\n.*?^```rules\n(.*?)^```$", re.M | re.S)
CASES = [(path.stem, m[1], m[2]) for path in sorted(FOLDER.glob("*.md")) for m in CASE.finditer(path.read_text())]
MARK = re.compile(r"# (expect|also): ([a-z-]+)")
PROVED = {
    "overlapping-rules",
    "unreachable-rule",
    "duplicate-rule",
    "endless-rewrite",
    "saturating-accumulator",
    "overflowing-accumulator",
    "different-lanes",
    "empty-meet",
    "widened-limit",
    "float-never-wins",
}


def marks(rules: str, kind: str) -> list[tuple[int, str]]:
    lines = enumerate(rules.splitlines(), 1)
    return sorted((n, code) for n, line in lines for word, code in MARK.findall(line) if word == kind)


def diagnose(rules: str, folder: Path) -> tuple[Diagnostic, ...]:
    path = folder / "device.rules"
    path.write_text(rules)
    try:
        return check_file(str(path), find_common).diagnostics
    except Rejected as rejected:
        return rejected.diagnostics


@pytest.mark.parametrize(("stem", "title", "rules"), CASES, ids=[f"{s}: {t}" for s, t, _ in CASES])
def test_planted(stem: str, title: str, rules: str, tmp_path: Path) -> None:
    found = diagnose(rules, tmp_path)
    shown = "\n".join(map(render, found))
    assert sorted((d.at.line if d.at else 0, d.code) for d in found) == marks(rules, "expect"), shown
    second = {(r.at.line, d.code) for d in found for r in d.related}
    assert set(marks(rules, "also")) <= second, shown
    assert {code for _, code in marks(rules, "also")} >= {d.code for d in found if d.related} - PROVED, shown
    for diagnostic in found:
        assert diagnostic.help
        assert not diagnostic.message.endswith(".")
        assert all(r.label for r in diagnostic.related)
        if diagnostic.code == "overlapping-rules":
            assert diagnostic.example
            assert "=>" in diagnostic.example


def test_there_are_enough_of_each_kind() -> None:
    planted = [code for _, _, rules in CASES for _, code in marks(rules, "expect")]
    assert len(planted) >= 60
    assert set(planted) >= PROVED
    assert set(planted) <= CODES.keys()


def test_without_the_faults_nothing_is_said(tmp_path: Path) -> None:
    """Leaving out the guilty rules leaves a device that is right: the checks tell faults, not style."""
    rules = next(rules for _, title, rules in CASES if title == "Kernels that compete for the same nodes")
    guilty = {n for n, _ in marks(rules, "expect")}
    blocks = re.findall(r"(?ms)^  (?:rule|float) \w+ \{.*?^  \}\n", rules)
    for block in blocks:
        first = rules[: rules.index(block)].count("\n") + 1
        if guilty & set(range(first, first + block.count("\n"))):
            name = block.split()[1]
            rules = rules.replace(block, "\n" * block.count("\n"))
            rules = re.sub(rf"(?m)^  prefer .*\b{name}\b.*$", "", rules)
    assert diagnose(rules, tmp_path) == ()
