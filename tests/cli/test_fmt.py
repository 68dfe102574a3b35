"""What transcripts can't show of `potc fmt`: standard input, modes, links, line ends."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from potc.cli.main import main


class Stream:
    """Standard input with bytes."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def run(data: bytes, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", Stream(data))
    return main(["fmt", *arguments, "-"])


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(b"potc   1", monkeypatch) == 0
    assert capfd.readouterr() == ("potc 1\n", "")
    assert run(b"potc 1\n", monkeypatch) == 0
    assert capfd.readouterr().out == "potc 1\n"
    assert run(b"potc   1", monkeypatch, "--check") == 1
    assert capfd.readouterr().out == "-\n"
    assert run(b"potc 1 nonsense", monkeypatch) == 1
    assert "standard input:1:8" in capfd.readouterr().err
    assert run(b"\xff", monkeypatch) == 1
    assert "is not UTF-8 text" in capfd.readouterr().err


def test_mode_and_link_are_kept(tmp_path: Path) -> None:
    file, link = tmp_path / "a.rules", tmp_path / "link.rules"
    file.write_text("potc  1")
    file.chmod(0o640)
    link.symlink_to(file)
    assert main(["fmt", str(link)]) == 0
    assert link.is_symlink()
    assert file.read_text() == "potc 1\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.rules", "link.rules"]


def test_time_stamps_of_formatted_files_stay(tmp_path: Path) -> None:
    file = tmp_path / "a.rules"
    file.write_text("potc 1\n")
    os.utime(file, (1, 1))
    assert main(["fmt", str(file)]) == 0
    assert file.stat().st_mtime == 1


def test_marks_and_line_ends_of_other_systems_go(tmp_path: Path) -> None:
    file = tmp_path / "a.rules"
    file.write_bytes(b"\xef\xbb\xbfpotc 1\r\nuse std\r\n")
    assert main(["fmt", "--check", str(file)]) == 1
    assert main(["fmt", str(file)]) == 0
    assert file.read_bytes() == b"potc 1\nuse std\n"


RULES = sorted((Path(__file__).parents[2] / "rules").glob("*.rules"))


def test_shipped_files_are_formatted(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", "--check", *map(str, RULES)]) == 0, capfd.readouterr().out
