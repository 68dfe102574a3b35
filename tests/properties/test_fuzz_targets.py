"""Fuzz targets: whatever the bytes, a reader returns or raises ``Rejected``, and what is written can be read.

Each test is a property over bytes or texts; a fuzzer drives it by ``test.hypothesis.fuzz_one_input``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potc.cli.depfile import depfile
from potc.data.dataset import InputSpec
from potc.data.npz import open_npz
from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic, Rejected, Related, Severity
from potc.diagnostics.render_github import render_github
from potc.diagnostics.render_json import render_json
from potc.diagnostics.render_sarif import render_sarif
from potc.diagnostics.render_text import render
from potc.diagnostics.source import Source, Span
from potc.graph.read import read_model
from potc.language.format import format_file
from potc.language.parse import parse
from potc.quantize.ranges import Ranges

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "rules" / "cpu.rules").read_text()[:3000]
MODEL = (ROOT / "samples" / "digits" / "model.onnx").read_bytes()
SAMPLES = (ROOT / "samples" / "digits" / "calib.npz").read_bytes()[:5000]
SPEC = InputSpec("input", np.dtype(np.float32), (None, 1, 28, 28))
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes; or the seed with a piece cut out and another put in."""
    places = st.integers(0, len(seed))
    cut = st.builds(
        lambda a, b, new: seed[: min(a, b)] + new + seed[max(a, b) :], places, places, st.binary(max_size=40)
    )
    return st.binary(max_size=400) | cut


@quick
@given(damaged(RULES.encode()))
def test_parse(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        tree = parse(Source("fuzz.rules", text))
    except Rejected as rejected:
        assert {d.code for d in rejected.diagnostics} <= CODES.keys()
        return
    formatted = format_file(tree)
    assert format_file(parse(Source("fuzz.rules", formatted))) == formatted


@quick
@given(damaged(MODEL))
def test_read_model(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        try:
            model = read_model(str(path))
        except Rejected as rejected:
            assert rejected.exit_code == 1
            return
        assert len({n.name for n in model.proto.graph.node}) == len(model.proto.graph.node)


@quick
@given(damaged(SAMPLES))
def test_read_samples(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.npz"
        path.write_bytes(data)
        try:
            feeds = list(open_npz(str(path), [SPEC], 3).feeds())
        except Rejected as rejected:
            assert rejected.exit_code == 1
            return
        assert all(np.isfinite(f["input"]).all() for f in feeds)


values = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["potc", "version", "tensors", "min", "max", "model", "seen", "means"]) | st.text(max_size=5), inner, max_size=4), max_leaves=12)  # fmt: skip


@quick
@given(
    st.text(max_size=200)
    | values.map(json.dumps)
    | st.dictionaries(st.sampled_from(["tensors", "model", "means", "seen", "runs"]), values).map(
        lambda d: json.dumps({"potc": "ranges", "version": 1, **d})
    )
)
def test_read_ranges(text: str) -> None:
    try:
        ranges = Ranges.from_json(text, "r.json")
    except Rejected as rejected:
        assert rejected.exit_code == 1
        return
    assert Ranges.from_json(ranges.to_json(), "r.json").to_json() == ranges.to_json()


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@quick
@given(words, words, words, words, st.sampled_from(Severity), st.integers(0, 30), st.integers(0, 30))
def test_write_diagnostics(message: str, name: str, help_: str, text: str, severity: Severity, a: int, b: int) -> None:
    source = Source(name or "x", text)
    start, end = sorted((min(a, len(text)), min(b, len(text))))
    at = Span(source, start, end)
    diagnostic = Diagnostic(
        "syntax-error", message, severity, at, message, name or None, (Related(at, help_),), help_ or None
    )
    assert json.loads(render_json(diagnostic))["message"] == message
    (result,) = json.loads(render_sarif([diagnostic]))["runs"][0]["results"]
    assert result["message"]["text"].startswith(message)
    line = render_github(diagnostic)
    assert line.startswith("::") and not set(line) & {"\n", "\r"}
    assert all(c.isprintable() or c in "\n" for c in render(diagnostic, color=False))


@quick
@given(st.lists(words.filter(bool), min_size=1, max_size=4))
def test_write_dependencies(paths: list[str]) -> None:
    try:
        text = depfile("out", paths)
    except Rejected as rejected:
        assert rejected.exit_code == 2
        return
    lines = text.rstrip("\n").split("\n")
    assert len(lines) == 1 + len(dict.fromkeys(paths))
