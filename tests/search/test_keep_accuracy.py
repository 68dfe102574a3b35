"""The how-to page on accuracy runs as it is shown, and the lines that it prints keep in float what they say."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from potc.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "keep-accuracy.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
MISSED = 3


def test_the_page_runs_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    monkeypatch.chdir(tmp_path)
    printed = ""
    commands: list[list[str]] = []
    for language, body in BLOCK.findall(PAGE.read_text()):
        if language == "rules":
            Path("device.rules").write_text(body)
            continue
        command, *shown = body.removeprefix("$ ").splitlines()
        commands.append(shlex.split(command)[1:])
        code = main(commands[-1])
        out, err = capfd.readouterr()
        printed = f"{out}{err}"
        assert code == (MISSED if "target missed" in body else 0), printed
        at = 0
        for line in shown:
            assert line in printed[at:], line
            at = printed.index(line, at)
    assert Path("front.svg").read_text().startswith("<svg")
    front = json.loads(Path("front.json").read_text())
    assert front["candidates"][front["answer"]]["met"]
    assert not Path("digits.onnx.journal").exists()
    _paste(printed)
    assert main([*commands[-1], "--evaluations", "8", "--plan", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    reasons = {r["rule"] for left in plan["left"] for r in left["reasons"]}
    assert "coarse.keep_1" in reasons


def _paste(printed: str) -> None:
    """The lines that a missed target prints, at the end of the device."""
    lines = printed[printed.index("  float keep_1 {") :]
    text = Path("device.rules").read_text()
    Path("device.rules").write_text(text[: text.rstrip().rindex("}")] + lines + "\n}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-drop", "0.01"], "--max-drop needs --eval-data"),
        (["--metric", "top1"], "--metric needs --max-drop"),
        (["--front", "f.svg"], "--front needs --max-drop"),
        (["--max-drop", "much", "--eval-data", "d.npz"], "'much' is no number from 0 on"),
        (["--max-drop", "-1", "--eval-data", "d.npz"], "'-1' is no number from 0 on"),
        (["--max-drop", "0.1", "--eval-data", "d.npz", "--front", "f.png"], "files that end in .json or .svg"),
        (["--max-drop", "0.1", "--eval-data", "d.npz", "--workers", "2", "--cluster", "tcp://h:1"], "not both"),
        (["--max-drop", "0.1", "--eval-data", "d.npz", "--preset", "auto"], "--tune tries the settings"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "model.onnx", "--rules", "cpu", *words]) == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_weights_get_16_bits_before_kernels_are_given_up(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    digits, plan = ROOT / "samples" / "digits", tmp_path / "plan.json"
    words = ["--rules", "gna", "--device", "gna3", "--preset", "performance", "--data", str(digits / "calib.npz")]
    search = ["--max-drop", "1e-5", "--metric", "cosine", "--eval-data", str(digits / "calib.npz")]
    model = [str(digits / "model.onnx"), "-o", str(tmp_path / "digits.onnx"), "--plan", str(plan)]
    assert main(["compile", *model, *words, *search]) == 0
    told = re.search(r"0 nodes given up, (\d+) tensors in more precise types", capfd.readouterr().err)
    assert told is not None
    raised = int(told[1])
    weights = [c for c in json.loads(plan.read_text())["constants"] if c["role"] == "weight"]
    assert 0 < raised < len(weights)
    assert sum(len(c["types"]) == 1 for c in weights) == raised
