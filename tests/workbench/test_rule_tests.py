"""Cases as data: files below cases/workbench/tests hold rules with tests, and what `potc test` says of each test.

A block ``told`` lists the tests with what became of them and what was said; ``updated`` is what `--update` makes of the
tests; ``coverage`` what no test reaches. ``POTC_BLESS=1 pytest`` rewrites these blocks.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from potc.diagnostics.diagnostic import Diagnostic
from potc.workbench.coverage import coverage, coverage_lines
from potc.workbench.run_tests import FileRun, run_tests
from potc.workbench.update import updated

CASES = sorted((Path(__file__).parents[1] / "cases" / "workbench" / "tests").glob("*.md"))
RULES = sorted((Path(__file__).parents[2] / "rules").glob("*.rules"))
BLOCK = re.compile(r"^```(rules|told|updated|coverage)\n(.*?)^```$", re.M | re.S)


def told(run: FileRun) -> str:
    lines: list[str] = []
    for outcome in run.outcomes:
        lines.append(f"{outcome.status} {outcome.device}: {outcome.test.title}")
        lines += [f"  {line}" for d in outcome.diagnostics for line in said(d)]
    return "".join(f"{line}\n" for line in lines)


def said(diagnostic: Diagnostic) -> list[str]:
    at = diagnostic.at
    place = f"{at.line}: " if at is not None else ""
    lines = [f"{place}{diagnostic.code}: {diagnostic.message}"]
    lines += [f"  because {r.at.place}: {r.label}" for r in diagnostic.related]
    if diagnostic.code != "failed-expectation":
        lines.append(f"  help: {diagnostic.help}")
    return lines


def blocks(path: Path) -> dict[str, str]:
    return dict(BLOCK.findall(path.read_text()))


def bless(path: Path, kind: str, body: str) -> None:
    text = path.read_text()
    path.write_text(re.sub(rf"^```{kind}\n.*?^```$", lambda _: f"```{kind}\n{body}```", text, flags=re.M | re.S))


def run_case(path: Path, folder: Path) -> FileRun:
    (folder / "d.rules").write_text(blocks(path)["rules"])
    return run_tests(str(folder / "d.rules"))


def compare(path: Path, kind: str, found: str) -> None:
    if os.environ.get("POTC_BLESS"):
        bless(path, kind, found)
    else:
        assert found == blocks(path)[kind]


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_told(path: Path, tmp_path: Path) -> None:
    compare(path, "told", told(run_case(path, tmp_path)).replace(f"{tmp_path}/", ""))


@pytest.mark.parametrize("path", [p for p in CASES if "updated" in blocks(p)], ids=lambda p: p.stem)
def test_updated(path: Path, tmp_path: Path) -> None:
    """What is written passes; nothing but expectations changes."""
    run = run_case(path, tmp_path)
    file = tmp_path / "d.rules"
    file.write_bytes(updated(file.read_bytes(), run.outcomes))
    compare(path, "updated", file.read_text())
    again = run_tests(str(file))
    assert {o.status for o in again.outcomes} == {"passed"}, told(again)
    assert updated(file.read_bytes(), again.outcomes) == file.read_bytes()


def foreign(text: str) -> bytes:
    return b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()


@pytest.mark.parametrize("path", [p for p in CASES if "updated" in blocks(p)], ids=lambda p: p.stem)
def test_update_leaves_the_rest_byte_for_byte(path: Path, tmp_path: Path) -> None:
    """Line ends of other systems and a mark in front stay too."""
    rules, wanted = (blocks(path)[kind] for kind in ("rules", "updated"))
    file = tmp_path / "d.rules"
    file.write_bytes(foreign(rules))
    assert updated(file.read_bytes(), run_tests(str(file)).outcomes) == foreign(wanted)


@pytest.mark.parametrize("path", [p for p in CASES if "coverage" in blocks(p)], ids=lambda p: p.stem)
def test_coverage(path: Path, tmp_path: Path) -> None:
    found = coverage(run_case(path, tmp_path))
    compare(path, "coverage", "".join(f"{line}\n" for line in coverage_lines(found)).replace(f"{tmp_path}/", ""))


def test_running_twice_says_the_same(tmp_path: Path) -> None:
    for path in CASES:
        assert told(run_case(path, tmp_path)) == told(run_case(path, tmp_path))


@pytest.mark.parametrize("path", RULES, ids=lambda p: p.stem)
def test_shipped_rules_pass_their_tests(path: Path) -> None:
    run = run_tests(str(path))
    assert all(o.status == "passed" for o in run.outcomes), told(run)


DEVICE = """potc 1
use std
device d {
  opset ai.onnx 13 .. 25
  requantize
  rule conv { match Conv(x, w: const) -> Relu? as y   quant x, y: u8 asym, w: i8 sym per_channel(out) }
  rule sum { match Add(a, b) as y   quant a, b, y: i8 sym | u8 asym }
  pass MaxPool
}
test "t" {
  graph { (f32[1,4,4,4] x) => (f32[1,4,4,4] y, f32[1,4,3,3] m) <f32[4,4,1,1] w>
    t = Conv(x, w)  r = Relu(t)  m = MaxPool<kernel_shape = [2, 2]>(r)  e = Exp(r)  y = Add(e, e) }
"""
MADE = st.sampled_from(["t", "r", "m", "e", "y"])
ANY = st.sampled_from(["x", "w", "t", "r", "m", "e", "y"])
FORMATS = st.sampled_from(
    ["none", "u8", "i8 sym", "i8 sym | u8 asym", "i8 sym per_channel(0)", "i8 sym per_channel(out)"]
)
EXPECTS = st.one_of(
    st.builds("expect {}: {}".format, ANY, FORMATS),
    st.builds("expect same_scale {}, {}".format, ANY, ANY),
    st.builds("expect float {}".format, MADE),
    st.builds("expect float {}, {}".format, MADE, MADE),
    st.builds("expect rule {} covers {}".format, st.sampled_from(["conv", "d.sum", "d.pass"]), MADE),
    st.builds("expect rule {} covers {}, {}".format, st.sampled_from(["d.conv", "sum", "d.pass"]), MADE, MADE),
)


@given(st.lists(EXPECTS, min_size=1, max_size=6))
@settings(max_examples=40)
def test_what_update_writes_passes(expects: list[str]) -> None:
    """Whatever was expected; and a second update changes nothing."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "d.rules"
        file.write_text(DEVICE + "".join(f"  {e}\n" for e in expects) + "}\n")
        file.write_bytes(updated(file.read_bytes(), run_tests(str(file)).outcomes))
        again = run_tests(str(file))
        assert {o.status for o in again.outcomes} == {"passed"}, file.read_text()
        assert updated(file.read_bytes(), again.outcomes) == file.read_bytes()
        assert file.read_text().startswith(DEVICE)
