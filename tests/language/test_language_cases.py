"""Cases as data: every ``rules`` block below cases/language says on its guilty lines which code is expected there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.diagnostics.render_text import render
from potc.language.check import check_file
from potc.language.resolve import load_rules
from potc.shipped import shipped_rules
from potc.workbench.proofs import find_common

FOLDER = Path(__file__).parents[1] / "cases" / "language"
CASE = re.compile(r"^## (.*?)\n.*?^```rules\n(.*?)^```$", re.M | re.S)
CASES = [(path.stem, m[1], m[2]) for path in sorted(FOLDER.glob("*.md")) for m in CASE.finditer(path.read_text())]
EXPECTED = re.compile(r"# expect: ([a-z-]+)")


def wanted(rules: str) -> set[tuple[int, str]]:
    return {(n, code) for n, line in enumerate(rules.splitlines(), 1) for code in EXPECTED.findall(line)}


def diagnose(path: Path) -> tuple[Diagnostic, ...]:
    try:
        return check_file(str(path)).diagnostics
    except Rejected as rejected:
        return rejected.diagnostics


@pytest.mark.parametrize(("stem", "title", "rules"), CASES, ids=[f"{s}: {t}" for s, t, _ in CASES])
def test_case(stem: str, title: str, rules: str, tmp_path: Path) -> None:
    path = tmp_path / "device.rules"
    path.write_text(rules)
    found = diagnose(path)
    assert {(d.at.line if d.at else 0, d.code) for d in found} == wanted(rules), [render(d) for d in found]
    assert all(d.help for d in found)
    assert all(not d.message.endswith(".") for d in found)


def test_every_code_of_the_language_has_a_case() -> None:
    covered = {code for path in FOLDER.rglob("*.md") for code in EXPECTED.findall(path.read_text())}
    elsewhere = {
        "syntax-error": "test_parse.py",
        "import-cycle": "test_resolve.py",
        "missing-device": "test_resolve.py",
        "impossible-pattern": "test_resolve.py",
        "extern-not-allowed": "test_extern.py",
        "untested-rule": "test_strict.py",
        "missing-reason": "test_strict.py",
        "never-fired": "test_strict.py",
    }
    for code in (c.name for c in CODES.values() if c.chapter == "language"):
        if code not in covered:
            assert code in (Path(__file__).parent / elsewhere[code]).read_text(), code
    assert covered <= CODES.keys()


@pytest.mark.parametrize("name", sorted(shipped_rules()))
def test_shipped_files_have_nothing_to_say(name: str) -> None:
    assert check_file(name, find_common).diagnostics == ()


def test_shipped_device_loads() -> None:
    assert load_rules("CPU").device == "cpu"
