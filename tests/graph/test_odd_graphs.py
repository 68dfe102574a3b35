"""Models as writers of models leave them: each compiles and stays close, or is rejected with a code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import potc
from potc.cli.main import main
from potc.compiler import Compilation, Job, compile_model
from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import use_libraries
from potc.graph.names import all_nodes
from potc.graph.read import read_model

sys.path.insert(0, str(Path(__file__).parent))
from odd_models import PIECES, odd_model

SEEDS = range(20)

HALVES = """potc 1
use std
use prepare
device halves {
  opset ai.onnx 13 .. 25
  rule product {
    match any(MatMul, Gemm)(x, w: const, b: const?) as y
    quant x: u8 asym per_tensor, w: i8 sym per_channel(out), b: i32 sym per_channel(out) = scale(x) * scale(w), y: u8 asym per_tensor
  }
}
"""


def compiled(model: onnx.ModelProto, folder: Path, rules: str = "cpu") -> Compilation:
    onnx.save(model, folder / "model.onnx")
    done = compile_model(Job(str(folder / "model.onnx"), rules))
    assert done.verification.ok, done.verification.failed
    return done


def parsed(text: str, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{text}')


def weight(name: str, *shape: int, kind: int = TensorProto.FLOAT) -> TensorProto:
    values = np.random.default_rng(len(name)).normal(0, 0.3, shape)
    return helper.make_tensor(name, kind, shape, values.reshape(-1).tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_model_compiles_or_is_rejected_with_a_code(seed: int, tmp_path: Path) -> None:
    model, words = odd_model(seed)
    try:
        done = compiled(model, tmp_path)
    except Rejected as rejected:
        assert all(d.code in CODES for d in rejected.diagnostics), words
        with pytest.raises(Exception, match=r"NOT_IMPLEMENTED|registered|Non-zero"):  # noqa: PT012
            session = ort.InferenceSession(model.SerializeToString())  # nor does onnxruntime run it
            kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
            session.run(None, {i.name: np.ones(i.shape, kinds.get(i.type, np.int64)) for i in session.get_inputs()})
        return
    assert min(done.verification.sqnr.values(), default=99.0) > 10, words


def test_the_seeds_reach_most_pieces() -> None:
    words = " ".join(odd_model(seed)[1] for seed in SEEDS)
    reached = [piece.__name__ for piece, _ in PIECES if piece.__name__ in words]
    assert len(reached) > 0.6 * len(PIECES)


def test_same_seed_same_model() -> None:
    assert odd_model(5)[0] == odd_model(5)[0]


def test_what_is_quantized_already_stays_as_it_is_and_is_told(tmp_path: Path) -> None:
    model = parsed("""g (float[2,16] x) => (float[2,16] y) <float s = {0.05}, uint8 z = {128}> {
      q = QuantizeLinear (x, s, z)
      d = DequantizeLinear (q, s, z)
      a = MatMul (d, ready)
      y = MatMul (a, w)
    }""")
    codes = np.random.default_rng(1).integers(-100, 100, (16, 16)).astype(np.int8)
    model.graph.initializer.extend([numpy_helper.from_array(codes, "codes"), weight("w", 16, 16)])
    ready = helper.make_node("DequantizeLinear", ["codes", "step"], ["ready"], "ready")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.003), "step"))
    model.graph.node.insert(0, ready)
    done = compiled(model, tmp_path)
    graph = onnx.ModelProto.FromString(done.compiled).graph
    assert [n for n in graph.node if n.name == "ready"] == [ready]
    assert np.array_equal(numpy_helper.to_array(next(t for t in graph.initializer if t.name == "codes")), codes)
    assert [k.nodes for k in done.plan.kernels] == [("MatMul_4",)]
    told = {left.node: left.reasons[0].reason for left in done.plan.left}
    assert told["MatMul_3"] == "the node is quantized already (`ready` is stored as integers), and stays as it is"
    assert told["ready"] == "the node is a quantizer of the model itself, and stays as it is"
    assert done.verification.sqnr["y"] > 30


@pytest.mark.parametrize("kind", ["float16", "double", "bfloat16"])
def test_other_float_types_are_cast_around_their_quantizers(kind: str, tmp_path: Path) -> None:
    """bfloat16 is computed in float32, and cast at inputs and outputs only."""
    number = TensorProto.DataType.Value(kind.upper())
    (tmp_path / "halves.rules").write_text(HALVES)
    model = parsed(f"""g ({kind}[2,16] x) => ({kind}[2,16] y) {{
      t = MatMul (x, w)
      a = Add (t, b)
      y = MatMul (a, v)
    }}""")
    model.graph.initializer.extend(
        [weight("w", 16, 16, kind=number), weight("b", 16, kind=number), weight("v", 16, 16, kind=number)]
    )
    done = compiled(model, tmp_path, str(tmp_path / "halves.rules"))
    assert done.verification.sqnr["y"] > 30
    graph = onnx.ModelProto.FromString(done.compiled).graph
    quantizers = [n for n in graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantizers) == 3
    assert all(n.metadata_props for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast"))
    stored = {t.name: t.data_type for t in graph.initializer}
    assert {stored[n.input[1]] for n in quantizers} == {TensorProto.FLOAT}


def test_a_local_function_is_inlined_and_its_layer_runs_in_integers(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "w"], ["t"], "n"), helper.make_node("Relu", ["t"], ["y"], "n")]
    imports = [helper.make_opsetid("", 17)]
    layer = helper.make_function("mine", "Layer", ["a", "w"], ["y"], nodes, imports)
    model = parsed("g (float[2,16] x) => (float[2,16] z) { }")
    calls = [helper.make_node("Layer", [a, "w"], [b], domain="mine") for a, b in (("x", "y"), ("y", "z"))]
    model.graph.node.extend(calls)
    model.graph.initializer.append(weight("w", 16, 16))
    model.functions.append(layer)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    done = compiled(model, tmp_path)
    assert not done.model.proto.functions
    assert (done.share.weighted_integer, done.share.weighted) == (2, 2)


def test_optionals_and_sequences_pass_through(tmp_path: Path) -> None:
    model = parsed("""g (float[2,16] x) => (float[2,16] y, seq(float[2,16]) s, optional(float[2,16]) o) {
      t = MatMul (x, w)
      s = SequenceConstruct (t, x)
      zero = Constant <value = int64 {0}> ()
      u = SequenceAt (s, zero)
      o = Optional (u)
      v = OptionalGetElement (o)
      y = MatMul (v, w)
    }""")
    model.graph.initializer.append(weight("w", 16, 16))
    done = compiled(model, tmp_path)
    assert done.share.weighted == 2
    outputs = onnx.ModelProto.FromString(done.compiled).graph.output
    assert [o.type.WhichOneof("value") for o in outputs] == ["tensor_type", "sequence_type", "optional_type"]


@pytest.mark.parametrize(("ir", "constant"), [(3, True), (8, False)])
def test_weights_that_are_inputs_are_constants_only_where_nobody_can_feed_them(
    ir: int, constant: bool, tmp_path: Path
) -> None:
    model = parsed("g (float[2,16] x, float[16,16] w) => (float[2,16] y) { y = MatMul (x, w) }", 8, ir)
    model.graph.initializer.append(weight("w", 16, 16))
    onnx.save(model, tmp_path / "m.onnx")
    assert [i.name for i in read_model(str(tmp_path / "m.onnx")).proto.graph.input] == (
        ["x"] if constant else ["x", "w"]
    )
    done = compiled(model, tmp_path)
    assert done.share.weighted == int(constant)


def test_a_device_that_stores_its_inputs_stores_those_with_a_default_too(tmp_path: Path) -> None:
    rules = HALVES.replace("  rule product", "  graph input: i16 sym per_tensor\n  rule product")
    (tmp_path / "device.rules").write_text(rules)
    model = parsed("""g (float[2,16] x, bool c, float[16,16] w, float[2,16] v) => (float[2,16] y) {
      t = MatMul (x, w)
      y = If (c) <
        then_branch = a () => (float[2,16] p) { p = Add (t, v) },
        else_branch = b () => (float[2,16] q) { q = Mul (t, v) }>
    }""")
    model.graph.initializer.extend([weight("w", 16, 16), weight("v", 2, 16)])
    done = compiled(model, tmp_path, str(tmp_path / "device.rules"))
    graph = onnx.ModelProto.FromString(done.compiled).graph
    assert [n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"] == ["x", "w", "v"]
    assert [i.name for i in graph.input] == ["x", "c", "w", "v"]
    assert done.verification.sqnr["y"] > 60


def test_layers_behind_operators_of_other_domains_run_in_integers(tmp_path: Path) -> None:
    model = parsed("""g (float[2,16] x) => (float[2,16] y) {
      t = MatMul (x, w)
      g = com.microsoft.Gelu (t)
      y = MatMul (g, w)
    }""")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.initializer.append(weight("w", 16, 16))
    done = compiled(model, tmp_path)
    assert (done.share.weighted_integer, done.share.weighted) == (2, 2)


@pytest.fixture
def no_libraries() -> Iterator[None]:
    yield
    use_libraries(())


@pytest.mark.usefixtures("no_libraries")
def test_operators_that_nobody_knows_want_a_library(tmp_path: Path) -> None:
    model = parsed("g (float[2,16] x) => (float[2,16] y) { t = MatMul (x, w) y = mine.Odd (t) }")
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.initializer.append(weight("w", 16, 16))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(Rejected) as caught:
        compile_model(Job(str(tmp_path / "model.onnx"), "cpu"))
    assert caught.value.diagnostics[0].code == "unrunnable-model"
    assert "--ort-library" in (caught.value.diagnostics[0].help or "")
    (tmp_path / "library.so").write_text("no library")
    with pytest.raises(Rejected) as caught:
        compile_model(Job(str(tmp_path / "model.onnx"), "cpu", libraries=(str(tmp_path / "library.so"),)))
    assert "library.so" in caught.value.diagnostics[0].message


@pytest.mark.usefixtures("no_libraries")
def test_each_session_registers_the_libraries_of_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registered: list[str] = []

    def register(options: ort.SessionOptions, path: str) -> None:
        registered.append(path)

    monkeypatch.setattr(ort.SessionOptions, "register_custom_ops_library", register)
    model = parsed("g (float[2,16] x) => (float[2,16] y) { y = MatMul (x, w) }")
    model.graph.initializer.append(weight("w", 16, 16))
    onnx.save(model, tmp_path / "model.onnx")
    done = compile_model(Job(str(tmp_path / "model.onnx"), "cpu", libraries=("ops.so",)))
    assert "ops.so" in done.inputs
    assert len(registered) >= 3  # calibration, float and compiled model
    assert set(registered) == {os.path.abspath("ops.so")}
    registered.clear()
    compile_model(Job(str(tmp_path / "model.onnx"), "cpu"))
    assert not registered


@pytest.mark.usefixtures("no_libraries")
def test_all_who_run_models_take_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    registered: list[str] = []
    monkeypatch.setattr(
        ort.SessionOptions, "register_custom_ops_library", lambda options, path: registered.append(path)
    )
    model = parsed("g (float[2,16] x) => (float[2,16] y) { y = MatMul (x, w) }")
    model.graph.initializer.append(weight("w", 16, 16))
    path = str(tmp_path / "model.onnx")
    onnx.save(model, path)
    library = tmp_path / "ops.so"
    library.write_text("no library")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 2, 16), np.float32))
    more = ["--ort-library", str(library)]
    data = ["--data", str(tmp_path / "x.npz")]
    for words in (["evaluate", path, path, *data], ["bench", path, path, *data, "--runs", "6"]):
        registered.clear()
        assert main([*words, *more]) == 0
        assert registered and set(registered) == {str(library)}
    assert main(["verify", path, "--rules", "cpu", *more]) in (0, 1)
    for words in (
        ["evaluate", path, *data, "--metric", "sqnr"],
        ["bench", path, path],
        ["verify", path, "--rules", "cpu"],
    ):
        assert main([*words, "--ort-library", "missing.so"]) == 2
    registered.clear()
    potc.evaluate(path, path, data=str(tmp_path / "x.npz"), ort_library=str(library))
    potc.bench(path, path, runs=6, ort_library=str(library))
    potc.verify(path, rules="cpu", ort_library=[str(library)])
    assert set(registered) == {str(library)}


@pytest.mark.usefixtures("no_libraries")
def test_a_missing_library_is_told_by_all(tmp_path: Path) -> None:
    model = parsed("g (float[2,16] x) => (float[2,16] y) { y = mine.Odd (x) }")
    model.opset_import.append(helper.make_opsetid("mine", 1))
    path = str(tmp_path / "model.onnx")
    onnx.save(model, path)
    for run in (lambda: potc.evaluate(path, path, data=[np.ones((2, 16), np.float32)]), lambda: potc.bench(path, path)):
        with pytest.raises(Rejected) as caught:
            run()
        assert caught.value.diagnostics[0].code == "unrunnable-model"
        assert "--ort-library" in (caught.value.diagnostics[0].help or "")


def test_hundreds_of_steps_written_out(tmp_path: Path) -> None:
    nodes, state = [], "x"
    for step in range(150):
        nodes += [
            helper.make_node("MatMul", [state, "w"], [f"m{step}"]),
            helper.make_node("Add", [f"m{step}", "x"], [f"a{step}"]),
            helper.make_node("Tanh", [f"a{step}"], [f"h{step}"]),
        ]
        state = f"h{step}"
    model = parsed("g (float[2,16] x) => (float[2,16] h149) { }")
    model.graph.node.extend(nodes)
    model.graph.initializer.append(weight("w", 16, 16))
    done = compiled(model, tmp_path)
    assert done.share.weighted_integer == 150
    assert len({n.name for n in all_nodes(onnx.ModelProto.FromString(done.compiled).graph)}) > 450
