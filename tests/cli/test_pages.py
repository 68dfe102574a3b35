"""Pages that show a session are run: ``console`` blocks as commands with what they print, ``diff`` blocks as edits.

Shown lines are printed in this order, on standard error or on standard output, each as part of a line; figures with a point may differ. A
command fails with exit code 1 if it shows an error, else it succeeds. A ``diff`` block is about the page's one rule file:
lines with ``-`` are in it once and become those with ``+``; without ``-`` they are added at its end.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_transcripts import in_order

from potc.cli.main import main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PAGES = {ROOT / "docs" / "start" / "first-device.md": "npu.rules"}
FIGURE = re.compile(r"\d+\.\d+")


def sessions(body: str) -> Iterator[tuple[list[str], list[str]]]:
    """Commands with the lines that are shown below them."""
    for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
        command, *shown = part.splitlines()
        yield shlex.split(command), [line for line in shown if line.strip()]


def edited(text: str, diff: str) -> str:
    lines = diff.splitlines()
    assert all(line[:1] in "+-" for line in lines), diff
    old, new = ("".join(f"{line[1:]}\n" for line in lines if line[0] == sign) for sign in "-+")
    if not old:
        return text + new
    assert text.count(old) == 1, f"found {text.count(old)} times:\n{old}"
    return text.replace(old, new)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_session_runs_as_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    rules = Path(PAGES[page])
    commands = 0
    for language, body in BLOCK.findall(page.read_text()):
        if language == "diff":
            rules.write_text(edited(rules.read_text(), body))
        elif language == "console":
            for (program, *words), shown in sessions(body):
                assert program == "potc"
                code = main(words)
                out, err = capfd.readouterr()
                fails = any(line.startswith("error[") for line in shown)
                assert code == int(fails), f"{words}: exit code {code}\n{out}{err}"
                printed = f"{out}{err}" if shown and shown[0].strip() in out else f"{err}{out}"
                in_order([FIGURE.sub("N.N", x.strip()) for x in shown], FIGURE.sub("N.N", printed))
                commands += 1
    assert commands >= 15
