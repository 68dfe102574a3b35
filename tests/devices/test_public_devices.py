"""Every shipped device compiles the committed sample, and the numbers in the result are those that its rules promise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeGuard

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from potc.compiler import Compilation, Job, compile_model
from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session
from potc.language import syntax
from potc.language.files import read_library
from potc.language.resolve import load_rules

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "digits"
SAMPLES = 32

# Decibels below which a change has lost something. Behind each: what was measured, simulated on the first 32 digits.
FLOORS = {
    "cpu": 35.5,  # 38.1
    "tensorrt": 26.0,  # 28.4
    "htp": 34.5,  # 37.0
    "htp_a16": 44.0,  # 46.6
    "ethos_u": 34.5,  # 37.2
    "ethos_u_int16": 44.0,  # 46.7
    "xint8": 14.5,  # 16.8
    "xint8_bias32": 26.5,  # 28.9
    "tflite_int8": 34.5,  # 37.2
}
ANY_FLOOR = 12.0  # of a device that nobody has measured yet

# Files that follow no document of a vendor: read from the graphs that the runtime writes, and computed from others.
OWN = {"cpu", "any"}


def devices() -> list[tuple[str, str]]:
    """(rule file, device) of everything that is shipped."""
    files = [(path.stem, read_library(str(path)).main) for path in sorted((ROOT / "rules").glob("*.rules"))]
    return [(stem, item.name) for stem, file in files for item in file.items if _is_device(item)]


def _is_device(item: syntax.Item) -> TypeGuard[syntax.Device | syntax.DeviceAlgebra]:
    return isinstance(item, syntax.DeviceAlgebra) or (isinstance(item, syntax.Device) and not item.abstract)


DEVICES = devices()
FILES = sorted({file for file, _ in DEVICES})


@cache
def compiled(file: str, device: str) -> Compilation:
    model, data = str(SAMPLE / "model.onnx"), str(SAMPLE / "calib.npz")
    return compile_model(Job(model, str(ROOT / "rules" / f"{file}.rules"), data, device=device, samples=SAMPLES))


def simulated_db(compilation: Compilation) -> float:
    """How far the model as it is written is from the float one: kernels of this machine have no part in it."""
    runs = [
        open_session(model, optimize=False, threads=1)
        for model in (compilation.model.proto.SerializeToString(), compilation.compiled)
    ]
    ratio = Sqnr()
    for feed in compilation.samples.feeds():
        reference, other = (np.asarray(run.run(None, dict(feed))[0]) for run in runs)
        ratio.add(reference, other)
    return ratio.db


class Read:
    """A compiled model read back: scales and zero points by what they belong to."""

    def __init__(self, model: bytes) -> None:
        self.proto = onnx.ModelProto.FromString(model)
        self.values = {t.name: numpy_helper.to_array(t) for t in self.proto.graph.initializer}
        self.makers = {o: n for n in self.proto.graph.node for o in n.output}

    def numbers(self, kind: str) -> list[tuple[onnx.NodeProto, np.ndarray, np.ndarray]]:
        """(node, scale, zero point) of every QuantizeLinear or DequantizeLinear."""
        nodes = (n for n in self.proto.graph.node if n.op_type == kind)
        return [(n, self.values[n.input[1]], self.values[n.input[2]]) for n in nodes]

    def stored(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(codes, scale, zero point) of every constant that is stored as integers."""
        found = self.numbers("DequantizeLinear")
        return [(self.values[n.input[0]], scale, zero) for n, scale, zero in found if n.input[0] in self.values]

    def output(self, name: str) -> tuple[np.dtype, float, int]:
        """Storage, scale and zero point of a model output."""
        node = self.makers[name]
        assert node.op_type == "DequantizeLinear"
        zero = self.values[node.input[2]]
        return zero.dtype, float(self.values[node.input[1]]), int(zero)


def from_text(graph: str, folder: Path, opset: int = 18) -> str:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{graph}'), path)
    return str(path)


def is_power_of_two(scale: np.ndarray) -> bool:
    return bool(np.all(np.frexp(scale.astype(np.float64))[0] == 0.5))


@pytest.mark.parametrize(("file", "device"), DEVICES)
def test_the_sample_compiles_and_stays_close(file: str, device: str) -> None:
    found = compiled(file, device)
    assert found.verification.ok, found.verification.failed
    assert simulated_db(found) >= FLOORS.get(device, ANY_FLOOR)


@pytest.mark.parametrize(("file", "device"), DEVICES)
def test_stored_numbers_are_what_kernels_expect(file: str, device: str) -> None:
    """Signed weights and biases have zero point 0, whatever the device; a 32-bit bias has the product of two scales."""
    read = Read(compiled(file, device).compiled)
    for codes, scale, zero in read.stored():
        assert np.isfinite(scale).all() and (scale > 0).all()
        if codes.dtype != np.uint8:
            assert not zero.any()
    for node in read.proto.graph.node:
        made = [read.makers.get(i) for i in node.input]
        if len(made) == 3 and all(m is not None and m.op_type == "DequantizeLinear" for m in made):
            x, w, b = (read.values[m.input[1]].astype(np.float64) for m in made if m is not None)
            if made[2] is not None and read.values[made[2].input[0]].dtype == np.int32:
                np.testing.assert_allclose(b, x * w, rtol=1e-6)


@pytest.mark.parametrize("file", FILES)
def test_a_file_says_what_it_follows(file: str) -> None:
    """The title of a public document stands on top."""
    head = (ROOT / "rules" / f"{file}.rules").read_text().split("device ")[0]
    if file in OWN:
        return
    comment = " ".join(line.removeprefix("#").strip() for line in head.splitlines() if re.match(r"#(?!#)", line))
    assert re.search(r'Follows: .*"[^"]{10,}"', comment), comment


# ---------------------------------------------------------------------------------------------- powers of two


@pytest.mark.parametrize("device", [d for f, d in DEVICES if f == "xint8"])
def test_xint8_has_powers_of_two_only(device: str) -> None:
    """Activations, weights and biases: every scale is a shift, every zero point 0."""
    read = Read(compiled("xint8", device).compiled)
    numbers = [*read.numbers("QuantizeLinear"), *read.numbers("DequantizeLinear")]
    assert len(numbers) > 20
    for node, scale, zero in numbers:
        assert is_power_of_two(scale), (node.name, scale)
        assert not zero.any()
    wanted = np.int8 if device == "xint8" else np.int32
    assert {codes.dtype for codes, _, _ in read.stored() if codes.ndim == 1} == {np.dtype(wanted)}


@settings(max_examples=25)
@given(st.floats(2.0**-20, 2.0**20), st.floats(2.0**-30, 2.0**20), st.floats(0, 2.0**30), st.sampled_from([-1.0, 1.0]))
def test_powers_of_two_survive_any_range_and_any_bias(top: float, weight: float, bias: float, sign: float) -> None:
    """Where a bias does not fit, the weight's scale grows: by powers of two as well."""
    graph = f"""g (float[1,1] x) => (float[1,1] y) <float[1,1] w = {{{weight!r}}}, float[1] b = {{{sign * bias!r}}}>
                {{ y = Gemm (x, w, b) }}"""
    with TemporaryDirectory() as folder:
        model, data = from_text(graph, Path(folder)), str(Path(folder) / "x.npz")
        np.savez(data, x=np.asarray([[top], [-top / 3]], np.float32))
        rules = str(ROOT / "rules" / "xint8.rules")
        for device in ("xint8", "xint8_bias32"):
            read = Read(compile_model(Job(model, rules, data, device=device)).compiled)
            assert all(is_power_of_two(scale) for _, scale, _ in read.numbers("DequantizeLinear"))


# ---------------------------------------------------------------------------------------------- fixed parameters

FUNCTIONS = """g (float[1,8] x) => (float[1,8] a, float[1,8] b, float[1,8] c, float[1,8] d, float[1,8] e) {
  a = Sigmoid (x)   b = Softmax (x)   c = Tanh (x)   d = LogSoftmax (x)   e = LpNormalization (x)
}"""
FIXED: Mapping[str, Mapping[str, tuple[type, float, int]]] = {
    "tflite_int8": {
        "a": (np.int8, 1 / 256, -128),
        "b": (np.int8, 1 / 256, -128),
        "c": (np.int8, 1 / 128, 0),
        "d": (np.int8, 16 / 256, 127),
        "e": (np.int8, 1 / 128, 0),
    },
    "ethos_u": {"a": (np.int8, 1 / 256, -128), "b": (np.int8, 1 / 256, -128), "c": (np.int8, 1 / 128, 0)},
    "ethos_u_int16": {"a": (np.int16, 1 / 32768, 0), "b": (np.int16, 1 / 32768, 0), "c": (np.int16, 1 / 32768, 0)},
    "htp_a16": {"a": (np.uint16, 1 / 65536, 0), "c": (np.uint16, 1 / 32768, 32768)},
}


@pytest.mark.parametrize("device", FIXED)
def test_fixed_parameters_do_not_depend_on_the_samples(device: str, tmp_path: Path) -> None:
    file = next(f for f, d in DEVICES if d == device)
    model = from_text(FUNCTIONS, tmp_path)
    for spread in (0.01, 30.0):
        data = str(tmp_path / f"{spread}.npz")
        np.savez(data, x=np.random.default_rng(0).normal(0, spread, (4, 8)).astype(np.float32))
        job = Job(model, str(ROOT / "rules" / f"{file}.rules"), data, device=device)
        read = Read(compile_model(job).compiled)
        for name, (storage, scale, zero) in FIXED[device].items():
            assert read.output(name) == (np.dtype(storage), scale, zero), name


def test_tensors_that_must_share_a_scale_do(tmp_path: Path) -> None:
    """Concatenation, pooling and reshaping of the TFLite specification: one pair of numbers from end to end."""
    graph = """g (float[1,2,4,4] x, float[1,2,4,4] z) => (float[1,4,2,2] p, float[1,16] y) {
      a = Sigmoid (x)   b = Sub (z, x)   c = Concat <axis = 1> (b, z)
      p = AveragePool <kernel_shape = [2,2], strides = [2,2]> (c)
      f = Flatten (p)   y = Softmax (f)
    }"""
    data = str(tmp_path / "data.npz")
    generator = np.random.default_rng(0)
    x, z = (generator.normal(0, spread, (4, 2, 4, 4)).astype(np.float32) for spread in (1, 9))
    np.savez(data, x=x, z=z)
    found = compile_model(Job(from_text(graph, tmp_path), str(ROOT / "rules" / "tflite_int8.rules"), data))
    numbers = {n.name: (float(s), int(z)) for n, s, z in Read(found.compiled).numbers("QuantizeLinear")}
    shared = {numbers[f"{name}/quantize"] for name in ("b", "z", "c", "p", "f")}
    assert len(shared) == 1
    assert numbers["x/quantize"] not in shared


# ---------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(("batch", "is_taken"), [("1", True), ("N", True), ("2", False)])
def test_an_open_batch_is_not_a_batch_of_two(batch: str, is_taken: bool, tmp_path: Path) -> None:
    """`known(x, 0)`: Ethos-U takes one picture at a time; a batch that the model leaves open is fixed later."""
    graph = f"""g (float[{batch},3,4,4] x) => (float[{batch},2,4,4] y) <float[2,3,1,1] w = {{1,2,3,4,5,6}}>
                {{ t = Conv (x, w)   y = Relu (t) }}"""
    found = compile_model(Job(from_text(graph, tmp_path), str(ROOT / "rules" / "ethos_u.rules")))
    assert bool(found.plan.kernels) is is_taken
    if not is_taken:
        reasons = next(node.reasons for node in found.plan.left if node.operator == "Conv")
        assert any("one picture at a time" in r.reason for r in reasons), reasons


def test_known_asks_about_one_axis_of_a_tensor(tmp_path: Path) -> None:
    rules = tmp_path / "device.rules"
    rules.write_text(
        "potc 1\nuse std\ndevice d {\n  opset ai.onnx 13 .. 25\n  rule relu {\n    match Relu(x) as y\n"
        '    require known(x, 0) and known(x, -1) and not known(x, 1) and not known(x, 7)   else "no"\n'
        "    quant x, y: i8 sym\n  }\n}\n"
    )
    load_rules(str(rules))
    model = from_text("g (float[1,N,4] x) => (float[1,N,4] y) { y = Relu (x) }", tmp_path)
    data = str(tmp_path / "x.npz")
    np.savez(data, x=np.ones((2, 3, 4), np.float32))
    assert [k.rule for k in compile_model(Job(model, str(rules), data)).plan.kernels] == ["d.relu"]
