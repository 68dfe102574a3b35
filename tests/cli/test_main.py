"""Ways to end, and colours."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
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
    def check_file(path: str, *_: object) -> None:
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
    monkeypatch.setattr("potc.compiler.verify", lambda *_, **__: bad)
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    assert entry.main(["compile", SAMPLE, "--rules", "cpu", "-o", str(out)]) == 70
    assert "finite: `y` holds NaN" in capsys.readouterr().err
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_a_pipe_as_output_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A device like /dev/null would be replaced by a file: by root, for everyone on the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert entry.main(["compile", SAMPLE, "--rules", "cpu", "-o", str(pipe)]) == 2
    err = capsys.readouterr().err
    assert "it is a device or a pipe" in err
    assert "reading the rules" not in err
    assert pipe.is_fifo()


@pytest.mark.parametrize("end", [">/dev/full", ">&-", "| head -c0"])
@pytest.mark.parametrize("command", ["--version", "explain syntax-error", "check --format json nowhere.rules"])
def test_standard_output_that_takes_nothing(command: str, end: str) -> None:
    script = f"set -o pipefail; {sys.executable} -m potc {command} {end}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stdout == ""
    if "head" not in end:  # head may still have been reading
        assert "can't write to standard output" in done.stderr
        assert done.returncode == 2


def test_closed_standard_error_changes_nothing() -> None:
    script = f"{sys.executable} -m potc check nowhere.rules 2>&-"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_no_kernel_and_an_opset_above_the_rules_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 11, opset_import: ["": 26]> g (float[4] x) => (float[4] y) {y = Relu(x)}'
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert entry.main(["compile", str(tmp_path / "m.onnx"), "--rules", "cpu", "-o", str(tmp_path / "o.onnx")]) == 0
    err = capsys.readouterr().err
    assert "no kernel that takes Relu along ends in front of it" in err
    assert "warning: the model has opset 26, the device allows 13 to 25" in err
    assert "warning: nothing was quantized" in err


def test_nothing_given_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "compile" in err
