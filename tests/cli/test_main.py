"""Ways to end, and colours."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from potc.cli import main as entry
from potc.cli.summary import float_rows, size
from potc.cli.terminal import wants_color
from potc.evaluate.verify import Check, Verification
from potc.report import FloatNode

SAMPLE = str(Path(__file__).parents[2] / "samples" / "digits" / "model.onnx")


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


def test_nodes_that_the_same_line_keeps_in_float_share_a_row() -> None:
    def node(name: str, operator: str, place: str) -> FloatNode:
        return FloatNode(name, operator, ({"rule": "npu.sum", "place": place, "reason": f"`{name}` is alone"},))

    nodes = [node("a", "Add", "npu.rules:7"), node("b", "Mul", "npu.rules:7"), node("c", "Add", "npu.rules:7")]
    nodes.append(node("d", "Add", "npu.rules:8"))
    rows = list(float_rows(nodes, grouped=True))
    assert rows[0] == ("a and 1 more", "Add", "`a` is alone", "npu.sum npu.rules:7")
    assert [r[0] for r in rows] == ["a and 1 more", "b", "d"]
    assert [r[0] for r in float_rows(nodes, grouped=False)] == ["a", "b", "c", "d"]


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


def test_a_model_that_fails_verification_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = Verification((Check("finite", ok=False, detail="`y` holds NaN"),))
    monkeypatch.setattr("potc.compiler.verify", lambda *_: bad)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    assert entry.main(["compile", SAMPLE, "--rules", "cpu", "-o", str(out)]) == 70
    assert "finite: `y` holds NaN" in capsys.readouterr().err
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_given_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "compile" in err
