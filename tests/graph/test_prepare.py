"""Preparation is exact; the envelope keeps what graphsurgeon drops; files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import helper, numpy_helper

from potc.data.dataset import input_specs
from potc.data.synthetic import synthetic
from potc.diagnostics.diagnostic import Rejected
from potc.execute.session import open_session
from potc.graph.envelope import through_graphsurgeon
from potc.graph.model import Model
from potc.graph.opset import raise_opset
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes, sort_nodes
from potc.graph.read import read_model
from potc.graph.write import serialize, write_all, write_atomic

ROOT = Path(__file__).parents[2]
MODELS = sorted([ROOT / "samples/digits/model.onnx", *(ROOT.parent / "shared/models").glob("*/model.onnx")])

PADDING = """<ir_version: 9, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,6,6] y) <int64[2] a = {1, 1}, int64[1] n = {2}> {
  s = Shape (x)
  r = Shape <start = 2> (x)
  z = ConstantOfShape <value = int64[1] {0}> (n)
  p = Concat <axis = 0> (z, a, z, a)
  dead = Relu (x)
  q = Identity (p)
  t = Pad (x, q)
  k = Constant <value = float[1] {2.0}> ()
  y = Mul (t, k)
}"""


def run(model: Model) -> list[np.ndarray]:
    feed = next(iter(synthetic(input_specs(model), 1, 0).feeds()))
    return open_session(model.proto.SerializeToString(), optimize=False, threads=1).run(None, dict(feed))


def prepared(model: Model) -> Model:
    return drop_dead(fold_constants(infer_shapes(model)))


def named(text: str) -> Model:
    proto = onnx.parser.parse_model(text)
    for i, node in enumerate(proto.graph.node):
        node.name = node.name or f"n{i}"
    return Model("model.onnx", proto, ())


def test_constant_chains_fold_and_dead_nodes_go() -> None:
    before = named(PADDING)
    after = prepared(before)
    assert [n.op_type for n in after.proto.graph.node] == ["Pad", "Mul"]
    for a, b in zip(run(before), run(after), strict=True):
        np.testing.assert_array_equal(a, b)


def test_random_results_are_not_constants() -> None:
    model = named(
        '<ir_version: 9, opset_import: ["" : 17]>\ng () => (float[4] y) { r = RandomNormal <shape = [4]> () y = Relu (r) }'
    )
    assert [n.op_type for n in prepared(model).proto.graph.node] == ["RandomNormal", "Relu"]


def test_an_overridable_initializer_is_no_constant() -> None:
    model = named(
        '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x, float[4] w) => (float[4] y) <float[4] w = {1, 2, 3, 4}> { d = Neg (w) y = Mul (x, d) }'
    )
    assert len(prepared(model).proto.graph.node) == 2


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_preparation_and_the_way_through_graphsurgeon_are_exact(path: Path) -> None:
    before = read_model(str(path))
    after = prepared(raise_opset(before, 13))
    again = after.with_proto(through_graphsurgeon(after.proto, lambda graph: None))
    for a, b in zip(run(before), run(again), strict=True):
        np.testing.assert_array_equal(a, b)


def envelope_model() -> onnx.ModelProto:
    """Everything that graphsurgeon is known to drop."""
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "custom" : 1], producer_name: "p", domain: "d", model_version: 7, doc_string: "doc">\n'
        "g (float[n,4] x, float[4] w) => (float[n,4] y) <float[4] w = {1, 2, 3, 4}> { t = Mul (x, w) y = Relu (t) }"
    )
    helper.set_model_props(proto, {"key": "value"})
    proto.graph.doc_string = "graph doc"
    for i, node in enumerate(proto.graph.node):
        node.name = f"n{i}"
        node.doc_string = f"doc of {i}"
        entry = node.metadata_props.add()
        entry.key, entry.value = "layer", str(i)
    annotation = proto.graph.quantization_annotation.add()
    annotation.tensor_name = "t"
    return onnx.shape_inference.infer_shapes(proto)


def test_the_envelope_survives_an_edit_that_does_nothing() -> None:
    proto = envelope_model()
    assert through_graphsurgeon(proto, lambda graph: None) == proto


def test_nothing_reaches_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    through_graphsurgeon(envelope_model(), lambda graph: print("stray"))
    assert capsys.readouterr().out == ""


def test_raising_the_opset_keeps_the_envelope() -> None:
    proto = envelope_model()
    proto.opset_import[0].version = 11
    raised = raise_opset(Model("m", proto, ()), 13)
    assert raised.opset == 13
    assert {p.key: p.value for p in raised.proto.metadata_props} == {"key": "value"}
    assert (raised.proto.domain, raised.proto.model_version, raised.proto.doc_string) == ("d", 7, "doc")
    assert [o.domain for o in raised.proto.opset_import] == ["", "custom"]


def test_raising_the_opset_keeps_what_inputs_and_outputs_are_declared_as() -> None:
    """The converter infers shapes, and would write what it finds over names of dimensions."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[n,4] y, float[n,m] z) { y = Relu (x) z = Abs (y) }'
    )
    raised = raise_opset(Model("m", proto, ()), 21)
    assert raised.opset == 21
    assert (raised.proto.graph.input, raised.proto.graph.output) == (proto.graph.input, proto.graph.output)


def test_an_opset_that_is_high_enough_stays() -> None:
    model = Model("m", envelope_model(), ())
    assert raise_opset(model, 13) is model


# ---------------------------------------------------------------------------------------------- writing


def test_equal_bytes_keep_the_time_stamp(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    assert write_atomic(str(target), b"one")
    os.utime(target, (1, 1))
    assert not write_atomic(str(target), b"one")
    assert target.stat().st_mtime == 1
    assert write_atomic(str(target), b"two")
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("place", ["missing/out.onnx", "file/out.onnx", "folder"])
def test_unwritable_places_exit_2(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Rejected) as caught:
        write_atomic(str(tmp_path / place), b"data")
    assert caught.value.exit_code == 2
    assert caught.value.diagnostics[0].code == "unwritable-output"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file(
    tmp_path: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full) if failing == "fsync" else monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Rejected, match="No space left"):
        write_atomic(str(target), b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "report.json", tmp_path / "out.onnx"
    first.write_bytes(b"old")
    sync, calls = os.fsync, iter([True, False])

    def full_at_the_second(descriptor: int) -> None:
        if not next(calls):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_second)
    with pytest.raises(Rejected, match=r"out\.onnx: No space left"):
        write_all({str(first): b"new", str(second): b"new"})
    assert first.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [first]


def test_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(Rejected, match="no ordinary file"):
        write_atomic(str(pipe), b"data")
    assert pipe.is_fifo()


def test_bytes_are_deterministic() -> None:
    proto = envelope_model()
    assert serialize(proto) == serialize(onnx.ModelProto.FromString(proto.SerializeToString()))


def test_scalars_survive_folding() -> None:
    model = named(
        '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[4] y) <float s = {2.0}> { a = Neg (s) y = Mul (x, a) }'
    )
    (stored,) = prepared(model).proto.graph.initializer
    assert numpy_helper.to_array(stored).shape == ()


# ---------------------------------------------------------------------------------------------- what must not fold

LEFT_ALONE = {
    "random, however often it gives the same": ("float[1] p = {0.5}", "c = Bernoulli (p) y = Mul (x, c)"),
    "a result of 120 GB": ("int64[1] n = {30000000000}", "c = ConstantOfShape (n) y = Mul (x, c)"),
    "shapes that do not fit": (
        "int64[2] a = {1, 2}, int64[3] b = {1, 2, 3}",
        "c = Add (a, b) d = Cast <to = 1> (c) y = Mul (x, d)",
    ),
}


@pytest.mark.parametrize(("constants", "body"), LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_left_alone(constants: str, body: str) -> None:
    model = named(
        f'<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[n] y) <{constants}> {{ {body} }}'
    )
    assert fold_constants(model).proto.graph.node == model.proto.graph.node


def test_a_node_that_does_not_run_keeps_no_other_from_folding() -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[4] y) <float[2] a = {1, 2}, int64[1] i = {7}, float[1] b = {3}>'
    model = named(text + " { n = Neg (b) m = Exp (n) g = Gather (a, i) t = Mul (x, m) y = Mul (t, g) }")
    assert [n.op_type for n in fold_constants(model).proto.graph.node] == ["Gather", "Mul", "Mul"]


def test_sizes_that_depend_on_values_fold_in_a_later_round() -> None:
    text = '<ir_version: 9, opset_import: ["" : 17]>\ng (float[6] x) => (float[6] y) <float[2] a = {2, 3}>'
    model = named(
        text + " { p = ReduceProd (a) n = Cast <to = 7> (p) c = ConstantOfShape (n) e = Exp (c) y = Mul (x, e) }"
    )
    after = fold_constants(model)
    assert [n.op_type for n in after.proto.graph.node] == ["Mul"]
    np.testing.assert_array_equal(run(model)[0], run(after)[0])


def test_sorting_moves_only_what_comes_too_late() -> None:
    model = named(
        '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[4] y) { a = Abs (x) b = Neg (x) c = Exp (x) s = Add (b, c) y = Mul (s, a) }'
    )
    nodes = list(model.proto.graph.node)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(model.proto)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend([nodes[4], nodes[0], nodes[3], nodes[1], nodes[2]])
    assert [n.op_type for n in sort_nodes(model.with_proto(shuffled)).proto.graph.node] == [
        "Neg",
        "Exp",
        "Add",
        "Abs",
        "Mul",
    ]
    assert sort_nodes(model) is model


def test_a_cycle_has_no_order() -> None:
    model = named(
        '<ir_version: 9, opset_import: ["" : 17]>\ng (float[4] x) => (float[4] y) { a = Add (x, y) y = Neg (a) }'
    )
    with pytest.raises(ValueError, match="cycle"):
        sort_nodes(model)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_the_envelope_of_real_models_survives_an_edit_that_does_nothing(path: Path) -> None:
    proto = read_model(str(path)).proto
    assert through_graphsurgeon(proto, lambda graph: None) == proto
