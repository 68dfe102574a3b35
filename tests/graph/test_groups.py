"""Cutting a graph: groups fit, run in turns they return what the graph returns, and what can't fit is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import Rejected
from potc.execute.float_runs import open_float
from potc.graph.groups import Group, Room, Wishes, cut, group_model, lengths_of
from potc.graph.prepare import infer_shapes
from potc.graph.read import accept_model
from potc.graph.turns import run_in_turns

WIDTH = 32


def chain(layers: int, batch: int | str = 1) -> onnx.ModelProto:
    """Products with a residual around each pair, and an input that the last node reads again."""
    nodes: list[onnx.NodeProto] = []
    stored: list[TensorProto] = []
    x = "x"
    for i in range(layers):
        values = np.random.default_rng(i).standard_normal((WIDTH, WIDTH)).astype(np.float32) / 6
        stored.append(numpy_helper.from_array(values, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"p{i}"], name=f"p{i}"))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"r{i}"], name=f"r{i}"))
        nodes.append(helper.make_node("Add", [x, f"r{i}"], [f"s{i}"], name=f"s{i}"))
        x = f"s{i}"
    nodes.append(helper.make_node("Add", [x, "x"], ["y"], name="end"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [batch, WIDTH]) for n in ("x", "y")]
    ends.append(helper.make_tensor_value_info("s0", TensorProto.FLOAT, [batch, WIDTH]))
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return infer_shapes(accept_model("chain", proto)).proto


def results(proto: onnx.ModelProto, groups: tuple[Group, ...]) -> list[list[np.ndarray]]:
    feeds = [{"x": np.random.default_rng(i).standard_normal((1, WIDTH)).astype(np.float32)} for i in range(3)]
    found = run_in_turns(proto, groups, feeds, lambda part: open_float(part.SerializeToString()))
    return [[values["y"], values["s0"]] for values in found]


@pytest.mark.parametrize("layers", [1, 2, 7])
@pytest.mark.parametrize("room", [2, 3, 100])
def test_groups_fit_and_return_the_same(layers: int, room: int) -> None:
    proto = chain(layers)
    weight = WIDTH * WIDTH * 4
    groups = cut(proto, Room(room * weight, 1, 1))
    assert len(groups) == max(1, -(-layers // (room - 1)))
    nodes = [i for group in groups for i in group.nodes]
    assert nodes == list(range(len(proto.graph.node)))
    for group in groups:
        part = group_model(proto, group)
        onnx.checker.check_model(part, full_check=True)
        assert sum(len(t.raw_data) for t in part.graph.initializer) < room * weight
    whole = results(proto, cut(proto, Room(1 << 30, 1, 1)))
    np.testing.assert_array_equal(np.array(results(proto, groups)), np.array(whole))


def test_borders_are_where_tensors_are_read_twice() -> None:
    """Between a product and its Relu one tensor crosses as well, but onnxruntime may fuse there."""
    groups = cut(chain(4), Room(2 * WIDTH * WIDTH * 4, 1, 1))
    assert [g.outputs for g in groups] == [("s0",), ("s1",), ("s2",), ("y",)]
    assert groups[-1].inputs == ("s2", "x")


def test_watched_tensors_may_cross() -> None:
    proto = chain(1)
    room = Room(WIDTH * WIDTH * 4 + 5 * WIDTH * 4, 1, 1)
    assert len(cut(proto, room)) == 1
    together = cut(proto, room, Wishes(together=(("p0", "r0", "s0", "end"),)))
    assert len(together) == 1


def test_a_node_that_does_not_fit_is_named() -> None:
    with pytest.raises(Rejected) as caught:
        cut(chain(3), Room(1000, 1, 1))
    told = caught.value.diagnostics[0]
    assert (told.code, told.node) == ("memory-too-small", "p0")
    assert "`p0` alone needs about 4,352 bytes; of the memory 1,000 are left" in told.message


def test_nodes_that_belong_together_are_not_parted() -> None:
    proto = chain(3)
    names = tuple(node.name for node in proto.graph.node)
    with pytest.raises(Rejected, match=r"around `p1` can't be parted") as caught:
        cut(proto, Room(2 * WIDTH * WIDTH * 4 - 1, 1, 1), Wishes(together=(names,)))
    assert caught.value.diagnostics[0].code == "memory-too-small"


def test_lengths_of_a_sample_count() -> None:
    proto = chain(2, "batch")
    lengths = lengths_of(proto, {"x": np.zeros((1000, WIDTH), np.float32)})
    assert lengths == {"batch": 1000}
    room = Room(2 * WIDTH * WIDTH * 4 + 2000, 1, 1)
    cut(proto, room)
    with pytest.raises(Rejected, match="alone needs about"):
        cut(proto, room, Wishes(lengths=lengths))


def test_codes_cross_and_are_made_real_where_they_are_read(quantized: onnx.ModelProto) -> None:
    groups = cut(quantized, Room(1300, 1, 1))
    assert len(groups) > 1
    crossing = {name for group in groups[1:] for name in group.inputs}
    assert crossing == {"q"}
    for group in groups[1:]:
        assert "DequantizeLinear" in [quantized.graph.node[i].op_type for i in group.nodes]


@pytest.fixture
def quantized() -> onnx.ModelProto:
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1, 8] x) => (float[1, 8] y)
    <float s = {0.1}, uint8 z = {128}>
    {
      a = Relu(x)
      q = QuantizeLinear(a, s, z)
      d = DequantizeLinear(q, s, z)
      b = MatMul(d, w1)
      c = MatMul(d, w2)
      y = Add(b, c)
    }"""
    proto = onnx.parser.parse_model(text)
    for name in ("w1", "w2"):
        proto.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float32), name))
    proto = infer_shapes(accept_model("q", proto)).proto
    with_big = numpy_helper.from_array(np.zeros((8, 32), np.float32), "w3")
    proto.graph.initializer.append(with_big)
    proto.graph.node.append(helper.make_node("MatMul", ["d", "w3"], ["z3"], name="big"))
    proto.graph.output.append(helper.make_tensor_value_info("z3", TensorProto.FLOAT, [1, 32]))
    return proto


def test_the_benchmark_runs(tmp_path: Path) -> None:
    """The generator of the large model, with a small one."""
    import importlib.util
    import sys

    place = Path(__file__).parents[2] / "benchmarks" / "large_model.py"
    spec = importlib.util.spec_from_file_location("large_model", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["large_model"] = module
    spec.loader.exec_module(module)
    path = module.build(tmp_path, 1, 64, 32, 4)
    onnx.checker.check_model(str(path), full_check=True)
