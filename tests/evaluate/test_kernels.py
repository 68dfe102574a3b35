"""The kernel share, read from what onnxruntime makes of small models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from potc.evaluate.kernels import element_kinds, integer_codes, kernel_share, load
from potc.execute.session import InferenceSession, SessionError, open_session
from potc.graph.names import all_graphs
from potc.language.program import QType
from potc.quantize.plan import ConstantQuantizer, Kernel, Origin, Plan

W8 = QType("i8", -127, 127, True)


def model(nodes: list[tuple[str, str, list[str]]], **more: np.ndarray) -> bytes:
    """``nodes``: (operator, output, inputs), named like their output; ``Q``/``DQ`` are short. x -> y, all [1, 8, 6, 6]
    or [4, 8].
    """
    short = {"Q": "QuantizeLinear", "DQ": "DequantizeLinear"}
    stored = {"s": np.float32(0.02), "z0": np.uint8(0), "z128": np.uint8(128), "wz": np.int8(0), **more}
    made = [helper.make_node(short.get(op, op), inputs, [output], name=output) for op, output, inputs in nodes]
    shape = [1, 8, 6, 6] if "w4" in more else [4, 8]
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    graph = helper.make_graph(made, "g", *ends, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def plan_of(*kernels: tuple[str, ...], weighted: tuple[str, ...]) -> Plan:
    origin = (Origin("r", "p", "test"),)
    constants = tuple(ConstantQuantizer("w", n, 1, (W8,), 0, "weight", (), (), origin) for n in weighted)
    return Plan("cpu", (), (), constants, tuple(Kernel("r", "p", k, ()) for k in kernels), ())


W4 = np.arange(64, dtype=np.int8).reshape(8, 8, 1, 1)
W2 = np.arange(64, dtype=np.int8).reshape(8, 8)
X = [("Q", "xq", ["x", "s", "z0"]), ("DQ", "xd", ["xq", "s", "z0"])]


def convolution(zero: str) -> bytes:
    nodes = [*X, ("DQ", "wd", ["w4", "s", "wz"]), ("Conv", "c", ["xd", "wd"]), ("Relu", "r", ["c"])]
    return model([*nodes, ("Q", "yq", ["r", "s", zero]), ("DQ", "y", ["yq", "s", zero])], w4=W4)


CONV = plan_of(("c", "r"), weighted=("c",))
MATMUL = plan_of(("y",), weighted=("y",))
PRODUCT = [("DQ", "wd", ["w2", "s", "wz"]), ("MatMul", "y", ["xd", "wd"])]
CASES = {
    "an activation that the runtime fuses": (convolution("z0"), CONV, (2, 2, 1, 1)),
    "a zero point that it does not fuse": (convolution("z128"), CONV, (2, 0, 1, 0)),
    "codes in, float out": (model([*X, *PRODUCT], w2=W2), MATMUL, (1, 1, 1, 1)),
    "integer weights alone": (model([PRODUCT[0], ("MatMul", "y", ["x", "wd"])], w2=W2), MATMUL, (1, 0, 1, 0)),
    "an integer product with a float difference": (
        model([*X, PRODUCT[0], ("MatMul", "m", ["xd", "wd"]), ("Sub", "y", ["m", "x"])], w2=W2),
        plan_of(("m", "y"), weighted=("m",)),
        (2, 1, 1, 1),
    ),
    "nothing planned": (convolution("z0"), plan_of(weighted=()), (0, 0, 0, 0)),
}


@pytest.mark.parametrize(("compiled", "plan", "expected"), CASES.values(), ids=CASES)
def test_share(compiled: bytes, plan: Plan, expected: tuple[int, int, int, int]) -> None:
    found = kernel_share(compiled, plan)
    assert (found.covered, found.covered_integer, found.weighted, found.weighted_integer) == expected
    assert len(found.floating) == found.covered - found.covered_integer


def test_what_does_not_load_is_float() -> None:
    """``verify`` says why: here nothing may raise."""
    broken = convolution("nowhere")
    assert load(broken) is None
    found = kernel_share(broken, CONV)
    assert (found.covered, found.covered_integer, found.weighted, found.weighted_integer) == (2, 0, 1, 0)
    assert found.floating == ("c", "r")


def test_codes_of_a_loaded_model() -> None:
    """The graph of one session serves verification and share; its codes are what earlier nodes computed, not weights."""
    model_ = convolution("z0")
    loaded = load(model_)
    assert loaded is not None
    assert kernel_share(model_, CONV, loaded) == kernel_share(model_, CONV)
    codes = integer_codes(loaded.graph)
    assert "xq" in codes
    assert "w4" not in codes


def large(width: int = 64) -> bytes:
    """A product whose weight is larger than what an optimized graph holds, behind another in a branch of an If."""
    rng = np.random.default_rng(0)
    stored = {
        "w": rng.integers(-9, 9, (width, width), np.int8),
        "s": np.float32(0.1),
        "z": np.int8(0),
        "z0": np.uint8(9),
    }
    inner = numpy_helper.from_array(rng.standard_normal((width, width)).astype(np.float32), "inner")
    end = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, width])
    branch = [
        helper.make_graph([helper.make_node(op, ["x", "inner"], ["b"])], op, [], [end], [inner])
        for op in ("MatMul", "Gemm")
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z0"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z0"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["p"]),
        helper.make_node("If", ["c"], ["i"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Add", ["p", "i"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, width]) for n in ("x", "y")]
    chosen = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", [ends[0], chosen], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.mark.parametrize("constants_wanted", [False, True])
def test_types_are_told_without_the_numbers_of_weights(constants_wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(large())
    assert loaded is not None
    apart = [t for t in loaded.graph.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert apart and not any(t.raw_data for t in apart)
    assert all(
        t.data_location != TensorProto.EXTERNAL for g in list(all_graphs(loaded.graph.graph))[1:] for t in g.initializer
    )
    refused: list[int] = []

    def picky(model: bytes, **words: bool) -> InferenceSession:
        """As an operator would refuse weights that are no constants."""
        graph = onnx.ModelProto.FromString(model).graph
        if constants_wanted and len(graph.input) > 2:
            refused.append(len(graph.input))
            raise SessionError("wants a constant")
        return open_session(model, **words)

    monkeypatch.setattr("potc.evaluate.kernels.open_session", picky)
    kinds = element_kinds(loaded.graph)
    assert kinds["y"] == "tensor(float)" and "tensor(uint8)" in kinds.values()
    assert bool(refused) == constants_wanted
