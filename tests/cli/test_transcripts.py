"""Transcripts as data: ``console`` blocks of tests/cases/cli/*.md, run in a folder with the sample and bad files.

``$ potc ...`` is a command and ``exit N`` its exit code (0 if not given). The lines after it must be found in this order:
``> text`` on standard output, other lines on standard error, each as part of a line. ``! text`` must be found nowhere.
``(silent)`` means nothing on standard error, ``= FILE exists``, ``= FILE is unchanged`` and ``= no FILE`` speak of files.
Blocks ``rules NAME`` are written to a file NAME first.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bad_files import write_bad_files

from potc.cli.main import main

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests" / "cases" / "cli").glob("*.md"))
BLOCK = re.compile(r"^```(console|rules) ?([\w.]*)\n(.*?)^```", re.M | re.S)


@dataclass
class Step:
    command: str
    exit_code: int
    lines: list[str]


def steps(text: str) -> Iterator[Step]:
    step: Step | None = None
    for line in filter(None, text.splitlines()):
        if line.startswith("$ potc"):
            if step:
                yield step
            step = Step(line[6:], 0, [])
        elif step and re.fullmatch(r"exit \d+", line):
            step.exit_code = int(line[5:])
        elif step:
            step.lines.append(line)
    if step:
        yield step


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    shutil.copytree(ROOT / "samples" / "digits", folder / "digits")
    write_bad_files(folder, folder / "digits")
    return folder


def in_order(wanted: list[str], text: str) -> None:
    """Each wanted text occurs in a line at or after the line of the one before."""
    lines = text.splitlines()
    start = 0
    for want in wanted:
        hits = [i for i in range(start, len(lines)) if want in lines[i]]
        assert hits, f"not found: {want!r}, after line {start} of\n{text}"
        start = hits[0] + 1


def run(step: Step, capfd: pytest.CaptureFixture[str]) -> None:
    files = {p: p.read_bytes() for p in Path().iterdir() if p.is_file()}
    code = main(shlex.split(step.command))
    out, err = capfd.readouterr()
    assert code == step.exit_code, f"potc{step.command}: {code}\n{out}{err}"
    assert "Traceback" not in err
    in_order([x[2:] for x in step.lines if x.startswith("> ")], out)
    in_order([x for x in step.lines if not re.match(r"[>!=] |\(silent\)", x)], err)
    for line in step.lines:
        if line == "(silent)":
            assert err == ""
        elif line.startswith("! "):
            assert line[2:] not in out + err
        elif line.startswith("= no "):
            assert not Path(line[5:]).exists()
        elif line.startswith("= "):
            name, _, state = line[2:].partition(" ")
            assert Path(name).exists()
            assert state == "exists" or Path(name).read_bytes() == files[Path(name)]


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_transcript(
    path: Path,
    prepared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(prepared, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    found = 0
    for kind, name, body in BLOCK.findall(path.read_text()):
        if kind == "rules":
            Path(name).write_text(body)
            continue
        for step in steps(body):
            run(step, capfd)
            found += 1
    assert found, f"{path.name} has no command"


def test_readme_shows_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """But for figures, which may differ from one processor, runtime or rule file to the next."""
    text = (ROOT / "README.md").read_text()
    shown = next(b for b in re.findall(r"^```\n(.*?)^```", text, re.M | re.S) if " -> digits.int8.onnx" in b)
    command = re.findall(r"(?:^|&& )potc (compile samples.*)$", text, re.M)[0]
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    figure = re.compile(r"\d+(\.\d+)?")
    in_order([figure.sub("N", x) for x in shown.splitlines()], figure.sub("N", capfd.readouterr().err))
