"""Nested graphs: names, bodies as models, how often they run, and branches that no sample takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from potc.compiler import Compilation, Job, compile_model
from potc.graph.bodies import Body, Closed, bodies_of, with_bodies
from potc.graph.control import needed_inputs, run_bodies
from potc.graph.model import Model
from potc.graph.names import all_nodes, names_in, settle_names
from potc.quantize.observe import instrument
from potc.quantize.parts import NEVER_RUN
from potc.quantize.ranges import Ranges
from potc.quantize.tuning import RangeSettings, Tuning

IF = """
g (float[2,16] x, bool c) => (float[2,16] y) {
  r = Relu (x)
  y = If (c) <
    then_branch = t () => (float[2,16] a) { t = Gemm (r, w) a = Gemm (t, w) },
    else_branch = e () => (float[2,16] b) { t = Gemm (r, w) u = Relu (t) b = Gemm (u, w) }>
}"""
LOOP = """
g (float[4] x, int64 n, bool go) => (float[4] y, float[N,4] ys) {
  y, ys = Loop (n, go, x) <body = b (int64 i, bool ci, float[4] h) => (bool co, float[4] h2, float[4] s) {
    one = Constant <value = int64 {3}> ()
    co = Less (i, one)
    f = Cast <to = 1> (i)
    h2 = Add (h, f)
    s = Mul (h2, h2)
  }>
}"""
SCAN = """
g (float[2] h0, float[2,5] xs, float[5,2] zs) => (float[2] h, float[5,2] ys) {
  h, ys = Scan <num_scan_inputs=2, scan_input_axes=[1,0], scan_input_directions=[1,0],
    body = b (float[2] s, float[2] x, float[2] z) => (float[2] s2, float[2] o) {
      p = Mul (x, z)
      s2 = Add (s, p)
      o = Mul (s2, x)
    }> (h0, xs, zs)
}"""


def parsed(text: str, ir: int = 8) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : 17]>\n{text}')


def with_weights(text: str) -> onnx.ModelProto:
    proto = parsed(text)
    weight = np.random.default_rng(3).normal(0, 0.3, (16, 16)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return proto


def compiled(tmp_path: Path, conditions: Sequence[bool], tuning: Tuning | None = None) -> Compilation:
    onnx.save(with_weights(IF), tmp_path / "model.onnx")
    x = np.random.default_rng(4).normal(size=(len(conditions), 2, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, c=np.array(conditions))
    job = Job(str(tmp_path / "model.onnx"), "cpu", str(tmp_path / "data.npz"), tuning=tuning or Tuning())
    return compile_model(job)


def test_tensors_of_both_branches_get_names_of_their_own_and_results_stay() -> None:
    before = with_weights(IF)
    after = onnx.ModelProto()
    after.CopyFrom(before)
    settle_names(after.graph)
    made = [name for node in all_nodes(after.graph) for name in node.output]
    assert len(set(made)) == len(made)
    assert {node.name for node in all_nodes(after.graph)} == {n.name for n in all_nodes(after.graph) if n.name}
    assert {"x", "r", "t", "t_2"} <= names_in(after)
    x = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    for condition in (True, False):
        feed = {"x": x, "c": np.array(condition)}
        a, b = (ort.InferenceSession(m.SerializeToString()).run(None, feed)[0] for m in (before, after))
        assert np.array_equal(a, b)
    again = onnx.ModelProto()
    again.CopyFrom(after)
    settle_names(again.graph)
    assert again == after


def test_a_body_is_a_model_and_comes_back_as_it_was() -> None:
    model = Model("", onnx.shape_inference.infer_shapes(with_weights(IF)), ())
    bodies = bodies_of(model)
    assert [(b.key, b.captured, b.constants) for b in bodies if isinstance(b, Body)] == [
        ("/else_branch", ("r",), ("w",)),
        ("/then_branch", ("r",), ("w",)),
    ]
    for body in bodies:
        assert isinstance(body, Body)
        onnx.checker.check_model(body.model.proto, full_check=True)
    assert with_bodies(model, [(b, b.model) for b in bodies if isinstance(b, Body)]).proto == model.proto


def test_a_body_that_reads_a_tensor_of_unknown_type_is_told() -> None:
    [body, other] = bodies_of(Model("", with_weights(IF), ()))  # no shapes were inferred
    assert isinstance(body, Closed) and isinstance(other, Closed)
    assert body.reason == "the type of `r`, which it reads, can't be inferred"


@pytest.mark.parametrize(
    ("text", "feed"),
    [
        (LOOP, {"x": np.ones(4, np.float32), "n": np.array(3), "go": np.array(True)}),
        (LOOP, {"x": np.ones(4, np.float32), "n": np.array(9), "go": np.array(True)}),  # its body ends it
        (LOOP, {"x": np.ones(4, np.float32), "n": np.array(9), "go": np.array(False)}),
        (LOOP, {"x": np.ones(4, np.float32), "n": np.array(0), "go": np.array(True)}),
        (
            SCAN,
            {
                "h0": np.ones(2, np.float32),
                "xs": np.arange(10, dtype=np.float32).reshape(2, 5),
                "zs": np.arange(10, dtype=np.float32).reshape(5, 2) - 4,
            },
        ),
    ],
)
def test_bodies_run_as_onnxruntime_runs_them(text: str, feed: Mapping[str, np.ndarray]) -> None:
    model = Model("", onnx.shape_inference.infer_shapes(parsed(text)), ())
    [body] = bodies_of(model)
    assert isinstance(body, Body)
    session = ort.InferenceSession(body.model.proto.SerializeToString())
    returned: list[Sequence[Any]] = []

    def run(attribute: str, given: Mapping[str, Any]) -> Sequence[Any]:
        assert attribute == "body"
        returned.append(session.run(None, dict(given)))
        return returned[-1]

    node = model.proto.graph.node[0]
    assert set(needed_inputs(node)) == set(feed)
    run_bodies(node, feed, run)
    last, stacked = ort.InferenceSession(model.proto.SerializeToString()).run(None, dict(feed))
    assert len(returned) == len(stacked)
    if returned:
        assert np.array_equal(np.stack([r[-1] for r in returned]), stacked)
        assert np.array_equal(returned[-1][-2], last)


def test_both_branches_run_in_integers_if_samples_take_both(tmp_path: Path) -> None:
    found = compiled(tmp_path, [True, False, True])
    assert found.verification.ok
    assert found.ranges.runs == {"If_1/then_branch": 2, "If_1/else_branch": 1}
    assert (found.share.weighted_integer, found.share.weighted) == (4, 4)
    assert found.verification.sqnr["y"] > 30


def test_a_branch_that_no_sample_takes_stays_float_and_says_so(tmp_path: Path) -> None:
    found = compiled(tmp_path, [True, True])
    assert found.verification.ok
    assert (found.share.weighted_integer, found.share.weighted) == (2, 2)
    reasons = {left.node: left.reasons[0].reason for left in found.plan.left}
    assert [node for node, reason in reasons.items() if reason == NEVER_RUN] == ["Gemm_0_2", "Relu_1", "Gemm_2"]
    nested = {a.name: a.g for n in onnx.ModelProto.FromString(found.compiled).graph.node for a in n.attribute}
    operators = {name: {n.op_type for n in graph.node} for name, graph in nested.items()}
    assert operators["else_branch"] == {"Gemm", "Relu"}
    assert "QuantizeLinear" in operators["then_branch"]


def test_what_a_branch_reads_from_outside_is_observed_once_and_outside(tmp_path: Path) -> None:
    found = compiled(tmp_path, [True, False, False])
    assert found.ranges.by_tensor["r"].samples == 3
    assert found.ranges.by_tensor["t"].samples == 1


def test_saved_ranges_remember_which_branches_ran(tmp_path: Path) -> None:
    first = compiled(tmp_path, [True, True])
    (tmp_path / "ranges.json").write_text(first.ranges.to_json())
    assert Ranges.from_json(first.ranges.to_json()) == first.ranges
    job = Job(first.job.model, "cpu", first.job.data, ranges=str(tmp_path / "ranges.json"))
    assert compile_model(job).compiled == first.compiled


def test_other_estimators_see_the_values_inside_bodies(tmp_path: Path) -> None:
    tuning = Tuning(ranges=RangeSettings(estimator="mse"))
    found = compiled(tmp_path, [True, False, True], tuning)
    assert found.verification.ok
    assert found.ranges.by_tensor["t"].histogram is not None


def test_instrument_returns_tensors_as_they_are() -> None:
    proto = parsed("g (float[2] x) => (float[2] y) { c = Shape (x) y = Relu (x) }")
    session = ort.InferenceSession(instrument(proto, ["y"], returned=["c", "y"]))
    [shape, y] = session.run(["c", "y"], {"x": np.array([-1, 2], np.float32)})
    assert shape.tolist() == [2]
    assert y.tolist() == [0, 2]
