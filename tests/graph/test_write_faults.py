"""Writing under faults: at every call of the system an error, a full disk or the end of the process."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from potc.diagnostics.diagnostic import Rejected
from potc.graph import write
from potc.graph.write import write_all

OLD = {"a.json": b"old report", "m.data": b"old weights", "m.onnx": b"old model"}
NEW = {"a.json": b"new report", "m.data": b"new weights", "m.onnx": b"new model" * 1000}
CALLS = ("fsync", "replace", "link", "open")  # of os: what writing asks of the system, Path.replace among it


def prepare(folder: Path, fresh: bool) -> dict[str, bytes]:
    if not fresh:
        for name, data in OLD.items():
            (folder / name).write_bytes(data)
    return {str(folder / name): data for name, data in NEW.items()}


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def interfere(monkeypatch: pytest.MonkeyPatch, strike: int, act: Callable[[], None]) -> list[int]:
    """``act`` in place of the ``strike``-th call; returns the count, in a list."""
    count = [0]

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **words: Any) -> Any:
            count[0] += 1
            if count[0] == strike:
                act()
            return original(*arguments, **words)

        return call

    for name in CALLS:
        monkeypatch.setattr(write.os, name, counted(getattr(os, name)))
    return count


def fail() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fresh", [False, True])
def test_an_error_at_any_call_changes_nothing(fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    struck = 0
    for strike in range(1, 100):
        folder = tmp_path / str(strike)
        folder.mkdir()
        files = prepare(folder, fresh)
        before = content(folder)
        with monkeypatch.context() as patch:
            count = interfere(patch, strike, fail)
            try:
                write_all(files)
            except Rejected as rejected:
                assert rejected.exit_code == 2
                assert content(folder) == before, f"call {strike}"
                struck += 1
                continue
        assert content(folder) == NEW
        if count[0] < strike:
            break
    assert struck >= 6


def test_the_end_of_the_process_at_any_call_leaves_whole_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = 0
    for strike in range(1, 100):
        folder = tmp_path / str(strike)
        folder.mkdir()
        files = prepare(folder, False)
        child = os.fork()
        if child == 0:
            interfere(monkeypatch, strike, lambda: os.kill(os.getpid(), signal.SIGKILL))
            write_all(files)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        found = content(folder)
        states = [found[name] == NEW[name] for name in NEW]
        assert all(found[name] in (OLD[name], NEW[name]) for name in NEW), f"call {strike}"
        assert states == sorted(states, reverse=True), "a new model and an old report"
        write_all(files)
        assert content(folder) == NEW, "nothing is left"
        if os.WIFEXITED(status):
            break
        killed += 1
    assert killed >= 6


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files acts as a disk that gets full in the middle of a write."""
    files = prepare(tmp_path, False)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            write_all(files)
        except Rejected as rejected:
            os._exit(rejected.exit_code)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 2
    assert content(tmp_path) == OLD


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".m.onnx.tmp-{os.getppid()}").write_bytes(b"being written")
    (tmp_path / ".m.onnx.tmp-notes").write_bytes(b"somebody's")
    write_all({str(tmp_path / "m.onnx"): b"new"})
    assert len(content(tmp_path)) == 3
