"""bfloat16 models: computed in float32, the same weights to the bit, bfloat16 at inputs and outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import potc
from potc.cli.main import main
from potc.data.dataset import InputSpec, check_dtype, convert
from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.graph.widen import cast_borders, widened

NARROW = TensorProto.BFLOAT16


def stored(name: str, values: np.ndarray) -> onnx.TensorProto:
    """Rounded to bfloat16."""
    return helper.make_tensor(name, NARROW, values.shape, values.ravel().tolist())


def convolutions(middle: str = "r = Relu (c)", result: str = "bfloat16", second: int = NARROW) -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": 22]>
        g (bfloat16[N,3,8,8] x) => ({result}[N,4,6,6] y) {{ c = Conv (x, w, b) {middle} y = Conv<pads = [0,0,0,0]> (r, v) }}"""
    )
    w, v, b = (draw.normal(size=s).astype(np.float32) / 4 for s in ((4, 3, 3, 3), (4, 4, 1, 1), (4,)))
    last = stored("v", v) if second == NARROW else numpy_helper.from_array(v, "v")
    model.graph.initializer.extend([stored("w", w), stored("b", b), last])
    return model


SAMPLES = list(np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32))
MIXED = {"middle": "q = Relu (c) r = Cast<to = 1> (q)", "result": "float", "second": TensorProto.FLOAT}


@pytest.mark.parametrize("words", [{}, MIXED], ids=["bfloat16", "mixed"])
def test_layers_run_on_integers_and_the_interface_stays(words: dict[str, object], tmp_path: Path) -> None:
    model = convolutions(**words)  # type: ignore[arg-type]
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    done = potc.compile(path, rules="cpu", data=SAMPLES)
    assert (done.report.share.weighted_integer, done.report.share.weighted) == (2, 2)
    assert done.compilation.verification.sqnr["y"] > 30
    assert any("bfloat16 is computed in float32" in w for w in done.report.warnings)
    made = onnx.load_from_string(done.model)
    onnx.checker.check_model(made, full_check=True)
    for before, after in zip(
        (*model.graph.input, *model.graph.output), (*made.graph.input, *made.graph.output), strict=True
    ):
        assert before.type.tensor_type.elem_type == after.type.tensor_type.elem_type
        assert before.name == after.name
    (tmp_path / "int8.onnx").write_bytes(done.model)
    scores = potc.evaluate(path, tmp_path / "int8.onnx", data=SAMPLES)
    assert scores.models[1].metrics[0].value > 30
    assert potc.bench(path, tmp_path / "int8.onnx", runs=6).floating == ()
    assert main(["verify", str(tmp_path / "int8.onnx"), "--rules", "cpu"]) == 0


def test_codes_go_before_bfloat16(tmp_path: Path) -> None:
    onnx.save(convolutions(), tmp_path / "model.onnx")
    done = potc.compile(tmp_path / "model.onnx", rules="cpu", data=SAMPLES, io={"x": "u8"})
    made = onnx.load_from_string(done.model)
    assert made.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert made.graph.output[0].type.tensor_type.elem_type == NARROW


def test_weights_are_the_same_numbers_everywhere() -> None:
    text = """<ir_version: 10, opset_import: ["": 17]> g (bool c, bfloat16[4] x) => (bfloat16[4] y, bfloat16[2] z) {
        y = If (c) <then_branch = a () => (bfloat16[4] p) { p = Mul(x, w) },
                    else_branch = b () => (bfloat16[4] r) { r = Neg(x) }>
        s = Constant<value = float[1] {2}> ()
        t = Cast<to = 16> (s)
        z = Concat<axis = 0> (t, t)
    }"""
    model = onnx.parser.parse_model(text)
    values = np.array([1.5, -3e38, 1e-40, 0.1], np.float32)
    model.graph.initializer.append(stored("w", values))
    wide = widened(Model("m", model, ()))
    assert wide.bfloat16 == {"x", "y", "z"}
    onnx.checker.check_model(wide.proto, full_check=True)
    assert b"BFLOAT16" not in str(wide.proto).encode()
    before, after = (numpy_helper.to_array(m.graph.initializer[0]) for m in (model, wide.proto))
    assert after.dtype == np.float32
    assert np.array_equal(before.astype(np.float32), after)
    assert "Cast" not in [n.op_type for n in wide.proto.graph.node]
    assert widened(wide) is wide


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_borders_round_and_nothing_else(values: list[float]) -> None:
    text = """<ir_version: 10, opset_import: ["": 17]> g (float[N] x) => (float[N] y, float[N] x) { y = Identity(x) }"""
    model = onnx.parser.parse_model(text)
    narrow = cast_borders(model, {"x", "y"}, NARROW)
    onnx.checker.check_model(narrow, full_check=True)
    session = open_session(
        cast_borders(narrow, {"x", "y"}, TensorProto.FLOAT).SerializeToString(), optimize=False, threads=1
    )
    x = np.array(values, np.float32)
    (y,) = session.run(["y"], {"x": x})
    wanted = numpy_helper.to_array(stored("x", x)).astype(np.float32)
    assert np.array_equal(np.asarray(y), wanted)


def test_samples_of_raw_bytes_are_refused() -> None:
    """That is what numpy makes of bfloat16 in a file."""
    spec = InputSpec("x", np.dtype(np.float32), (None, 3))
    with pytest.raises(Rejected, match="wrong-data-type"):
        check_dtype("x.npz", spec, np.zeros((2, 3), "V2").dtype)
    known = numpy_helper.to_array(stored("x", np.ones(3, np.float32)))
    check_dtype("samples", spec, known.dtype)
    assert convert("samples", spec, 0, known).dtype == np.float32
