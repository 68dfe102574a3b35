"""Cases as data: cases/workbench/explain/*.md hold ONNX text, rules, questions (options of a line) and the answers.

``POTC_BLESS=1 pytest`` rewrites the answers.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from potc.cli.main import main

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from test_cases import blocks, write_case  # noqa: E402

CASES = sorted((ROOT / "cases" / "workbench" / "explain").glob("*.md"))


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_answers(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case = blocks(path)
    monkeypatch.chdir(tmp_path)
    _, rules = write_case(tmp_path, case)
    found: list[str] = []
    for question in case["ask"].splitlines():
        words = shlex.split(question)
        assert main(["explain", "model.onnx", "--rules", Path(rules).name, *words]) == 0, capfd.readouterr().err
        out, err = capfd.readouterr()
        assert err == ""
        found.append(f"? {question}\n{out}")
    text = "\n".join(found)
    if os.environ.get("POTC_BLESS"):
        body = f"```answer\n{text}```\n"
        path.write_text(re.sub(r"^```answer\n.*?^```\n", lambda _: body, path.read_text(), flags=re.M | re.S))
        return
    assert text == case["answer"]
