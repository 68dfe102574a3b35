"""Every diagnostic has a page in docs/diagnostics, and what the page shows is so.

The blocks of a page are looked at in order, in a folder of their own:

- ``rules``: written to device.rules and checked. ``# expect: CODE`` marks guilty lines, which are told and nothing else; the
  marks themselves are left out. Without marks nothing is told.
- ``text``: what was told of the block before, as it is printed. ``POTC_BLESS=1 pytest`` writes these blocks.
- ``onnx``: a graph as ONNX text, written to model.onnx; weights without values are made up.
- ``python``: run.
- ``console``: commands with what they print, as on the other pages. The exit code is 0 unless an error is shown.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from test_pages import FIGURE, sessions
from test_transcripts import in_order

from potc.cli.main import main
from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic, Rejected
from potc.diagnostics.render_text import render
from potc.language.check import check_file
from potc.workbench.proofs import find_common

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "diagnostics"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
MARK = re.compile(r"[ ]*# expect: ([a-z0-9-]+)")
SECTIONS = ["Example", "Why it matters", "What to do"]
STRICT = {"untested-rule", "missing-reason"}
RAISED = {path: path.read_text() for path in sorted((ROOT / "potc").rglob("*.py")) if path.name != "codes.py"}
# Codes that a page does not run: the test that raises them, and why.
UNSHOWN = {
    "too-large": ("data/test_samples.py", "it takes a model of more than 2 GB, or a sample of one"),
    "worker-lost": ("search/test_workers.py", "it takes a sample that ends a process"),
    "no-cluster": ("search/test_workers.py", "it takes seconds to find out that nobody answers"),
    "missing-package": ("data/test_pictures.py", "it takes an installation without the package"),
    "invalid-plan": ("properties/test_plans.py", "no command reads plans back yet"),
}


def text_of(code: str) -> str:
    return (PAGES / f"{code}.md").read_text()


@pytest.mark.parametrize("code", CODES)
def test_a_page_has_its_parts(code: str) -> None:
    text = text_of(code)
    prose = BLOCK.sub("(block)", text)
    title, first, *_ = prose.split("\n\n")
    assert title == f"# {code}"
    assert " ".join(first.split()).startswith(CODES[code].meaning)
    assert re.findall("(?m)^## (.*)$", prose) == SECTIONS
    example, why, what = re.split("(?m)^## .*$", prose)[1:]
    assert "(block)" in example
    assert len(why.split()) >= 5
    assert len(what.split()) >= 2
    assert all(len(line) <= 130 for line in prose.splitlines())


def test_there_is_no_page_without_a_code() -> None:
    assert {page.stem for page in PAGES.glob("*.md")} == {*CODES, "index"}


def test_the_index_lists_every_code_with_its_meaning() -> None:
    text = (PAGES / "index.md").read_text()
    for code in CODES.values():
        assert f"| [`{code.name}`]({code.name}.md) | {code.meaning.replace('|', chr(92) + '|')} |" in text


@pytest.mark.parametrize("code", CODES)
def test_a_code_is_raised_somewhere(code: str) -> None:
    assert any(f'"{code}"' in text for text in RAISED.values())


# ---------------------------------------------------------------------------------------------- examples


def told_of(rules: str, strict: bool) -> tuple[Diagnostic, ...]:
    Path("device.rules").write_text(rules)
    try:
        return check_file("device.rules", find_common, strict).diagnostics
    except Rejected as rejected:
        return rejected.diagnostics


def check_rules(body: str, strict: bool) -> tuple[Diagnostic, ...]:
    wanted = [(n, code) for n, line in enumerate(body.splitlines(), 1) for code in MARK.findall(line)]
    found = told_of(MARK.sub("", body), strict)
    assert sorted((d.at.line if d.at else 0, d.code) for d in found) == wanted, "\n".join(map(render, found))
    assert all(d.help for d in found)
    return found


def write_model(text: str) -> None:
    header = '<ir_version: 9, opset_import: ["" : 17]>\n'
    proto = onnx.parser.parse_model(text if text.startswith("<") else header + text)
    made = {t.name for t in proto.graph.initializer} | {o for n in proto.graph.node for o in n.output}
    generator = np.random.default_rng(7)
    for value in [v for v in proto.graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        proto.graph.initializer.append(
            numpy_helper.from_array(generator.normal(0, 1, shape).astype(np.float32), value.name)
        )
        proto.graph.value_info.remove(value)
    onnx.save(proto, "model.onnx")


def run_commands(body: str, capfd: pytest.CaptureFixture[str]) -> Iterator[str]:
    """Codes that are shown, and were printed."""
    for (program, *words), shown in sessions(body):
        assert program == "potc"
        status = main(words)
        out, err = capfd.readouterr()
        fails = any(line.startswith("error") for line in shown)
        assert (status in (1, 2)) if fails else status == 0, f"{words}: exit code {status}\n{out}{err}"
        printed = f"{out}{err}" if shown and shown[0].strip() in out else f"{err}{out}"
        in_order([FIGURE.sub("N.N", x.strip()) for x in shown], FIGURE.sub("N.N", printed))
        yield from re.findall(r"\b(?:error|warning)\[([a-z0-9-]+)\]", "\n".join(shown))
        yield from re.findall(r'"code": "([a-z0-9-]+)"', "\n".join(shown))


@pytest.mark.parametrize("code", sorted(CODES.keys() - UNSHOWN.keys()))
def test_an_example_shows_it_and_the_cure_is_accepted(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = text_of(code)
    monkeypatch.chdir(tmp_path)
    if "digits/" in page:
        shutil.copytree(ROOT / "samples" / "digits", tmp_path / "digits")
    told: set[str] = set()
    cured = False
    printed = ""
    for kind, body in BLOCK.findall(page):
        if kind == "rules":
            found = check_rules(body, code in STRICT)
            printed = "\n\n".join(map(render, found))
            told |= {d.code for d in found}
            cured = not found
        elif kind == "text":
            if os.environ.get("POTC_BLESS"):
                replaced = (PAGES / f"{code}.md").read_text().replace(f"```text\n{body}```", f"```text\n{printed}\n```")
                (PAGES / f"{code}.md").write_text(replaced)
            else:
                assert body == f"{printed}\n", "POTC_BLESS=1 pytest tests/cli/test_code_pages.py writes what is printed"
        elif kind == "onnx":
            write_model(body)
        elif kind == "python":
            exec(body, {"__name__": "__main__"})
        elif kind == "console":
            codes = list(run_commands(body, capfd))
            told.update(codes)
            cured = not codes
    assert code in told
    last = [kind for kind, _ in BLOCK.findall(page) if kind in ("rules", "console")]
    assert cured or len(last) == 1, "the last block shows what is accepted"


@pytest.mark.parametrize("code", UNSHOWN)
def test_what_a_page_does_not_run_another_test_raises(code: str) -> None:
    test, reason = UNSHOWN[code]
    assert reason
    assert code in (ROOT / "tests" / test).read_text()
    assert f"error[{code}]" in text_of(code)
