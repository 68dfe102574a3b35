"""Bias correction in sequence: means behind what follows a layer, with everything before it quantized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper, numpy_helper

from potc.compiler import Compilation, Job, compile_model
from potc.data.kept import Sample
from potc.execute.session import open_session
from potc.graph.snapshot import take_snapshot
from potc.quantize import sequential
from potc.quantize.behind import behind
from potc.quantize.params import dequantize
from potc.quantize.sequential import any_start_spread, believed
from potc.quantize.stages import Given, open_stage, stages
from potc.quantize.tuning import BiasSettings, Tuning

SAMPLES = 12

# Two branches and a sum: layers side by side, and one whose result two nodes read.
BRANCHES = """
  a = Conv <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (x, w0, b0)
  r = Relu (a)
  p = Conv <kernel_shape=[1, 1]> (r, w1, b1)
  q = Conv <kernel_shape=[3, 3], pads=[1, 1, 1, 1]> (r, w2, b2)
  s = Add (p, q)
  c = Clip (s, low, high)
  y = Conv <kernel_shape=[1, 1]> (c, w3, b3)
"""
# Most of what the layer returns is far below 0, and much changes there.
HIDDEN = """
  a = Conv <kernel_shape=[1, 1]> (x, w0, b0)
  r = Relu (a)
  y = Conv <kernel_shape=[1, 1]> (r, w1, b1)
"""


def network(folder: Path, lines: str, shape: tuple[int, ...] = (1, 4, 8, 8), batch: int = SAMPLES) -> tuple[str, str]:
    """A model of such lines, with random weights of 4 channels, and samples."""
    generator = np.random.default_rng(7)
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{",".join(map(str, shape))}] x) => (float y) {{ {lines} }}"""
    proto = onnx.parser.parse_model(text)
    made = {name for node in proto.graph.node for name in node.output} | {"x", ""}
    for node in proto.graph.node:
        node.name = f"make_{node.output[0]}"
        for port, name in enumerate(node.input):
            if name in made:
                continue
            made.add(name)
            size = next((tuple(a.ints) for a in node.attribute if a.name == "kernel_shape"), ())
            kind = {"w": (4, 4, *size), "b": (4,)}.get(name[0])
            values = {"low": 0.0, "high": 1.5}.get(name)
            array = np.array(values) if kind is None else generator.normal(size=kind) * (0.5 if port == 1 else 0.1)
            if name[0] == "w":
                array[:, 0] *= 8  # the others are coarse beside it
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 4, *shape[2:]]))
    onnx.save(proto, folder / "model.onnx")
    x = generator.uniform(0, 1, (batch, *shape[1:])) * np.arange(1, 5).reshape(4, 1, 1)
    np.savez(folder / "data.npz", x=x.astype(np.float32))
    return str(folder / "model.onnx"), str(folder / "data.npz")


def compiled(folder: Path, lines: str, method: str) -> Compilation:
    model, data = network(folder, lines)
    return compile_model(Job(model, "cpu", data, tuning=Tuning(bias=BiasSettings(method))))


def means(model: bytes, tensor: str, data: Path) -> np.ndarray:
    """[C]: of a tensor over all samples, in float arithmetic as the model is written."""
    proto = onnx.ModelProto.FromString(model)
    proto.graph.output.append(helper.make_empty_tensor_value_info(tensor))
    session = open_session(proto.SerializeToString(), optimize=False, threads=1)
    with np.load(data) as stored:
        found = [session.run([tensor], {"x": x[None]})[0] for x in stored["x"]]
    return np.mean([np.asarray(f, np.float64).mean(axis=(0, 2, 3)) for f in found], axis=0)


@pytest.mark.parametrize("lines", [BRANCHES, HIDDEN])
def test_means_of_results_come_to_those_of_the_float_model(tmp_path: Path, lines: str) -> None:
    fast, found = (compiled(tmp_path, lines, method) for method in ("fast", "sequential"))
    wanted = means(found.prepared.proto.SerializeToString(), "y", tmp_path / "data.npz")

    def off(made: Compilation) -> float:
        result = next(n.output[0] for n in onnx.ModelProto.FromString(made.compiled).graph.node if n.name == "make_y")
        return float(np.abs(means(made.compiled, result, tmp_path / "data.npz") - wanted).max())

    assert off(found) < 0.6 * off(fast)  # what may be chance stays
    assert set(found.params.shifts) == {c.bias for c in found.plan.corrections}


def test_a_layer_is_matched_behind_its_activation_function(tmp_path: Path) -> None:
    """In front of a Relu the means still differ: what is cut off there does not count."""
    found = compiled(tmp_path, HIDDEN, "sequential")
    float_model = found.prepared.proto.SerializeToString()
    errors: dict[str, np.ndarray] = {}
    for tensor in ("a", "r"):
        name = next(
            n.output[0] for n in onnx.ModelProto.FromString(found.compiled).graph.node if n.name == f"make_{tensor}"
        )
        errors[tensor] = means(found.compiled, name, tmp_path / "data.npz") - means(
            float_model, tensor, tmp_path / "data.npz"
        )
    assert np.abs(errors["r"]).max() < 2e-3 < np.abs(errors["a"]).max()


def test_reasons_and_shifts_say_what_was_done(tmp_path: Path) -> None:
    found = compiled(tmp_path, BRANCHES, "sequential")
    for correction in found.plan.corrections:
        reason, params = found.params.constant_reasons[correction.bias], found.params.constants[correction.bias]
        assert reason.endswith("; corrected in sequence") and reason.count("corrected") == 1
        stored = dequantize(found.params.codes[correction.bias], params)
        tensor = found.plan.constants[correction.bias].tensor
        before = next(
            numpy_helper.to_array(t) for t in found.prepared.proto.graph.initializer if t.name == tensor
        ).astype(np.float64)
        np.testing.assert_allclose(stored - before, found.params.shifts[correction.bias], atol=2 * params.scale.max())


def test_the_same_bytes_every_time(tmp_path: Path) -> None:
    assert compiled(tmp_path, BRANCHES, "sequential").compiled == compiled(tmp_path, BRANCHES, "sequential").compiled


def test_saved_ranges_give_the_same_bytes(tmp_path: Path) -> None:
    """They hold nothing of single samples: these are run again, in the same way."""
    model, data = network(tmp_path, BRANCHES)
    job = Job(model, "cpu", data, tuning=Tuning(bias=BiasSettings("sequential")))
    found = compile_model(job)
    assert sorted(found.ranges.looked) == list(range(SAMPLES))
    fast = compile_model(replace(job, tuning=Tuning(bias=BiasSettings("fast"))))
    assert not fast.ranges.looked and fast.ranges.to_json() == found.ranges.to_json()
    (tmp_path / "ranges.json").write_text(found.ranges.to_json())
    again = compile_model(replace(job, ranges=str(tmp_path / "ranges.json")))
    assert not again.ranges.looked and again.compiled == found.compiled


def test_with_little_memory_fewer_samples_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compiled(tmp_path, BRANCHES, "sequential")
    monkeypatch.setattr(sequential, "MEMORY", 1)
    one = compiled(tmp_path, BRANCHES, "sequential")
    assert one.compiled != whole.compiled and one.verification.ok


def test_samples_of_several_lengths(tmp_path: Path) -> None:
    model, data = network(tmp_path, HIDDEN, (1, 4, 8, 8))
    proto = onnx.load(model)
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
        proto.graph.output[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
    onnx.save(proto, model)
    job = Job(model, "cpu", data, tuning=Tuning(bias=BiasSettings("sequential")))
    assert compile_model(job).verification.ok
    assert compile_model(replace(job, data=None)).verification.ok


HALF = """potc 1
use std
device half {
  opset ai.onnx 13 .. 25
  qtype a8 = u8 asym per_tensor
  qtype w8 = i8 sym per_channel(out)
  qtype bias = i32 sym per_channel(out)
  rule conv {
    match Conv(x, w: const, b: const?) as y
    quant x: a8, w: w8, b: bias = scale(x) * scale(w), y: a8
  }
}
"""


def test_layers_of_other_float_types_keep_the_fast_correction(tmp_path: Path) -> None:
    model, data = network(tmp_path, HIDDEN)
    proto = onnx.load(model)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    for stored in proto.graph.initializer:
        stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored).astype(np.float16), stored.name))
    onnx.save(proto, model)
    with np.load(data) as file:
        np.savez(data, x=file["x"].astype(np.float16))
    (tmp_path / "half.rules").write_text(HALF)
    job = Job(model, str(tmp_path / "half.rules"), data)
    fast, found = (
        compile_model(replace(job, tuning=Tuning(bias=BiasSettings(method)))) for method in ("fast", "sequential")
    )
    assert len(found.plan.corrections) == 2 and set(fast.params.shifts) == {c.bias for c in found.plan.corrections}
    assert fast.compiled == found.compiled


SUM = """
  a = Conv <kernel_shape=[1, 1]> (x, w0, b0)
  s = Add (a, x)
  r = Relu (s)
  y = Conv <kernel_shape=[1, 1]> (r, w1, b1)
"""


def test_what_is_fused_away_is_looked_at_afterwards(tmp_path: Path) -> None:
    """A look at `a` in calibration would keep onnxruntime from adding x right where it is computed."""
    (tmp_path / "bare.rules").write_text(HALF.replace(", y: a8", ""))
    model, data = network(tmp_path, SUM)
    found = compile_model(Job(model, str(tmp_path / "bare.rules"), data))
    assert found.plan.observed == ("x", "r") and not found.ranges.looked
    assert len(found.params.shifts) == 2


# ---------------------------------------------------------------------------------------------- parts


def test_stages_return_what_the_whole_model_returns(tmp_path: Path) -> None:
    found = compiled(tmp_path, BRANCHES, "fast")
    proto = onnx.ModelProto.FromString(found.compiled)
    names = {found.plan.constants[c.bias].node: c.bias for c in found.plan.corrections}
    assert [stage.layers for stage in stages(proto, names)] == [("make_a",), ("make_p", "make_q"), ("make_y",)]
    results = {node.name: node.output[0] for node in proto.graph.node if node.name in names}
    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    whole.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in results.values())
    with np.load(tmp_path / "data.npz") as stored:
        sample = {"x": stored["x"][:1]}
    session = open_session(whole.SerializeToString(), optimize=True, threads=1, quantizers=False)
    expected = session.run(list(results.values()), sample)
    wanted = dict(zip(results, expected, strict=True))
    values = dict(sample)
    for stage in stages(proto, names):
        given = {
            name: Given(2, dequantize(found.params.codes[i], found.params.constants[i])) for name, i in names.items()
        }
        types = {name: values[name].dtype for name in stage.reads}
        outputs = [results[name] for name in stage.layers]
        session = open_stage(proto, stage, types, given, ((), ()), outputs)
        seen = session.run([*stage.kept, *outputs], {name: values[name] for name in stage.reads})
        values.update(zip(stage.kept, seen, strict=False))
        assert all(values[name].dtype == np.uint8 for name in stage.kept)
        for name, value in zip(stage.layers, seen[len(stage.kept) :], strict=True):
            np.testing.assert_array_equal(value, wanted[name])


@pytest.mark.parametrize(
    ("lines", "nodes", "result"),
    [
        ("a = Conv(x, w) r = Relu(a) y = Conv(r, w)", ("make_r",), "r"),
        (
            "a = Conv(x, w) h = Add(a, three) k = Clip(h) m = Mul(a, k) y = Conv(m, w)",
            ("make_h", "make_k", "make_m"),
            "m",
        ),
        ("a = Conv(x, w) r = Relu(a) m = Add(r, a) y = Conv(m, w)", ("make_r", "make_m"), "m"),
        ("a = Conv(x, w) r = Relu(a) s = Add(r, x) y = Conv(s, w)", ("make_r",), "r"),
        ("a = Conv(x, w) r = Relu(a) b = Conv(a, w) y = Add(r, b)", (), "a"),
        ("a = Conv(x, w) y = Softmax(a)", (), "a"),
    ],
)
def test_what_lies_behind_a_layer(lines: str, nodes: tuple[str, ...], result: str) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1, 4, 8, 8] x) => (float y) {{ {lines} }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((4, 4, 1, 1), np.float32), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(3, np.float32), "three"))
    for node in proto.graph.node:
        node.name = f"make_{node.output[0]}"
    snapshot = take_snapshot(onnx.shape_inference.infer_shapes(proto))
    from potc.language.resolve import load_rules  # the signatures that ship

    signatures = load_rules("cpu").members[0].signatures
    found = behind(snapshot, signatures, snapshot.tensor_ids["a"])
    assert (found.nodes, found.result) == (nodes, result)


@given(st.integers(1, 70))
def test_any_start_of_the_samples_is_spread(count: int) -> None:
    samples: list[Sample] = [(index, {}) for index in range(count)]
    order = [index for index, _ in any_start_spread(samples)]
    assert sorted(order) == list(range(count))
    for length in range(2, count + 1):
        start = sorted(order[:length])
        gaps = np.diff([-1, *start, count])
        assert gaps.max() <= 4 * count / length + 1


@settings(max_examples=50)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-1e3, 1e3)))
def test_no_more_is_believed_than_was_seen(errors: np.ndarray) -> None:
    found, mean = believed(errors), errors.mean(axis=0)
    assert (np.abs(found) <= np.abs(mean)).all() and (found * mean >= 0).all()


def test_what_may_be_chance_is_not_taken_back() -> None:
    errors = np.array([[1.0, -3.0, 1.0, np.nan], [1.0, 3.1, 1.2, 0.0]])
    found = believed(errors)
    assert found[0] == 1.0 and found[1] == 0.0 and 1.0 < found[2] < 1.1 and found[3] == 0.0
