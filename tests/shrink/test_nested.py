"""Nested graphs and Constant nodes become smaller as the main graph and initializers do; words that a command prints stay."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import potc
from potc.cli.main import main
from potc.graph.names import all_nodes
from potc.graph.read import accept_model
from potc.shrink.carried import fewer_values, first_passes
from potc.shrink.cut import simpler, types_of
from potc.shrink.sizes import resized, sizes
from potc.shrink.symptom import Observed, Symptom

HEAD = '<ir_version: 9, opset_import: ["": 17]>'
LOOP = """g (float[4] x, int64 n, bool c) => (float[4] y) {
    y, z, s = Loop (n, c, x, x) <body = b (int64 i, bool k, float[4] u, float[4] v)
        => (bool k2, float[4] u2, float[4] v2, float[4] w) {
        k2 = Identity(k)  t = Abs(u)  u2 = Add(t, v)  m = Neg(v)  v2 = Cos(m)  w = Exp(m) }>
}"""
LAST = """g (float[4] x, int64 n, bool c) => (float[4] z) {
    y, z = Loop (n, c, x, x) <body = b (int64 i, bool k, float[4] u, float[4] v) => (bool k2, float[4] u2, float[4] v2) {
        k2 = Identity(k)  u2 = Abs(u)  v2 = Cos(v) }>
}"""
SCAN = """g (float[4] x, float[3, 4] a) => (float[3, 4] s) {
    y, r, s = Scan (x, a) <num_scan_inputs = 1, body = b (float[4] u, float[4] e) => (float[4] u2, float[4] p, float[4] q) {
        u2 = Identity(u)  h = Neg(e)  p = Exp(h)  q = Add(u, e) }>
}"""
IF = """g (bool c, float[4] x) => (float[4] y) {
    y, z = If (c) <then_branch = t () => (float[4] a, float[4] b) { d = Relu(x)  a = Abs(d)  b = Exp(d) },
                   else_branch = e () => (float[4] f, float[4] h) { f = Neg(x)  h = Cos(x) }>
}"""
INNER = """g (bool c, float[4] x, int64 n, bool k0) => (float[4] y) {
    y = If (c) <then_branch = t () => (float[4] a) {
            a, z = Loop (n, k0, x, x) <body = b (int64 i, bool k, float[4] u, float[4] v) => (bool k2, float[4] u2, float[4] v2) {
                k2 = Identity(k)  u2 = Abs(u)  v2 = Neg(v) }> },
        else_branch = e () => (float[4] f) { f = Neg(x) }>
}"""


def parsed(text: str) -> onnx.ModelProto:
    return accept_model("m", onnx.parser.parse_model(f"{HEAD} {text}")).proto


def results(proto: onnx.ModelProto, passes: int = 1) -> list[np.ndarray]:
    draw = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    known = {"x": draw[0], "a": draw, "n": np.array(passes), "c": np.array(True), "k0": np.array(True)}
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: known[i.name] for i in session.get_inputs()})


def operators(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in all_nodes(proto.graph)]


@pytest.mark.parametrize(
    ("text", "left", "same"),
    [
        # ``v`` is carried and read: with its start instead, the first pass is the same
        (LOOP, [{"Abs", "Add", "Neg", "Exp", "Identity"}, {"Abs", "Add", "Neg", "Cos", "Identity"}], 1),
        (LAST, [{"Cos", "Identity"}], 5),
        (SCAN, [{"Neg", "Exp", "Add"}, {"Identity", "Add"}], 3),
        (IF, [{"Relu", "Abs", "Neg"}], 1),
        (INNER, [{"Abs", "Neg", "Identity"}], 4),
    ],
)
def test_what_nobody_reads_is_not_carried(text: str, left: list[set[str]], same: int) -> None:
    before = parsed(text)
    found = list(fewer_values(before))
    assert [set(operators(m)) - {"Loop", "Scan", "If"} for m in found] == left
    for model in found:
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_array_equal(results(model, same), results(before, same))


def test_all_that_nobody_reads_goes_in_the_end() -> None:
    model = parsed(LOOP)
    while (fewer := next(iter(fewer_values(model)), None)) is not None:
        model = fewer
    onnx.checker.check_model(model, full_check=True)
    assert sorted(operators(model)) == ["Abs", "Add", "Identity", "Loop"]
    assert len(model.graph.node[0].input) == 3, "one value is carried"


def test_a_loop_becomes_its_first_pass() -> None:
    for text in (LOOP, LAST):
        before = parsed(text)
        (first,) = first_passes(before)
        onnx.checker.check_model(first, full_check=True)
        assert "Loop" not in operators(first)
        np.testing.assert_array_equal(results(first), results(before, 1))
    assert list(first_passes(parsed(SCAN))) == []
    collected = LOOP.replace("(float[4] y) {", "(float[4] y, float[m, 4] s) {", 1)
    assert list(first_passes(parsed(collected))) == [], "what a loop collects has one axis more than what a pass makes"


def test_what_makes_the_result_of_a_nested_graph_is_stepped_over() -> None:
    before = parsed(IF)
    found = [operators(m) for m in simpler(before, types_of(before))]
    assert any("Abs" not in ops and "Relu" in ops for ops in found)
    for model in simpler(before, types_of(before)):
        onnx.checker.check_model(model, full_check=True)


def test_constant_nodes_have_sizes() -> None:
    weight = numpy_helper.from_array(np.ones((6, 5), np.float32), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["t"])]
    nodes += [
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 5]),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, d]) for n, d in (("x", 6), ("y", 5))]
    proto = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    assert sizes(proto, {}) == [6, 5]
    small = resized(resized(proto, 6, 2, True), 5, 3, True)
    onnx.checker.check_model(small, full_check=True)
    session = ort.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((1, 2), np.float32)})[0].shape == (1, 3)


LOOK = """
import sys, onnx
def every(graph):
    for node in graph.node:
        yield node.op_type
        for a in node.attribute:
            if a.HasField("g"):
                yield from every(a.g)
found = set(every(onnx.load(sys.argv[1]).graph))
if "Exp" in found:
    print("Exp is not supported")
if "Cos" in found:
    sys.exit("line\\nCos overflows in here")
sys.exit(0 if "Exp" not in found else 1)
"""


@pytest.mark.parametrize(("says", "left"), [("^Cos overflows", ["Cos"]), ("Exp is not", ["Exp"])])
def test_the_same_exit_code_for_another_reason_is_not_enough(says: str, left: list[str], tmp_path: Path) -> None:
    path, look = tmp_path / "loop.onnx", tmp_path / "look.py"
    onnx.save(parsed(LOOP), path)
    look.write_text(LOOK)
    run = f"{sys.executable} {look} {{model}}"
    found = potc.reduce(path, rules="cpu", run=run, says=says, tries=150)
    assert found.symptom == f"exit: 1, printing `{says}`"
    assert operators(onnx.load_from_string(found.model)) == left
    assert found.after.nodes == 1 < found.before.nodes


def test_a_symptom_with_words() -> None:
    symptom = Symptom("exit", "1", says="out of .* memory")
    assert symptom.shown_by(Observed("exit", "1", printed="a\nout of device memory\n"))
    assert not symptom.shown_by(Observed("exit", "1", printed="out of\ndevice memory"))
    assert not symptom.shown_by(Observed("exit", "2", printed="out of device memory"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--says", "x"], "--says is for what the command of --run prints"),
        (["--run", "true", "--says", "("], "no regular expression"),
    ],
)
def test_words_that_do_not_go(words: list[str], told: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["reduce", "m.onnx", "--rules", "cpu", *words]) == 2
    assert re.search(re.escape(told), capfd.readouterr().err)
    with pytest.raises(ValueError, match="says is for"):
        potc.reduce("m.onnx", rules="cpu", says="x")
