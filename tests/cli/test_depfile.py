"""Dependency files name every file, however it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from potc.cli.depfile import depfile, escape
from potc.cli.main import main
from potc.diagnostics.diagnostic import Rejected
from potc.shipped import shipped_rules

SAMPLE = Path(__file__).parents[2] / "samples" / "digits" / "model.onnx"

NAMES = [
    "plain.onnx",
    "two words.npz",
    "number#1.rules",
    "price$5.onnx",
    "a b#c$d.onnx",
    "größe.onnx",
    "(brackets).rules",
]


@pytest.mark.parametrize(
    ("path", "escaped"),
    [("a b", "a\\ b"), ("a#b", "a\\#b"), ("a$b", "a$$b"), ("rules/cpu.rules", "rules/cpu.rules"), ("ä(b)", "ä(b)")],
)
def test_escape(path: str, escaped: str) -> None:
    assert escape(path) == escaped


def test_every_input_once_in_order() -> None:
    assert depfile("out.onnx", ["b", "a", "b"]) == "out.onnx: \\\n  b \\\n  a\n"


def test_line_breaks_have_no_spelling() -> None:
    with pytest.raises(Rejected) as caught:
        depfile("out", ["a\nb"])
    assert caught.value.exit_code == 2


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("changed", NAMES)
def test_make_rebuilds_when_a_file_changes(tmp_path: Path, changed: str) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("")
    (tmp_path / "out.d").write_text(depfile("out", NAMES))
    (tmp_path / "Makefile").write_text("out:\n\t@echo building; touch out\n-include out.d\n")

    def make() -> str:
        return subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "building" in make()
    assert "building" not in make()
    later = (tmp_path / "out").stat().st_mtime + 10
    os.utime(tmp_path / changed, (later, later))
    assert "building" in make()


def test_shipped_rules_are_named_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the current folder has a file that is called like one of them, but is not read."""
    monkeypatch.chdir(tmp_path)
    Path("std.rules").write_text("")
    assert main(["compile", str(SAMPLE), "--rules", "cpu", "-q", "-o", "o.onnx", "--depfile", "o.d"]) == 0
    names = [line.strip(" \\") for line in Path("o.d").read_text().splitlines()[1:]]
    assert names == [str(SAMPLE), *(str(shipped_rules()[n]) for n in ("std", "prepare", "cpu"))]
