"""Ways to end, and colours."""

from __future__ import annotations

import io

import pytest

from potc.cli import main as entry
from potc.cli.summary import size
from potc.cli.terminal import wants_color


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "environment", "on_screen", "in_file"),
    [
        ("auto", {}, True, False),
        ("auto", {"NO_COLOR": "1"}, False, False),
        ("auto", {"FORCE_COLOR": "1"}, True, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ("auto", {"TERM": "dumb"}, False, False),
        ("always", {"NO_COLOR": "1"}, True, True),
        ("never", {"FORCE_COLOR": "1"}, False, False),
    ],
)
def test_color(choice: str, environment: dict[str, str], on_screen: bool, in_file: bool) -> None:
    assert wants_color(choice, Screen(), environment) is on_screen
    assert wants_color(choice, io.StringIO(), environment) is in_file


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (185448, "185 kB"), (18_650_000, "18.6 MB"), (999_800, "1 MB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def explode(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_file(path: str) -> None:
        raise error

    monkeypatch.setattr("potc.language.check.check_file", check_file)


def test_a_bug_is_called_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    explode(ZeroDivisionError("division by zero"), monkeypatch)
    assert entry.main(["check", "any.rules"]) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert "this is a bug in potc" in err
    assert "ZeroDivisionError: division by zero" in err
    assert "Traceback" not in err


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    explode(KeyboardInterrupt(), monkeypatch)
    assert entry.main(["check", "any.rules"]) == 130
    assert "interrupted" in capsys.readouterr().err
