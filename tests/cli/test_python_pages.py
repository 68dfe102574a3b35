"""Pages that show Python are run: ``python`` blocks in order, in one namespace, ``console`` blocks as commands with what they print.

A block whose first line names a file is written to it as well. The folder holds ``samples`` as the project has it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest
from test_pages import FIGURE, sessions
from test_transcripts import in_order

import potc
from potc.cli.main import main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
FILE_NAME = re.compile(r"# ([\w.]+\.\w+)\n")
REFERENCE = ROOT / "docs" / "reference" / "python.md"
PAGES = [REFERENCE, ROOT / "docs" / "how-to" / "from-pot.md", *sorted((ROOT / "docs" / "how-to").glob("pot-*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_page_runs_as_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "samples" / "digits", tmp_path / "samples" / "digits")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    ran = 0
    for language, body in BLOCK.findall(page.read_text()):
        if (named := FILE_NAME.match(body)) and language in ("python", "toml"):
            Path(named[1]).write_text(body)
        elif language == "python":
            exec(compile(body, str(page), "exec"), space)
            ran += 1
        elif language == "console":
            for (program, *words), shown in sessions(body):
                assert program == "potc"
                capfd.readouterr()
                code = main(words)
                out, err = capfd.readouterr()
                assert code == 0, f"{words}: exit code {code}\n{out}{err}"
                in_order([FIGURE.sub("N.N", x.strip()) for x in shown], FIGURE.sub("N.N", out + err))
                ran += 1
    assert ran >= 2


def test_the_reference_names_all_that_is_public() -> None:
    text = REFERENCE.read_text()
    for name in set(potc.__all__) - {"__version__"}:
        assert f"`potc.{name}" in text, name
        assert getattr(potc, name).__doc__, name
    assert set(potc.__all__) <= set(dir(potc))
    with pytest.raises(AttributeError, match="no attribute 'complie'"):
        _ = potc.complie


def test_the_chapter_may_be_called_like_the_function() -> None:
    import potc.evaluate.confidence

    assert potc.evaluate is sys.modules["potc.evaluate"]
    with pytest.raises(potc.Rejected, match="missing-file"):
        potc.evaluate("missing.onnx", data=[], metric="top1")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ({"preset": "fastest"}, "fastest"),
        ({"preset": "auto", "ranges": "r.json"}, "leave out ranges"),
        ({"bias_correction": "slow"}, "slow"),
        ({"range_estimator": "least"}, "least"),
        ({"activation_min": "mean,mean,mean"}, "one word too many"),
    ],
)
def test_words_that_are_none(words: dict[str, str], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        potc.compile("model.onnx", rules="cpu", **words)  # type: ignore[arg-type]


def test_the_words_of_the_functions_are_those_of_the_commands() -> None:
    import inspect
    from importlib import import_module

    silent = {
        "output",
        "plan",
        "report",
        "depfile",
        "depfile_target",
        "format",
        "color",
        "quiet",
        "verbose",
        "target_device",
    }
    silent |= {
        "save_ranges",
        "external_data",
        "print_inputs",
        "null",
        "isolated",
        "front",
        "max_drop",
        "worst",
        "config",
    }
    silent |= {"rules_out", "data_out"}
    silent |= {"update", "junit", "check", "diff"}  # what writes, and what exits otherwise
    for name in ("compile", "evaluate", "verify", "explain", "bench", "test", "fmt", "diff", "doc", "suite", "reduce"):
        module = import_module(f"potc.cli.{name}")
        options = {o.lstrip("-").replace("-", "_") for p in module.command.params for o in p.opts if o.startswith("--")}
        known = set(inspect.signature(getattr(import_module(potc._PLACES[name]), name)).parameters)
        if "compiling" in known:
            known |= set(inspect.signature(import_module("potc.api.compile").compile).parameters)
        assert options - known - silent == set(), name


def test_the_report_tells_what_was_done_to_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "samples" / "digits")
    done = potc.compile(
        "model.onnx", rules="cpu", data="test.npz", preprocess="recipe.toml", samples=4, seed=1, preset="fast"
    )
    assert done.report.preprocessing == {"array": "x", "scale": [255.0], "layout": "chw"}
    assert (done.report.data, done.report.samples, len(done.report.samples_digest)) == ("test.npz", 4, 64)
