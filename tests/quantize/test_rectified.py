"""Which tensors can't be negative, and that a plan says so."""

from __future__ import annotations

import pytest
from onnx import parser

from potc.graph.model import Model
from potc.graph.prepare import infer_shapes
from potc.graph.snapshot import take_snapshot
from potc.language.resolve import load_rules
from potc.quantize.parts import plan_of
from potc.quantize.plan_file import plan_from_json, plan_to_json
from potc.quantize.rectified import never_negative

CASES = [
    ("t = Relu(x)", True),
    ("t = Abs(x)", True),
    ("t = LeakyRelu(x)", False),
    ("t = Clip(x, zero, six)", True),
    ("t = Clip(x, zero)", True),
    ("t = Clip(x, six)", True),
    ("t = Clip(x, low, six)", False),
    ("t = Clip(x, zero, low)", False),  # the upper limit wins
    ("t = Clip(x, , six)", False),
    ("t = Clip(x, given)", False),
    ("t = Identity(x)", False),
]


def model(node: str) -> Model:
    proto = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1, 8] x, float given) => (float[1, 4] y)
        <float zero = {{0}}, float six = {{6}}, float low = {{-1}}, float[8, 4] w = {{{", ".join(["1"] * 32)}}}>
        {{ {node}  y = MatMul(t, w) }}"""
    )
    return infer_shapes(Model("m.onnx", proto, ("m.onnx",)))


@pytest.mark.parametrize(("node", "expected"), CASES)
def test_operators_say_which_results_are_never_negative(node: str, expected: bool) -> None:
    program = load_rules("cpu")
    snapshot = take_snapshot(model(node).proto)
    assert never_negative(snapshot, program.signatures, snapshot.tensor_ids["t"]) is expected
    assert not never_negative(snapshot, program.signatures, snapshot.tensor_ids["x"])


def test_a_plan_names_those_that_are_observed_and_its_file_keeps_them() -> None:
    plan = plan_of(load_rules("cpu"), model("t = Relu(x)"))
    assert plan.rectified == ("t",)
    assert plan_from_json(plan_to_json(plan)) == plan
