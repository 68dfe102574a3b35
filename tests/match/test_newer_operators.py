"""A rewrite may emit operators that are newer than the model: it is raised where one matches, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from potc.compiler import prepare
from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.graph.names import all_nodes
from potc.language.program import Program
from potc.language.resolve import load_rules

RULES = """potc 1
use std
rewrite swish {
  match Add(x, 3) -> Clip(prev, 0, 6) -> Mul(prev, x) -> Div(prev, 6) as y
  emit y = HardSwish(x)
}
device d { opset ai.onnx 13 .. 25 }
"""
CONSTANTS = "<float three = {3}, float zero = {0}, float six = {6}, bool yes = {1}>"
SWISH = "a = Add (x, three) b = Clip (a, zero, six) c = Mul (b, x) y = Div (c, six)"
BODY = "a = Add (x, three) b = Clip (a, zero, six) c = Mul (b, x) r = Div (c, six)"
GRAPHS = {
    "in the main graph": (f"{{ {SWISH} }}", 14, {"HardSwish"}),
    "in a body": (
        f"{{ y = If (yes) <then_branch = t () => (float[2,3] r) {{ {BODY} }}, "
        "else_branch = e () => (float[2,3] r) { r = Neg (x) }> }",
        14,
        {"If", "HardSwish", "Neg"},
    ),
    "no match": ("{ a = Add (x, three) y = Clip (a, zero, six) }", 13, {"Add", "Clip"}),
    "an operator beside it that changed on the way": (
        "{ a = Add (x, three) b = Clip (a, zero, six) c = Mul (b, x) d = Div (c, six) y = BatchNormalization (d, k, k, k, k) }",
        14,
        {"HardSwish", "BatchNormalization"},
    ),
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    path = tmp_path_factory.mktemp("rules") / "d.rules"
    path.write_text(RULES)
    return load_rules(str(path))


def model(body: str) -> Model:
    constants = CONSTANTS.replace(">", ", float[3] k = {1, 1, 1}>") if "k," in body else CONSTANTS
    text = f'<ir_version: 8, opset_import: ["": 13]> g (float[2,3] x) => (float[2,3] y) {constants} {body}'
    proto = onnx.parser.parse_model(text)
    for n, node in enumerate(all_nodes(proto.graph)):
        node.name = f"n{n}"
    onnx.checker.check_model(proto)
    return Model("m.onnx", proto, ())


@pytest.mark.parametrize(("body", "opset", "operators"), GRAPHS.values(), ids=GRAPHS)
def test_a_model_is_raised_where_a_rewrite_matches(
    program: Program, body: str, opset: int, operators: set[str]
) -> None:
    before = model(body)
    after, changes = prepare(before, program)
    assert after.opset == opset
    assert {n.op_type for n in all_nodes(after.proto.graph)} == operators
    assert [c.rewrite for c in changes] == ["swish"] * (opset == 14)
    feed = {"x": np.linspace(-5, 5, 6, dtype=np.float32).reshape(2, 3)}
    old, new = (open_session(m.proto.SerializeToString(), optimize=False).run(None, feed)[0] for m in (before, after))
    np.testing.assert_allclose(new, old, rtol=1e-6, atol=1e-6)


def test_where_a_model_resists_the_rewrite_does_not_apply(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def resists(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError(f"no way to {version}")

    monkeypatch.setattr("onnx.version_converter.convert_version", resists)
    after, changes = prepare(model(GRAPHS["in the main graph"][0]), program)
    assert after.opset == 13
    assert changes == ()
    assert {n.op_type for n in after.proto.graph.node} == {"Add", "Clip", "Mul", "Div"}


def test_an_operator_that_no_opset_of_the_device_has_is_told(tmp_path: Path) -> None:
    path = tmp_path / "old.rules"
    path.write_text(RULES.replace("13 .. 25", "11 .. 13"))
    with pytest.raises(Rejected) as rejected:
        load_rules(str(path))
    (told,) = rejected.value.diagnostics
    assert told.code == "unknown-operator"
    assert told.message == "`HardSwish` is not an operator of opset 11, and the device declares 11 .. 13"
    assert told.help == "take an `opset` of the device that has it, or leave the operator out"
