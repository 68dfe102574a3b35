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
    "100%.npz",
    "c:drive.onnx",
    "a=b.npz",
    "back\\slash.npz",
    "back\\ slash.npz",
    "[1]{2}.npz",
    "two  spaces.npz",
    "日本.onnx",
]


@pytest.mark.parametrize(
    ("path", "escaped"),
    [
        ("a b", "a\\ b"),
        ("a#b", "a\\#b"),
        ("a$b", "a$$b"),
        ("rules/cpu.rules", "rules/cpu.rules"),
        ("ä(b).c", "ä(b).c"),
        ("a:b", "a\\:b"),
        ("a\\ b", "a\\\\\\ b"),
        ("a%b\\c", "a%b\\c"),
    ],
)
def test_escape(path: str, escaped: str) -> None:
    assert escape(path) == escaped


def test_every_input_once_in_order() -> None:
    assert depfile("out.onnx", ["b", "a", "b"]) == "out.onnx: \\\n  b \\\n  a\n"


def test_what_would_be_a_variable_does_not_come_first() -> None:
    assert depfile("out", ["a=b", "c", "d"]) == "out: \\\n  c \\\n  a=b \\\n  d\n"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("out", "a\nb"),
        ("out", "a\tb"),
        ("out", "a;b"),
        ("out", "a|b"),
        ("out", "a\\"),
        ("out", "a "),
        ("out", "a(b)"),
        ("out", "a=b"),
        ("a%b", "in"),
        ("a=b", "in"),
    ],
)
def test_what_has_no_spelling_is_refused(target: str, path: str) -> None:
    with pytest.raises(Rejected) as caught:
        depfile(target, [path])
    assert caught.value.exit_code == 2


def test_ninja_rebuilds_when_a_file_changes(tmp_path: Path) -> None:
    if shutil.which("ninja") is None:
        return
    for name in NAMES:
        (tmp_path / name).write_text("")
    (tmp_path / "ready.d").write_text(depfile("out", NAMES))
    rule = "rule r\n  command = cp ready.d out.d; touch out; echo building\n  depfile = out.d\n  deps = gcc\n"
    (tmp_path / "build.ninja").write_text(f"{rule}build out: r\n")

    def ninja(*words: str) -> str:
        command = ["ninja", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    assert "building" in ninja()
    assert "no work to do" in ninja()
    for name in NAMES:
        old = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name, (old + 10, old + 10))
        assert "[1/1]" in ninja("-n"), name
        os.utime(tmp_path / name, (old, old))
    assert "no work to do" in ninja()


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
