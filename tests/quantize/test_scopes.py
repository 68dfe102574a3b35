"""What the command line keeps in float: names, operators, regions; and what it must refuse."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from test_cases import model_from_text

from potc.compiler import Job, Trace, match_model
from potc.diagnostics.diagnostic import Rejected
from potc.quantize.scopes import Scopes

MODEL = """g (float[1,8,8,8] x) => (float[1,8,8,8] z) <float[8,8,3,3] w, float[8,8,1,1] v, float[8,8,1,1] u,
  float[8] scale, float[8] shift, float[8] mean, float[8] var> {
  a = Conv <pads = [1, 1, 1, 1]> (x, w)
  n = BatchNormalization (a, scale, shift, mean, var)
  r = Relu (n)
  b = Conv (r, v)
  p = MaxPool <kernel_shape = [1, 1]> (b)
  z = Conv <strides = [1, 1]> (p, u)
}"""


def floats(scopes: Scopes, folder: Path) -> set[str]:
    """Operators that stay in float, with the tensor that they make."""
    onnx.save(model_from_text(MODEL), folder / "m.onnx")
    matched = match_model(Job(str(folder / "m.onnx"), "cpu", scopes=scopes), Trace())
    return {left.node for left in matched.plan.left}


CASES = [
    (Scopes(), set()),
    (Scopes(names=("Conv_5",)), {"Conv_5", "MaxPool_4"}),  # nobody is left whom the pool could pass codes to
    (Scopes(names=("Conv_*",)), {"Conv_0", "Conv_3", "Conv_5", "Relu_2", "MaxPool_4"}),
    # The convolution took over what the normalization did: whoever names that means this.
    (Scopes(names=("BatchNormalization_1",)), {"Conv_0", "Relu_2"}),
    (Scopes(operators=("MaxPool",)), {"MaxPool_4"}),
    (Scopes(operators=("Conv[kernel_shape=3:3]",)), set()),
    (Scopes(operators=("Conv[pads=1:1:1:1]",)), {"Conv_0", "Relu_2"}),
    (Scopes(between=(("Conv_3", "z"),)), {"Conv_3", "MaxPool_4", "Conv_5"}),
    (Scopes(between=(("x", "r"),)), {"Conv_0", "Relu_2"}),
]


@pytest.mark.parametrize(("scopes", "expected"), CASES, ids=[str(s)[7:-1] for s, _ in CASES])
def test_scopes(scopes: Scopes, expected: set[str], tmp_path: Path) -> None:
    assert floats(scopes, tmp_path) == expected


def test_the_reason_names_the_option(tmp_path: Path) -> None:
    onnx.save(model_from_text(MODEL), tmp_path / "m.onnx")
    plan = match_model(Job(str(tmp_path / "m.onnx"), "cpu", scopes=Scopes(names=("Conv_5",))), Trace()).plan
    left = next(n for n in plan.left if n.node == "Conv_5")
    assert left.reasons[0].rule == "command line"
    assert left.reasons[0].reason == "kept in float by --float Conv_5"


WRONG = [
    (Scopes(names=("Convv_5",)), "Conv_5"),
    (Scopes(names=("nothing_like_it",)), "explain"),
    (Scopes(operators=("Softmax",)), "MaxPool"),
    (Scopes(operators=("Conv[stride=1:1]",)), "strides"),
    (Scopes(operators=("Conv[",)), "Conv\\[group=1\\]"),
    (Scopes(between=(("z", "x"),)), "earlier one first"),
    (Scopes(between=(("Conv_0", "nowhere"),)), "explain"),
]


@pytest.mark.parametrize(("scopes", "help_"), WRONG, ids=[str(s)[7:-1] for s, _ in WRONG])
def test_what_the_model_does_not_have_is_refused_with_a_suggestion(scopes: Scopes, help_: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        floats(scopes, tmp_path)
    (told,) = caught.value.diagnostics
    assert told.code == "unknown-node"
    assert help_.replace("\\", "") in (told.help or "")
