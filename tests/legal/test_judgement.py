"""What `potc verify` finds in models of other tools, and that it finds nothing in potc's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnx.parser
import onnxruntime.quantization as tool
import pytest
from networks import network
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process
from test_cases import model_from_text

from potc.compiler import Job, compile_model
from potc.diagnostics.diagnostic import Diagnostic
from potc.graph.read import read_model
from potc.language.files import read_library
from potc.language.resolve import load_rules
from potc.language.syntax import Device, DeviceAlgebra
from potc.legal.judge import judge
from potc.shipped import shipped_rules

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "digits" / "model.onnx"
MODELS = [*sorted((ROOT.parent / "shared" / "models").glob("*/model.onnx")), SAMPLE]
PARTS = ("cpu", "gpu", "vpu")


def violations(model: onnx.ModelProto, device: str, folder: Path, **settings: str) -> tuple[Diagnostic, ...]:
    path = folder / "model.onnx"
    onnx.save(model, path)
    (verdict,) = judge(read_model(str(path)), load_rules(device, settings=settings))
    return verdict.violations


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
@pytest.mark.parametrize("device", ["any", *PARTS])
def test_what_is_compiled_is_legal(path: Path, device: str, tmp_path: Path) -> None:
    """For a meet: on every part."""
    compiled = onnx.ModelProto.FromString(compile_model(Job(str(path), device)).compiled)
    for part in PARTS if device == "any" else (device,):
        assert violations(compiled, part, tmp_path) == ()


def test_what_lies_behind_an_operator_that_onnx_does_not_know_has_the_type_that_onnxruntime_tells(
    tmp_path: Path,
) -> None:
    """A requirement of the rules speaks of it."""
    model = model_from_text("""
        <ir_version: 9, opset_import: ["": 17, "com.microsoft": 1]>
        g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,3,3] w> {
          t = com.microsoft.Gelu (x)
          y = Conv <pads = [1, 1, 1, 1]> (t, w)
        }
    """)
    onnx.save(model, tmp_path / "float.onnx")
    done = compile_model(Job(str(tmp_path / "float.onnx"), "cpu"))
    assert len(done.plan.kernels) == 1
    assert violations(onnx.ModelProto.FromString(done.compiled), "cpu", tmp_path) == ()


def shipped_devices() -> list[tuple[str, str]]:
    """Rule file and device of all that a model can be compiled for."""
    found: list[tuple[str, str]] = []
    for rules in shipped_rules():
        items = read_library(rules).main.items
        found += [(rules, i.name) for i in items if isinstance(i, DeviceAlgebra)]
        found += [(rules, i.name) for i in items if isinstance(i, Device) and not i.abstract]
    return found


@pytest.mark.parametrize("device", [d for d in shipped_devices() if d[1] not in ("any", *PARTS)], ids=lambda d: d[1])
def test_no_device_refuses_what_is_compiled_for_it(device: tuple[str, str], tmp_path: Path) -> None:
    rules, name = device
    for path in (m for m in MODELS if m.stat().st_size < 500_000):  # those that take a moment
        made = compile_model(Job(str(path), rules, device=name, samples=2, checked=1))
        (tmp_path / "model.onnx").write_bytes(made.compiled)
        (verdict,) = judge(read_model(str(tmp_path / "model.onnx")), made.program)
        assert verdict.violations == (), path


# ---------------------------------------------------------------------------------------------- other tools


class _Reader(tool.CalibrationDataReader):
    def __init__(self) -> None:
        samples = np.load(SAMPLE.parent / "calib.npz")
        (self.name,) = samples.files
        self.rows = iter(samples[self.name][:50])

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self.rows, None)
        return None if row is None else {self.name: row[None]}


@cache
def models() -> dict[str, bytes]:
    """Quantized digits of three tools, in three forms."""
    made = {"nncf": Path(__file__).with_name("digits.nncf.onnx").read_bytes()}
    forms = {"qdq": tool.QuantFormat.QDQ, "qoperator": tool.QuantFormat.QOperator}
    with TemporaryDirectory() as folder:
        prepared, out = str(Path(folder) / "prepared.onnx"), str(Path(folder) / "out.onnx")
        quant_pre_process(str(SAMPLE), prepared, skip_symbolic_shape=True)
        for name, form in forms.items():
            tool.quantize_static(
                prepared,
                out,
                _Reader(),
                quant_format=form,
                per_channel=True,
                reduce_range=True,
                activation_type=tool.QuantType.QUInt8,
                weight_type=tool.QuantType.QInt8,
            )
            made[name] = Path(out).read_bytes()
        tool.quantize_dynamic(prepared, out)
        made["dynamic"] = Path(out).read_bytes()
    for device in ("any", "cpu", "vpu", "gpu"):
        made[f"potc {device}"] = compile_model(Job(str(SAMPLE), device)).compiled
    return made


def load(name: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(models()[name])


def test_dynamic_quantization_is_not_understood_and_said_so(tmp_path: Path) -> None:
    assert {v.code for v in violations(load("dynamic"), "cpu", tmp_path)} == {"unknown-form"}


def test_operators_with_integers_are_read_as_pairs(tmp_path: Path) -> None:
    """The same quantization in two forms gives the same findings."""
    told = [
        sorted(v.code for v in violations(load(form), "cpu", tmp_path, vnni="true")) for form in ("qdq", "qoperator")
    ]
    assert set(told[0]) == set(told[1])


def test_full_range_weights_saturate_without_vnni_only(tmp_path: Path) -> None:
    wide = onnx.ModelProto.FromString(compile_model(Job(str(SAMPLE), "cpu", settings={"vnni": "true"})).compiled)
    assert violations(wide, "cpu", tmp_path, vnni="true") == ()
    found = violations(wide, "cpu", tmp_path)
    assert {v.code for v in found} == {"saturating-accumulator"}
    assert all(v.at is not None and v.at.source.line(v.at.line).strip().startswith("accum i16") for v in found)


def test_a_model_for_one_device_is_refused_by_another_with_rule_and_line(tmp_path: Path) -> None:
    found = violations(load("potc cpu"), "gpu", tmp_path)
    first = next(v for v in found if v.node == "/n/n.0/n.0.0/Conv")
    assert first.code == "requirement-violated"
    assert first.at is not None
    assert "x.shape[1] % 4 == 0" in first.at.source.line(first.at.line)
    assert "one dp4a instruction" in first.message


# ---------------------------------------------------------------------------------------------- seeded violations

Mutation = Callable[
    [onnx.ModelProto], set[str]
]  # changes a model; returns names of nodes and tensors that are now wrong


def _nodes(model: onnx.ModelProto, op: str) -> list[NodeProto]:
    return [n for n in model.graph.node if n.op_type == op]


def _initializer(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def _put(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = _initializer(model, name)
    before = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(before.copy())).astype(before.dtype), name))


def _own(model: onnx.ModelProto, node: NodeProto, port: int) -> str:
    """The initializer at a port, as one that only this node reads."""
    name = node.input[port]
    copy = onnx.TensorProto()
    copy.CopyFrom(_initializer(model, name))
    copy.name = f"{node.name}/own/{port}"
    if all(t.name != copy.name for t in model.graph.initializer):
        model.graph.initializer.append(copy)
    node.input[port] = copy.name
    return copy.name


def _weights(model: onnx.ModelProto, index: int) -> tuple[NodeProto, NodeProto]:
    """A DequantizeLinear of 8-bit constants, and the node that reads it."""
    stored = {t.name: t for t in model.graph.initializer}
    found = [
        n
        for n in _nodes(model, "DequantizeLinear")
        if n.input[0] in stored and stored[n.input[0]].data_type == onnx.TensorProto.INT8
    ]
    reader = next(n for n in model.graph.node if found[index].output[0] in n.input)
    return found[index], reader


def weight_zero_point(index: int) -> Mutation:
    def change(model: onnx.ModelProto) -> set[str]:
        node, reader = _weights(model, index)
        _put(model, _own(model, node, 2), lambda z: z + 3)
        return {reader.name}

    return change


def weight_code(index: int) -> Mutation:
    def change(model: onnx.ModelProto) -> set[str]:
        node, reader = _weights(model, index)

        def lowest(codes: np.ndarray) -> np.ndarray:
            codes.ravel()[5] = -128
            return codes

        _put(model, _own(model, node, 0), lowest)
        return {reader.name}

    return change


def _pair(model: onnx.ModelProto, index: int) -> tuple[NodeProto, NodeProto]:
    quantize = _nodes(model, "QuantizeLinear")[index]
    return quantize, next(n for n in _nodes(model, "DequantizeLinear") if n.input[0] == quantize.output[0])


def _around(model: onnx.ModelProto, quantize: NodeProto, dequantize: NodeProto) -> set[str]:
    """A quantized tensor and everybody who makes or reads it."""
    ends = {quantize.input[0], dequantize.output[0]}
    return ends | {n.name for n in model.graph.node if ends & {*n.input, *n.output}}


def activation_zero_point(index: int, by: int = 7) -> Mutation:
    def change(model: onnx.ModelProto) -> set[str]:
        quantize, dequantize = _pair(model, index)
        name = _own(model, quantize, 2)
        _put(model, name, lambda z: z + by)
        dequantize.input[2] = name
        return _around(model, quantize, dequantize)

    return change


def activation_scale(index: int) -> Mutation:
    """Its readers' derived biases no longer fit."""

    def change(model: onnx.ModelProto) -> set[str]:
        quantize, dequantize = _pair(model, index)
        name = _own(model, quantize, 1)
        _put(model, name, lambda s: s * 2)
        dequantize.input[1] = name
        return _around(model, quantize, dequantize)

    return change


def bias_scale(index: int) -> Mutation:
    def change(model: onnx.ModelProto) -> set[str]:
        stored = {t.name: t for t in model.graph.initializer}
        wide = onnx.TensorProto.INT32
        found = [
            n
            for n in _nodes(model, "DequantizeLinear")
            if n.input[0] in stored and stored[n.input[0]].data_type == wide
        ]
        _put(model, _own(model, found[index], 1), lambda s: s * 1.5)
        return {n.name for n in model.graph.node if found[index].output[0] in n.input}

    return change


def without_pair(index: int) -> Mutation:
    """Its readers get floats."""

    def change(model: onnx.ModelProto) -> set[str]:
        quantize, dequantize = _pair(model, index)
        names = _around(model, quantize, dequantize)
        for node in model.graph.node:
            node.input[:] = [quantize.input[0] if n == dequantize.output[0] else n for n in node.input]
        model.graph.node.remove(quantize)
        model.graph.node.remove(dequantize)
        return names

    return change


def float_weights(index: int) -> Mutation:
    """A kernel whose bias and input are integers, and whose weights are floats."""

    def change(model: onnx.ModelProto) -> set[str]:
        node, reader = _weights(model, index)
        codes, scale = (numpy_helper.to_array(_initializer(model, node.input[k])) for k in (0, 1))
        shaped = scale.reshape([-1] + [1] * (codes.ndim - 1)) if codes.shape[0] == scale.size else scale
        model.graph.initializer.append(numpy_helper.from_array((codes * shaped).astype(np.float32), "floating"))
        reader.input[:] = ["floating" if n == node.output[0] else n for n in reader.input]
        return {reader.name}

    return change


def wide_activation(index: int) -> Mutation:
    """16-bit codes where the kernels read 8."""

    def change(model: onnx.ModelProto) -> set[str]:
        quantize, dequantize = _pair(model, index)
        model.graph.initializer.append(numpy_helper.from_array(np.int16(0), "wide/zero"))
        quantize.input[2] = dequantize.input[2] = "wide/zero"
        quantize.domain = dequantize.domain = "com.microsoft"  # the domain that had 16 bits before opset 21
        if all(o.domain != "com.microsoft" for o in model.opset_import):
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        return _around(model, quantize, dequantize)

    return change


SEEDED: list[tuple[str, str, Mutation]] = [
    *(("qdq", "cpu", weight_zero_point(k)) for k in (0, 1, 2)),
    *(("qdq", "cpu", weight_code(k)) for k in (0, 3)),
    *(("qdq", "cpu", bias_scale(k)) for k in (0, 2)),
    *(("qdq", "cpu", wide_activation(k)) for k in (1, 2)),
    *(("qdq", "cpu", activation_scale(k)) for k in (1, 3)),
    ("qdq", "cpu", without_pair(1)),
    ("qdq", "cpu", float_weights(1)),
    ("qdq", "gpu", activation_zero_point(1)),
    ("qdq", "gpu", activation_zero_point(2)),
    ("qdq", "vpu", weight_zero_point(2)),
    *(("nncf", "cpu", weight_zero_point(k)) for k in (1, 4)),
    *(("nncf", "cpu", weight_code(k)) for k in (2, 5)),
    *(("nncf", "cpu", wide_activation(k)) for k in (0, 2)),
    ("nncf", "gpu", activation_zero_point(2)),
    ("nncf", "vpu", weight_zero_point(3)),
    ("nncf", "cpu", float_weights(5)),
    ("potc any", "gpu", activation_zero_point(1)),
    ("potc any", "vpu", weight_code(1)),
    ("potc any", "cpu", bias_scale(1)),
    ("potc vpu", "vpu", activation_scale(4)),
    ("potc cpu", "cpu", float_weights(2)),
    ("potc cpu", "cpu", without_pair(2)),
    ("potc gpu", "gpu", activation_zero_point(2)),
]


def test_there_are_thirty() -> None:
    assert len(SEEDED) >= 30


@pytest.mark.parametrize(
    ("name", "device", "mutation"), SEEDED, ids=[f"{n} on {d} {i}" for i, (n, d, _) in enumerate(SEEDED)]
)
def test_a_seeded_violation_is_found_and_placed(name: str, device: str, mutation: Mutation, tmp_path: Path) -> None:
    model = load(name)
    before = {(v.code, v.message) for v in violations(model, device, tmp_path, **VNNI.get(device, {}))}
    guilty = mutation(model)
    after = violations(model, device, tmp_path, **VNNI.get(device, {}))
    new = [v for v in after if (v.code, v.message) not in before]
    assert new
    named = [v for v in new if v.node in guilty or any(f"`{name}`" in v.message for name in guilty)]
    assert named, [(v.node, v.message) for v in new]
    assert all(v.at is not None or v.code == "no-kernel" for v in new)


VNNI: dict[str, dict[str, str]] = {"cpu": {"vnni": "true"}}


# ---------------------------------------------------------------------------------------------- generated graphs


@pytest.mark.parametrize("seed", range(40))
def test_what_is_compiled_for_a_meet_is_legal_on_every_part(seed: int, tmp_path: Path) -> None:
    """`benchmarks/meet.py --graphs 1000` tries more of them."""
    path = tmp_path / "float.onnx"
    onnx.save(model_from_text(network(Random(seed))), path)
    for device in ("any", *PARTS):
        compiled = onnx.ModelProto.FromString(compile_model(Job(str(path), device)).compiled)
        for part in PARTS if device == "any" else (device,):
            assert violations(compiled, part, tmp_path) == ()
