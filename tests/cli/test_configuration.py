"""Options from potc.toml and pyproject.toml, words from response files, and inputs that are printed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from potc.cli.arguments import expanded
from potc.cli.main import main
from potc.diagnostics.diagnostic import Rejected
from potc.shipped import shipped_rules

SAMPLE = Path(__file__).parents[2] / "samples" / "digits"
RULES = "potc 1\nuse cpu\n\ndevice mine extends cpu {}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inputs(capfd: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capfd.readouterr()
    assert main(["compile", str(SAMPLE / "model.onnx"), "--print-inputs", *words]) == 0
    return capfd.readouterr().out.splitlines()


def test_the_nearest_file_is_read_and_its_paths_lie_beside_it(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.rules").write_text(RULES)
    (folder / "pyproject.toml").write_text('[tool.potc.compile]\nrules = "mine.rules"\n')
    below = folder / "a" / "b"
    below.mkdir(parents=True)
    (folder / "a" / "pyproject.toml").write_text("[tool.other]\n")  # says nothing of potc
    os.chdir(below)
    found = inputs(capfd)
    assert found[0] == str(SAMPLE / "model.onnx")
    assert found[-2:] == ["../../mine.rules", "../../pyproject.toml"]
    (below / "potc.toml").write_text('[compile]\nrules = "gpu"\n')
    assert inputs(capfd)[-2:] == [str(shipped_rules()["gpu"]), "potc.toml"]


def test_the_command_line_wins(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "potc.toml").write_text('[compile]\nrules = "gpu"\n')
    assert str(shipped_rules()["cpu"]) in inputs(capfd, "--rules", "cpu")
    assert str(shipped_rules()["cpu"]) in inputs(capfd, "--target-device", "CPU")
    assert "potc.toml" not in inputs(capfd, "--isolated", "--rules", "cpu")
    assert main(["compile", str(SAMPLE / "model.onnx"), "--isolated"]) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[compil]\n", "did you mean `compile`?"),
        ("[compile]\nrule = 'cpu'\n", "did you mean `rules`?"),
        ("[compile]\noutput = 'x'\n", "belongs on the command line"),
        ("[compile]\ndepfile = 'x'\n", "belongs on the command line"),
        ("[compile]\nrules = true\n", "must be a text or a number"),
        ("[compile]\nquiet = 'yes'\n", "must be true or false"),
        ("[compile]\nset = 'vnni=true'\n", "must be a list"),
        ("compile = 3\n", "is no table"),
        ("[compile\n", "can't be read"),
    ],
)
def test_mistakes_are_told(text: str, told: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "potc.toml").write_text(text)
    assert main(["compile", str(SAMPLE / "model.onnx"), "--print-inputs"]) == 2
    err = capfd.readouterr().err
    assert "error[invalid-configuration]: potc.toml: " in err
    assert told in err


def test_lists_and_flags(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.rules").write_text(RULES)
    (folder / "potc.toml").write_text(
        '[compile]\nset = ["vnni=true"]\nrules = "cpu"\nsamples = 3\n[check]\nquiet = true\n'
    )
    assert inputs(capfd)[-1] == "potc.toml"
    assert main(["check", "mine.rules"]) == 0
    assert capfd.readouterr().out == ""


def test_response_files(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "args.txt").write_text("--rules\n'cpu' # @more.txt\n")
    (folder / "more.txt").write_text('--set "vnni=true"')
    assert expanded(["a", "@more.txt", "@"]) == ["a", "--set", "vnni=true", "@"]
    assert expanded(["@args.txt"]) == ["--rules", "cpu", "#", "--set", "vnni=true"]
    (folder / "in.txt").write_text(f"compile {SAMPLE / 'model.onnx'} --rules cpu --print-inputs --null")
    assert main(["@in.txt"]) == 0
    assert capfd.readouterr().out.split("\0")[0] == str(SAMPLE / "model.onnx")


@pytest.mark.parametrize("text", ["@loop.txt", "'open", None, b"\xff"], ids=["loop", "quote", "none", "bytes"])
def test_response_files_that_can_not_be_read(text: str | bytes | None, folder: Path) -> None:
    if text is not None:
        (folder / "loop.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Rejected) as caught:
        expanded(["check", "@loop.txt"])
    assert caught.value.exit_code == 2


def test_null_needs_inputs() -> None:
    assert main(["compile", str(SAMPLE / "model.onnx"), "--rules", "cpu", "--null"]) == 2


def test_a_configuration_is_no_output(folder: Path) -> None:
    (folder / "potc.toml").write_text('[compile]\nrules = "cpu"\n')
    assert main(["compile", str(SAMPLE / "model.onnx"), "-o", "potc.toml"]) == 2


def test_annotations_and_logs(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "odd, 50%.rules").write_text(RULES.replace("mine extends cpu", "mine extends cpuu"))
    for command in (["check", "odd, 50%.rules"], ["compile", str(SAMPLE / "model.onnx"), "--rules", "odd, 50%.rules"]):
        assert main([*command, "--format", "github"]) == 1
        line = capfd.readouterr().out.splitlines()[0]
        assert line.startswith(
            "::error file=odd%2C 50%25.rules,line=4,col=1,endLine=4,endColumn=28,title=unknown-name::"
        )
        assert "%0Ahelp: " in line
        assert main([*command, "--format", "sarif"]) == 1
        log = json.loads(capfd.readouterr().out)
        assert log["runs"][0]["results"][0]["ruleId"] == "unknown-name"


def test_source_date_epoch_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["compile", str(SAMPLE / "model.onnx"), "--rules", "cpu", "--preset", "fast", "--samples", "1", "-q"]
    for name, epoch in (("a", "0"), ("b", "1700000000")):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert main([*words, "-o", "out.onnx", "--plan", "plan.json", "--report", "report.json"]) == 0
        for file in ("out.onnx", "plan.json", "report.json"):
            (folder / file).rename(folder / f"{name}.{file}")
    for file in ("out.onnx", "plan.json", "report.json"):
        assert (folder / f"a.{file}").read_bytes() == (folder / f"b.{file}").read_bytes()
