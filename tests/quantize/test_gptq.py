"""Rounding by second moments: never worse than nearest, never outside its limits, and for whatever a layer multiplies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from potc.compiler import Job, Trace, compile_model, match_model
from potc.execute.session import open_session
from potc.language.program import Granularity, QType
from potc.quantize import moments as moments_module
from potc.quantize.gptq import Grid, Limited, output_error, rounded
from potc.quantize.moments import Columns, Moments, gram_of, second_moments
from potc.quantize.narrow import narrow, unsafe_groups
from potc.quantize.params import quantize
from potc.quantize.plan import Lanes
from potc.quantize.round import second_order
from potc.quantize.tuning import RoundingSettings, Tuning
from potc.report import SecondOrder, report

GPTQ = Tuning(rounding=RoundingSettings("gptq"))


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Weights [G, O, K] and moments [G, K, K] of correlated inputs, some of them always 0."""
    groups, channels, length = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5, 70]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    columns = random.normal(size=(groups, length, draw(st.integers(1, 40)))) + 0.5
    columns += columns[:, :1] * random.uniform(0, 3)
    columns[:, random.random(length) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0
    return random.normal(size=(groups, channels, length)), gram_of(columns.astype(np.float32))


def grid_of(values: np.ndarray, bits: int, zero: int, limits: tuple[Limited, ...] = ()) -> Grid:
    high = (1 << (bits - 1)) - 1
    scale = np.maximum(np.abs(values).max(-1, keepdims=True), 1e-9) / max(1, high - abs(zero))
    return Grid(scale, np.full_like(scale, zero), -high - 1, high, limits)


def nearest_of(values: np.ndarray, grid: Grid) -> np.ndarray:
    return np.clip(np.rint(values / grid.scale) + grid.zero_point, grid.low, grid.high)


@given(layers(), st.sampled_from([2, 4, 8]), st.sampled_from([0, 1]))
@settings(max_examples=60, deadline=None)
def test_no_output_channel_is_worse_than_rounded_to_nearest(
    layer: tuple[np.ndarray, np.ndarray], bits: int, zero: int
) -> None:
    values, gram = layer
    grid = grid_of(values, bits, zero)
    nearest = nearest_of(values, grid)
    codes = rounded(values, gram, gram, nearest, grid)
    assert (codes == np.rint(codes)).all() and codes.min() >= grid.low and codes.max() <= grid.high
    before, after = (output_error(values, c, gram, grid) for c in (nearest, codes))
    assert (after <= before * (1 + 1e-9)).all()
    dead = np.broadcast_to(np.einsum("gkk->gk", gram)[:, None] == 0, codes.shape)  # nothing is made up for by them
    assert (codes[dead] == nearest[dead]).all()
    assert (rounded(values, gram, gram, nearest, grid) == codes).all()


def test_samples_that_were_held_back_decide() -> None:
    """Two inputs that are equal in the samples that decide codes, and have nothing to do with each other in those that judge."""
    grid = Grid(np.ones((1, 1, 1)), np.zeros((1, 1, 1)), -8, 7)
    values, nearest = np.array([[[0.4, 0.4]]]), np.zeros((1, 1, 2))
    assert (rounded(values, np.ones((1, 2, 2)), np.eye(2)[None], nearest, grid) == nearest).all()


def test_correlated_inputs_gain_what_nearest_loses() -> None:
    """Two inputs that are always equal: only the sum of their weights matters, and 0.4 + 0.4 is nearer to 1 than to 0."""
    values, gram = np.array([[[0.4, 0.4]]]), np.ones((1, 2, 2))
    grid = Grid(np.ones((1, 1, 1)), np.zeros((1, 1, 1)), -8, 7)
    codes = rounded(values, gram, gram, np.zeros((1, 1, 2)), grid)
    assert codes.sum() == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 8]), st.sampled_from([1, 2]))
@settings(max_examples=25, deadline=None)
def test_no_group_of_neighbours_saturates(seed: int, inputs: int, groups: int) -> None:
    random = np.random.default_rng(seed)
    values = (random.normal(size=(2 * groups, inputs, 3, 3)) ** 3).astype(np.float32)
    lanes = (Lanes("i16", 2, (2, 3, 1)),)
    scale = (np.abs(values).max((1, 2, 3)) / 127).astype(np.float32)
    scale = narrow(values, scale, 0, lanes, 255).scale
    columns = (random.normal(size=(groups, 9 * inputs, 50)) + 2).astype(np.float32)
    spread = scale.reshape(-1, 1, 1, 1).astype(np.float64)
    nearest = np.clip(np.rint(values / spread), -127, 127).astype(np.int8)
    w8 = QType("i8", -127, 127, True, Granularity.PER_CHANNEL, 0)
    known = Moments(gram_of(columns), gram_of(columns), 50, 0)
    codes = second_order(values, nearest, spread, np.zeros_like(spread), w8, lanes, 255, known)
    assert codes.shape == values.shape and codes.dtype == np.int8
    assert unsafe_groups(codes, 0, lanes[0], 255) == 0


def test_moments_do_not_depend_on_the_order_of_columns() -> None:
    columns = np.random.default_rng(0).normal(size=(2, 7, 1000)).astype(np.float32)
    gram = gram_of(columns)
    assert (gram == gram_of(columns[:, :, ::-1].copy())).all()
    np.testing.assert_allclose(gram, columns.astype(np.float64) @ columns.transpose(0, 2, 1), rtol=1e-3, atol=1e-1)


RULES = """potc 1
use std
device weights_only {
  opset ai.onnx 13 .. 25
  qtype w4 = i4[-7..7] sym per_channel(out)
  rule convolution { match any(Conv, ConvTranspose)(x: value, w: const) as y  quant w: w4 }
  rule product     { match MatMul(x: value, w: const) as y                    quant w: w4 }
}
"""


def model_of(folder: Path, call: str, x: str, y: str, seed: int = 0, **weights: tuple[int, ...]) -> Job:
    """A model with weights of these shapes, and rules that store them in 4 bits."""
    inputs = ", ".join([f"float{x} x", *(f"float[{','.join(map(str, n))}] {w}" for w, n in weights.items())])
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g ({inputs}) => (float{y} y) {{ {call} }}')
    del proto.graph.input[1:]
    random = np.random.default_rng(seed)
    for name, shape in weights.items():
        values = random.normal(size=shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(proto, folder / "model.onnx")
    (folder / "w.rules").write_text(RULES)
    return Job(str(folder / "model.onnx"), str(folder / "w.rules"))


NODES = {
    "convolution": ("y = Conv <pads=[1,0,2,1], strides=[2,1]> (x, w)", (6, 4, 3, 3)),
    "groups": ("y = Conv <group=2, dilations=[2,1]> (x, w)", (6, 2, 3, 2)),
    "one filter per channel": ("y = Conv <group=4> (x, w)", (8, 1, 3, 3)),
    "transposed convolution": ("y = ConvTranspose <strides=[2,2]> (x, w)", (4, 3, 2, 2)),
    "matrix": ("y = MatMul (x, w)", (8, 5)),
    "stack of matrices": ("y = MatMul (x, w)", (4, 8, 5)),
    "one output": ("y = Conv (x, w)", (1, 4, 1, 1)),
}


@pytest.mark.parametrize("name", NODES)
def test_columns_times_weights_are_what_the_layer_returns(name: str, tmp_path: Path) -> None:
    call, shape = NODES[name]
    matched = match_model(model_of(tmp_path, call, "[2,4,9,8]", "[a,b,c,d]", w=shape), Trace())
    proto = matched.prepared.proto
    known = second_moments(matched.prepared, matched.plan, matched.program.members[0].signatures, matched.samples)
    ((layer,),) = known.layers.values()
    x = np.random.default_rng(1).normal(size=(2, 4, 9, 8)).astype(np.float32)
    columns = Columns(layer, list(proto.opset_import)).of(x)
    assert columns is not None
    w = numpy_helper.to_array(proto.graph.initializer[0])
    rows = np.moveaxis(w, layer.out, 0).reshape(columns.shape[0], -1, columns.shape[1])
    made = open_session(proto.SerializeToString(), optimize=False, threads=1).run(None, {"x": x})[0]
    expected = np.moveaxis(made, layer.result, 0).reshape(columns.shape[0], rows.shape[1], -1)
    expected = expected[:, :, :: max(1, -(-expected.shape[2] // moments_module.COLUMNS))]
    np.testing.assert_allclose(rows @ columns, expected, rtol=1e-4, atol=1e-4)


def test_too_long_layers_are_leveled_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "LONGEST", 7)
    found = compile_model(replace(model_of(tmp_path, "y = MatMul (x, w)", "[3,8]", "[3,5]", w=(8, 5)), tuning=GPTQ))
    why = "8 weights of one output channel are more than 7"
    assert found.params.second_order == {0: why}
    assert report(found).second_order == SecondOrder(1, 0, {"w": why})


def test_what_does_not_tell_its_groups_is_leveled_and_told(tmp_path: Path) -> None:
    call = "y = ConvTranspose <group=2> (x, w)"
    found = compile_model(replace(model_of(tmp_path, call, "[2,4,9,8]", "[a,b,c,d]", w=(4, 3, 2, 2)), tuning=GPTQ))
    assert report(found).second_order == SecondOrder(
        1, 0, {"w": "what it multiplies is not finite, or not one number for each of its weights"}
    )


def test_little_memory_takes_more_passes_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = "t = MatMul (x, v)  r = Relu (t)  y = MatMul (r, w)"
    job = model_of(tmp_path, call, "[3,8]", "[3,4]", v=(8, 8), w=(8, 4))
    second = replace(job, tuning=GPTQ)
    once, leveled = compile_model(second), compile_model(job)
    assert set(once.params.second_order.values()) == {""} and report(leveled).second_order is None
    assert once.compiled != leveled.compiled
    monkeypatch.setattr(moments_module, "MEMORY", 1)
    assert compile_model(second).compiled == once.compiled


def test_a_weight_that_two_nodes_share_is_stored_once(tmp_path: Path) -> None:
    call = "t = MatMul (x, w)  r = Relu (t)  y = MatMul (r, w)"
    found = compile_model(replace(model_of(tmp_path, call, "[3,8]", "[3,8]", w=(8, 8)), tuning=GPTQ))
    assert (found.params.codes[0] == found.params.codes[1]).all()
    assert [t.name for t in onnx.load_from_string(found.compiled).graph.initializer].count("w/codes") == 1


def test_rounding_to_nearest_is_only_that(tmp_path: Path) -> None:
    job = model_of(tmp_path, "y = MatMul (x, w)", "[3,8]", "[3,5]", w=(8, 5))
    found = compile_model(replace(job, tuning=Tuning(rounding=RoundingSettings("nearest"))))
    values = numpy_helper.to_array(found.prepared.proto.graph.initializer[0])
    assert (found.params.codes[0] == quantize(values, found.params.constants[0])).all()
