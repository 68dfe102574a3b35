"""Equalization changes no result: chains that are drawn, the places where scales must stop, and what it is worth."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from potc.compiler import Compilation, Job, Matched, Trace, compile_model, equalized, planned, prepare
from potc.data.source import open_samples
from potc.execute.session import open_session
from potc.graph.model import Model
from potc.language.resolve import load_rules
from potc.quantize.equalize.layers import ACCUMULATOR, Layer, Network, Sums
from potc.quantize.equalize.noise import weight_noise
from potc.quantize.equalize.run import TOLERANCE
from potc.quantize.equalize.scales import METHODS, WIDEST
from potc.quantize.parts import whole
from potc.quantize.tuning import LIMITS, EqualizeSettings, RangeSettings, Tuning

RULES = "xint8"  # one scale for each tensor: most is to be gained


def uneven(shape: tuple[int, ...], axis: int, seed: int, octaves: float = 4.0) -> np.ndarray:
    """Normal numbers whose size differs from channel to channel."""
    generator = np.random.default_rng(seed)
    sizes = np.exp2(generator.uniform(-octaves, octaves, shape[axis])).reshape(
        [-1 if a == axis else 1 for a in range(len(shape))]
    )
    return (generator.normal(size=shape) * sizes).astype(np.float32)


program_of = cache(load_rules)


def match(proto: onnx.ModelProto, rules: str = RULES) -> Matched:
    """As ``match_model``, without files, the rules read once; six generated samples."""
    job, program = Job("model.onnx", rules), program_of(f"{rules}.rules")
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    loaded = Model("model.onnx", proto, ())
    prepared, changes = prepare(loaded, program)
    parts = planned(job, program, loaded, prepared, changes)
    samples = open_samples(None, loaded, 6, None)
    return Matched(job, program, loaded, samples, prepared, changes, parts, whole(parts))


def run(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [np.asarray(a) for a in open_session(proto.SerializeToString(), optimize=False, threads=1).run(None, feed)]


def equal_results(matched: Matched, after: Matched, seed: int = 7) -> None:
    """On numbers that no calibration saw, and some that are far larger. Chains may multiply rounding errors."""
    generator = np.random.default_rng(seed)
    inputs = matched.model.inputs
    for size in (1.0, 30.0):
        shapes = {i.name: [d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in inputs}
        feed = {n: (size * generator.normal(size=s)).astype(np.float32) for n, s in shapes.items()}
        pairs = zip(run(matched.prepared.proto, feed), run(after.prepared.proto, feed), strict=True)
        for x, y in ((x.astype(np.float64), y.astype(np.float64)) for x, y in pairs):
            assert np.linalg.norm(x - y) <= 10 * TOLERANCE * np.linalg.norm(x)


def with_method(matched: Matched, method: str) -> Matched:
    after = equalized(matched, Tuning(equalize=EqualizeSettings(method)), Trace())
    assert after.equalization is not None
    assert not after.equalization.refused
    return after


class Chain:
    """Draws a small convolutional network, node by node."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.channels, self.last = 3, "x"

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        if not array.ndim:
            self.constants[name] = np.asarray(array, np.float32)
            return name
        kind = self.draw(st.sampled_from(["as it is"] * 6 + ["a channel of zeros", "denormal", "all equal"]))
        if kind == "a channel of zeros":
            array[0] = 0
        elif kind == "denormal":
            array[-1] = 1e-41
        elif kind == "all equal":
            array[:] = array.flat[0]
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        self.last = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [self.last], name=f"n{len(self.nodes)}", **attributes))
        return self.last

    def step(self, kind: str) -> None:
        seed, last = len(self.nodes), self.last
        if kind in ("convolution", "groups"):
            out, group = (6, 1) if kind == "convolution" else (self.channels, self.channels)
            shape = (out, self.channels // group, 3, 3)
            names = [last, self.constant(uneven(shape, 0, seed))]
            if self.draw(st.booleans()):
                names.append(self.constant(uneven((out,), 0, seed + 1)))
            self.node("Conv", names, pads=[1, 1, 1, 1], group=group)
            self.channels = out
        elif kind == "shared":
            weight = self.constant(uneven((self.channels, self.channels, 1, 1), 1, seed))
            self.node("Conv", [self.node("Relu", [self.node("Conv", [last, weight])]), weight])
        elif kind == "normalization":
            rows = [self.constant(np.abs(uneven((self.channels,), 0, seed + k)) + 0.1) for k in range(4)]
            self.node("BatchNormalization", [last, *rows])
        elif kind == "limit":
            self.node("Clip", [last, self.constant(np.array([0.0]).reshape(())), self.constant(np.array(6.0))])
        elif kind == "residual":
            weight = self.constant(uneven((self.channels, self.channels, 1, 1), 0, seed))
            self.node("Add", [last, self.node("Conv", [self.node("Relu", [last]), weight])])
        elif kind == "pool":
            self.node("MaxPool", [last], kernel_shape=[2, 2], pads=[0, 0, 1, 1])
        elif kind == "factor":
            self.node("Mul", [last, self.constant(uneven((1, self.channels, 1, 1), 1, seed))])
        else:
            self.node(kind, [last])

    def model(self) -> onnx.ModelProto:
        ends = [self.last]
        if len(self.nodes) > 2 and self.draw(st.booleans()):
            ends.append(self.nodes[len(self.nodes) // 2].output[0])
        if self.draw(st.booleans()):
            flat = self.node("Flatten", [self.node("GlobalAveragePool", [self.last])])
            ends[0] = self.node("Gemm", [flat, self.constant(uneven((self.channels, 4), 0, 3))])
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in dict.fromkeys(ends)],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


STEPS = [
    *["convolution", "groups", "Relu"] * 3,
    *["shared", "normalization", "limit", "residual", "pool", "factor", "LeakyRelu", "Sigmoid"],
]


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    chain = Chain(draw)
    for kind in ["convolution", *draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=7))]:
        chain.step(kind)
    return chain.model()


@settings(max_examples=12)
@given(networks(), st.sampled_from(sorted(METHODS)), st.sampled_from(LIMITS))
def test_no_result_changes(proto: onnx.ModelProto, method: str, limits: str) -> None:
    matched = match(proto)
    after = equalized(matched, Tuning(equalize=EqualizeSettings(method, limits)), Trace())
    assert after.equalization is not None
    if after.equalization.refused:  # rounding errors of this network grow beyond what is allowed
        assert after.prepared is matched.prepared and after.equalization.difference < 100 * TOLERANCE
        return
    equal_results(matched, after)
    if limits == "spread":
        return
    before = matched.prepared.proto.graph.node
    assert [(n.op_type, n.output) for n in after.prepared.proto.graph.node] == [(n.op_type, n.output) for n in before]
    for group in after.equalization.groups:
        assert 2.0**-WIDEST <= group.smallest <= group.largest <= 2.0**WIDEST


def test_the_same_bytes_every_time() -> None:
    one, two = (with_method(match(chain("u = Relu (t)")), "best").prepared.proto for _ in range(2))
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


def chain(activation: str, inputs: str = "float[1,3,8,8] x", outputs: str = "float[1,4,8,8] y") -> onnx.ModelProto:
    """Two convolutions with ``activation`` between; the first one's channels differ much in size."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
      g ({inputs}) => ({outputs})
      <float[6,3,3,3] w, float[6] b, float[4,6,1,1] v, float zero = {{0}}, float six = {{6}}, float far = {{3.4e38}},
       float two = {{2}}, float three = {{3}}, float[6,1,1] each = {{1, 2, 3, 1, 2, 3}}> {{
        t = Conv <pads = [1,1,1,1]> (x, w, b)
        {activation}
        y = Conv (u, v)
      }}"""
    proto = parser.parse_model(text)
    values = {"w": uneven((6, 3, 3, 3), 0, 1), "b": uneven((6,), 0, 2), "v": uneven((4, 6, 1, 1), 1, 3)}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in values.items())
    return proto


PASSES = {
    "Relu": "u = Relu (t)",
    "no upper limit": "u = Clip (t, zero, far)",
    "a slope": "u = LeakyRelu (t)",
    "a square": "u = Mul (t, t)",
    "a power": "u = Pow (t, three)",
    "the root of squares": "s = Pow (t, two)   r = Mul (t, t)   a = Add (s, r)   u = Sqrt (a)",
    "pooling": "r = Relu (t)   u = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r)",
    "a mean": "r = Relu (t)   u = AveragePool <kernel_shape = [1, 1]> (r)",
}
STOPS = {
    "a limit": "u = Clip (t, zero, six)",
    "a curve": "u = Sigmoid (t)",
    "powers that differ": "s = Mul (t, t)   u = Add (s, t)",
    "an exponent for each channel": "u = Pow (t, each)",
    "normalization over channels": "u = Softmax <axis = 1> (t)",
}


@pytest.mark.parametrize("activation", PASSES.values())
def test_scales_pass(activation: str) -> None:
    matched = match(chain(activation))
    after = with_method(matched, "cross-layer")
    assert after.equalization is not None
    assert [g.channels for g in after.equalization.groups] == [6]
    equal_results(matched, after)
    rows, columns = ranges(after)
    before, behind = ranges(matched)
    assert np.std(np.log2(rows / columns)) < 0.7 * np.std(np.log2(before / behind))


def ranges(matched: Matched) -> tuple[np.ndarray, np.ndarray]:
    """Of the first convolution's rows and the second one's columns."""
    stored = {t.name: numpy_helper.to_array(t) for t in matched.prepared.proto.graph.initializer}
    weights = [stored[n.input[1]] for n in matched.prepared.proto.graph.node if n.op_type == "Conv"]
    return np.abs(weights[0]).max(axis=(1, 2, 3)), np.abs(weights[1]).max(axis=(0, 2, 3))


@pytest.mark.parametrize("activation", STOPS.values())
@pytest.mark.parametrize("method", METHODS)
def test_scales_stop(activation: str, method: str) -> None:
    matched = match(chain(activation))
    assert with_method(matched, method).prepared is matched.prepared


def test_a_result_of_the_model_keeps_its_numbers() -> None:
    proto = chain("u = Relu (t)", outputs="float[1,4,8,8] y, float[1,6,8,8] u")
    assert with_method(match(proto), "best").equalization.groups == ()  # type: ignore[union-attr]


def test_readers_that_know_nothing_of_scales_get_the_old_constant() -> None:
    proto = chain("u = Relu (t)", outputs="float[1,4,8,8] y, float[6,3,3,3] z")
    proto.graph.node.append(helper.make_node("Tanh", ["w"], ["z"]))
    proto.graph.node[-1].input[0] = "w2"
    proto.graph.node.insert(0, helper.make_node("Add", ["w", "x0"], ["w2"]))
    proto.graph.input.append(helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1]))
    matched = match(proto)
    after = with_method(matched, "cross-layer")
    assert after.equalization is not None and len(after.equalization.groups) == 1
    equal_results(matched, after)


def test_attention_takes_scales_from_a_normalization() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
      g (float[1,5,8] x) => (float[1,5,8] y) <float[8] gain, float[8] shift, float[8,16] w, float[16,8] v, float[16] b> {
        n = LayerNormalization (x, gain, shift)
        t = MatMul (n, w)
        s = Add (t, b)
        r = Relu (s)
        y = MatMul (r, v)
      }"""
    proto = parser.parse_model(text)
    values = {
        "gain": uneven((8,), 0, 1),
        "shift": uneven((8,), 0, 2),
        "w": uneven((8, 16), 1, 3),
        "v": uneven((16, 8), 1, 4),
    }
    values |= {"b": uneven((16,), 0, 5)}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in values.items())
    matched = match(proto, "cpu")
    after = with_method(matched, "smooth")
    equal_results(matched, after)
    changed = {
        t.name
        for t, u in zip(matched.prepared.proto.graph.initializer, after.prepared.proto.graph.initializer, strict=True)
        if t != u
    }
    assert {"gain", "shift", "w"} <= changed


@pytest.mark.parametrize("method", ["cross-layer", "best"])
def test_limits_are_spread_over_channels(method: str) -> None:
    matched = match(chain(STOPS["a limit"]))
    after = equalized(matched, Tuning(equalize=EqualizeSettings(method, "spread")), Trace())
    assert after.equalization is not None and len(after.equalization.groups) == 1
    equal_results(matched, after)
    operators = [n.op_type for n in after.prepared.proto.graph.node]
    assert operators == ["Conv", "Clip", "Min", "Conv"]
    covered = {n for k in after.plan.kernels for n in k.nodes}
    assert covered == {n.name for n in after.prepared.proto.graph.node}


def compiled(folder: Path, method: str) -> Compilation:
    onnx.save(chain("u = Relu (t)"), folder / "model.onnx")
    return compile_model(Job(str(folder / "model.onnx"), RULES, tuning=Tuning(equalize=EqualizeSettings(method))))


def test_it_is_worth_something(tmp_path: Path) -> None:
    without, with_ = compiled(tmp_path, "none"), compiled(tmp_path, "cross-layer")
    assert without.equalization is None
    assert with_.verification.sqnr["y"] > without.verification.sqnr["y"] + 3


def test_numbers_that_would_not_be_finite_are_not_made() -> None:
    proto = chain("u = Relu (t)")
    for tensor in proto.graph.initializer:
        if tensor.name == "v":
            tensor.CopyFrom(numpy_helper.from_array(uneven((4, 6, 1, 1), 1, 3) * np.float32(3e36), "v"))
    matched = match(proto)
    after = equalized(matched, Tuning(equalize=EqualizeSettings("cross-layer")), Trace())
    stored = [numpy_helper.to_array(t) for t in after.prepared.proto.graph.initializer]
    assert all(np.isfinite(a).all() for a in stored)


SPECTRUM = """
    c = Conv <strides = [4]> (x, w)
    p = Pow (c, two)
    s = Sqrt (p)
    y = Conv (s, v, b)
"""


def spectrum(folder: Path, rules: str, method: str = "auto", samples: bool = True) -> Compilation:
    """A filter bank whose bands differ much in size, their magnitudes, and a layer that weighs small ones most."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]> g (float[1,1,64] x) => (float[1,4,15] y)
        <float[16,1,8] w, float[4,16,1] v, float[4] b = {{0.1, 0.2, 0.3, 0.4}}, float two = {{2}}> {{ {SPECTRUM} }}"""
    proto = parser.parse_model(text)
    random = np.random.default_rng(7)
    sizes = 2.0 ** -np.linspace(0, 9, 16)
    values = {
        "w": random.standard_normal((16, 1, 8)) * sizes[:, None, None],
        "v": random.standard_normal((4, 16, 1)) / sizes[None, :, None],
    }
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in values.items())
    onnx.save(proto, folder / "m.onnx")
    np.savez(folder / "s.npz", x=random.standard_normal((24, 1, 1, 64)).astype(np.float32))
    data = str(folder / "s.npz") if samples else None
    tuning = Tuning(RangeSettings(preset="accuracy"), EqualizeSettings(method))
    return compile_model(Job(str(folder / "m.onnx"), rules, data, tuning=tuning))


def test_weights_of_16_bits_with_one_scale_are_equalized_unasked(tmp_path: Path) -> None:
    plain, done = spectrum(tmp_path, "gna", "none"), spectrum(tmp_path, "gna")
    assert plain.equalization is None
    assert done.equalization is not None
    assert [(g.sources, g.sinks) for g in done.equalization.groups] == [(("Conv_0",), ("Conv_3",))]
    assert done.equalization.difference == 0  # powers of two round nothing
    scales = [numpy_helper.to_array(t) for t in done.prepared.proto.graph.initializer if t.name in ("w", "v")]
    before = [numpy_helper.to_array(t) for t in plain.prepared.proto.graph.initializer if t.name in ("w", "v")]
    for a, b in zip(scales, before, strict=True):
        factor = np.log2(a / b)
        assert (factor == np.rint(factor)).all()
        assert np.ptp(factor) > 2
    assert done.verification.sqnr["y"] > plain.verification.sqnr["y"] + 12


@pytest.mark.parametrize(("rules", "samples"), [("cpu", True), ("gna", False)])
def test_nothing_else_is_equalized_unasked(rules: str, samples: bool, tmp_path: Path) -> None:
    assert spectrum(tmp_path, rules, samples=samples).equalization is None


def test_a_row_with_large_sums_costs_all_rows_their_codes() -> None:
    out, into = np.array([[0], [1]]), np.array([[2], [2]])
    ones = np.ones((2, 1))
    sums = Sums(np.array([3e4, 1.0]), ACCUMULATOR, -1, 2.0**-15)
    layers = [Layer(0, ones, ones, 1, out, into, ones, (1 << 16) - 2, False, s) for s in (None, sums)]
    network = Network(2, tuple(layers), (), (), (), np.arange(2), np.ones(2))
    even, divided = np.ones(3), np.array([3e4, 1.0, 1.0])
    free, limited = (weight_noise(network, layer, even)[1, 0] for layer in layers)
    assert limited == pytest.approx((3e4 * 2**15 / ACCUMULATOR) ** 2 / 12)
    assert limited > 100 * free
    assert weight_noise(network, layers[1], divided)[1, 0] == pytest.approx(free)
