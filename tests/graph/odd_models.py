"""Odd but valid ONNX models, drawn with a seed: what exporters, converters and people make of a few layers.

Each model is a chain of pieces (layers, control flow, sequences, types, integers that are there already) and then gets the
habits of some writer: names left out or given twice, weights as ``Constant`` nodes or as inputs, nodes in a wrong order.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

K = 8  # channels of pictures, width of rows
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)


@dataclass
class Chain:
    """A graph under construction: ``tensor`` is its end, a picture [1, K, 6, 6] or rows [3, K] of ``kind``."""

    random: random.Random
    opset: int
    kind: int = TensorProto.FLOAT
    picture: bool = True
    tensor: str = "x"
    nodes: list[NodeProto] = field(default_factory=list)
    stored: list[TensorProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    domains: set[str] = field(default_factory=set)
    words: list[str] = field(default_factory=list)  # what the model is made of
    count: int = 0

    def name(self, word: str) -> str:
        self.count += 1
        return f"{word}{self.count}"

    def weight(self, *shape: int, kind: int | None = None, scale: float | None = None) -> str:
        draw = np.random.default_rng(self.random.getrandbits(32))
        values = draw.normal(0, scale or 1 / max(1, np.prod(shape[1:])) ** 0.5, shape)
        return self.constant(values, kind or self.kind)

    def constant(self, values: np.ndarray | list[int] | float, kind: int) -> str:
        name = self.name("c")
        array = np.asarray(values)
        if kind == TensorProto.BFLOAT16:
            tensor = helper.make_tensor(name, kind, array.shape, array.astype(np.float32).reshape(-1).tolist())
        else:
            tensor = numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name)
        self.stored.append(tensor)
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        """A node behind the given tensors; the new end is its first output."""
        names = [self.name("t") for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, self.name(op), domain=domain, **attributes))
        self.tensor = names[0]
        return names[0]

    @property
    def shape(self) -> list[int]:
        return [1, K, 6, 6] if self.picture else [3, K]


Piece = Callable[[Chain], None]


def conv(c: Chain) -> None:
    bias = [c.weight(K)] if c.random.random() < 0.6 else []
    c.add("Conv", c.tensor, c.weight(K, K, 3, 3), *bias, pads=[1, 1, 1, 1])
    if c.random.random() < 0.5:
        c.add("Relu", c.tensor)


def depthwise(c: Chain) -> None:
    c.add("Conv", c.tensor, c.weight(K, 1, 3, 3), pads=[1, 1, 1, 1], group=K)


def batch_norm(c: Chain) -> None:
    c.add("Conv", c.tensor, c.weight(K, K, 1, 1))
    positive = c.constant(np.full(K, 0.5), c.kind)
    c.add("BatchNormalization", c.tensor, positive, c.weight(K), c.weight(K), positive)


def residual(c: Chain) -> None:
    before = c.tensor
    (conv if c.picture else gemm)(c)
    c.add("Add", c.tensor, before)


def gemm(c: Chain) -> None:
    # Before opset 11 the addend was no option.
    options = {"transB": c.random.randrange(2), "alpha": c.random.choice([1.0, 0.5])}
    c.add("Gemm", c.tensor, c.weight(K, K), c.weight(K), **options)


def matmul(c: Chain) -> None:
    c.add("MatMul", c.tensor, c.weight(K, K))
    if c.random.random() < 0.5:
        c.add("Add", c.tensor, c.weight(K))


def attention(c: Chain) -> None:
    scores = c.add("MatMul", c.tensor, c.add("Transpose", c.tensor, perm=[1, 0]))
    del scores
    before = c.tensor
    c.add("Softmax", c.tensor, axis=1)
    c.add("MatMul", before, c.weight(3, K))


def shared(c: Chain) -> None:
    """One weight and one bias for two layers whose inputs have other scales."""
    if c.picture:
        w, b = c.weight(K, K, 1, 1), c.weight(K)
        c.add("Conv", c.tensor, w, b)
        c.add("Mul", c.tensor, c.constant(3.0, c.kind))
        c.add("Conv", c.tensor, w, b)
    else:
        w, b = c.weight(K, K), c.weight(K)
        c.add("Gemm", c.tensor, w, b)
        c.add("Mul", c.tensor, c.constant(3.0, c.kind))
        c.add("Gemm", c.tensor, w, b)


def flatten(c: Chain) -> None:
    if c.picture:
        c.add("GlobalAveragePool", c.tensor)
        c.add("Flatten", c.tensor, axis=1)
        c.add("MatMul", c.weight(3, 1), c.tensor)
        c.picture = False


def unused_outputs(c: Chain) -> None:
    if c.picture and c.opset >= 8:
        end = c.add("MaxPool", c.tensor, outputs=2, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
        c.tensor = end
    else:
        c.add("Add", c.tensor, c.tensor)


def computed_pads(c: Chain) -> None:
    """Amounts of padding from a chain over the shape, as exporters write it."""
    if not c.picture or c.opset < 11:
        return
    shape = c.add_aside("Shape", c.tensor)
    rank = c.add_aside("Size", shape)
    two = c.constant(2, TensorProto.INT64)
    twice = c.add_aside("Mul", rank, two)
    zeros = c.add_aside("ConstantOfShape", c.add_aside("Reshape", twice, c.constant([1], TensorProto.INT64)))
    whole = c.add_aside("Cast", zeros, to=TensorProto.INT64)
    ends = c.constant([0, 0, 1, 1, 0, 0, 1, 1], TensorProto.INT64)
    c.add("Pad", c.tensor, c.add_aside("Add", whole, ends))
    c.add("Conv", c.tensor, c.weight(K, K, 3, 3))


def _aside(c: Chain, op: str, *inputs: str, **attributes: object) -> str:
    before = c.tensor
    made = c.add(op, *inputs, **attributes)
    c.tensor = before
    return made


Chain.add_aside = _aside  # type: ignore[attr-defined]


def scalar(c: Chain) -> None:
    c.add("Mul", c.tensor, c.constant(0.7, c.kind))
    c.add("Clip" if c.opset < 11 else "Relu", c.tensor)


def empty(c: Chain) -> None:
    """A tensor of no elements beside the chain, and joined to it."""
    if c.picture or c.opset < 13:
        return
    nothing = c.constant(np.zeros((0, K)), c.kind)
    c.add("Concat", c.tensor, c.add_aside("MatMul", nothing, c.weight(K, K)), axis=0)


def branch(c: Chain) -> None:
    """A condition from the values; both branches read the chain and a weight outside, and name their tensors alike."""
    layer, weight = ("Conv", c.weight(K, K, 1, 1)) if c.picture else ("MatMul", c.weight(K, K))
    source = c.tensor
    kinds = [helper.make_tensor_value_info("inner2", c.kind, c.shape)]
    then = [helper.make_node(layer, [source, weight], ["inner1"]), helper.make_node("Relu", ["inner1"], ["inner2"])]
    other = [helper.make_node("Tanh", [source], ["inner1"]), helper.make_node(layer, ["inner1", weight], ["inner2"])]
    total = c.add_aside("ReduceMax", source, keepdims=0)
    condition = c.add_aside("Greater", total, c.constant(c.random.choice([0.0, 2.0, 99.0]), c.kind))
    c.add(
        "If",
        condition,
        then_branch=helper.make_graph(then, "then", [], kinds),
        else_branch=helper.make_graph(other, "else", [], kinds),
    )


def loop(c: Chain) -> None:
    layer, weight = ("Conv", c.weight(K, K, 1, 1)) if c.picture else ("MatMul", c.weight(K, K))
    body = helper.make_graph(
        [
            helper.make_node(layer, ["h", weight], ["inner1"]),
            helper.make_node("Tanh", ["inner1"], ["next"]),
            helper.make_node("Identity", ["go"], ["goes"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", c.kind, c.shape),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", c.kind, c.shape),
        ],
    )
    times = c.constant(c.random.choice([0, 1, 3]), TensorProto.INT64)
    c.add("Loop", times, c.constant(True, TensorProto.BOOL), c.tensor, body=body)


def scan(c: Chain) -> None:
    if c.picture or c.opset < 9:
        return
    weight = c.weight(K, K)
    body = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["row"], ["wide"], axes=[0])
            if c.opset < 13
            else helper.make_node("Unsqueeze", ["row", c.constant([0], TensorProto.INT64)], ["wide"]),
            helper.make_node("MatMul", ["wide", weight], ["inner1"]),
            helper.make_node("Add", ["inner1", "state"], ["sum"]),
            helper.make_node("Tanh", ["sum"], ["next"]),
            helper.make_node("Squeeze", ["next"], ["out"], axes=[0])
            if c.opset < 13
            else helper.make_node("Squeeze", ["next", c.constant([0], TensorProto.INT64)], ["out"]),
        ],
        "body",
        [helper.make_tensor_value_info("state", c.kind, [1, K]), helper.make_tensor_value_info("row", c.kind, [K])],
        [helper.make_tensor_value_info("next", c.kind, [1, K]), helper.make_tensor_value_info("out", c.kind, [K])],
    )
    rows = c.tensor
    c.add("Scan", c.constant(np.zeros((1, K)), c.kind), rows, outputs=2, body=body, num_scan_inputs=1)
    c.tensor = c.nodes[-1].output[1]


def unrolled(c: Chain) -> None:
    """A recurrent cell written out: the same weights at every step."""
    if c.picture:
        return
    w, u, b = c.weight(K, K), c.weight(K, K), c.weight(K)
    x = c.tensor
    state = c.add("Tanh", x)
    for _ in range(c.random.choice([3, 12])):
        a = c.add("MatMul", x, w)
        d = c.add("MatMul", state, u)
        c.add("Add", a, d)
        c.add("Add", c.tensor, b)
        state = c.add("Tanh", c.tensor)


def sequence(c: Chain) -> None:
    if c.opset < 11:
        return
    whole = c.add_aside("SequenceConstruct", c.tensor, c.add_aside("Relu", c.tensor))
    c.add("SequenceAt", whole, c.constant(c.random.randrange(2), TensorProto.INT64))


def optional(c: Chain) -> None:
    if c.opset < 15:
        return
    kind = helper.make_tensor_type_proto(c.kind, c.shape)
    wrapped = c.add_aside("Optional", c.tensor)
    del kind
    c.add("OptionalGetElement", wrapped)


def function(c: Chain) -> None:
    """A layer inside a local function."""
    if c.opset < 15:
        return
    layer = "Conv" if c.picture else "MatMul"
    name = c.name("Layer")
    nodes = [helper.make_node(layer, ["a", "w"], ["t"], "one"), helper.make_node("Relu", ["t"], ["y"], "two")]
    imports = [helper.make_opsetid("", c.opset)]
    c.functions.append(helper.make_function("odd", name, ["a", "w"], ["y"], nodes, imports))
    c.domains.add("odd")
    c.add(name, c.tensor, c.weight(*((K, K, 1, 1) if c.picture else (K, K))), domain="odd")


def microsoft(c: Chain) -> None:
    """An operator of onnxruntime's own domain."""
    if c.kind == TensorProto.FLOAT:
        c.domains.add("com.microsoft")
        c.add("Gelu", c.tensor, domain="com.microsoft")


def stranger(c: Chain) -> None:
    """An operator that nobody here can run."""
    c.domains.add("who.knows")
    c.add("Mystery", c.tensor, domain="who.knows")


def pair(c: Chain) -> None:
    """Quantized already: a pair on the chain, and a weight that is stored behind a DequantizeLinear."""
    if c.opset < 13 or c.kind != TensorProto.FLOAT:
        return
    scale, zero = c.constant(0.03, TensorProto.FLOAT), c.constant(128, TensorProto.UINT8)
    codes = c.add("QuantizeLinear", c.tensor, scale, zero)
    c.add("DequantizeLinear", codes, scale, zero)
    shape = (K, K, 1, 1) if c.picture else (K, K)
    draw = np.random.default_rng(c.random.getrandbits(32)).integers(-127, 128, shape)
    ready = c.add_aside(
        "DequantizeLinear",
        c.constant(draw, TensorProto.INT8),
        c.constant(0.004, TensorProto.FLOAT),
        c.constant(0, TensorProto.INT8),
    )
    c.add("Conv" if c.picture else "MatMul", c.tensor, ready)


def integer_layer(c: Chain) -> None:
    """An operator on integers that somebody else put there."""
    if c.picture or c.opset < 11 or c.kind != TensorProto.FLOAT:
        return
    codes = c.add("DynamicQuantizeLinear", c.tensor, outputs=3)
    scale = c.nodes[-1].output[1]
    zero = c.nodes[-1].output[2]
    weight = c.constant(np.arange(K * K).reshape(K, K) % 7 - 3, TensorProto.INT8)
    total = c.add("MatMulInteger", codes, weight, zero)
    c.add("Cast", total, to=TensorProto.FLOAT)
    c.add("Mul", c.tensor, scale)


def half_inside(c: Chain) -> None:
    """A stretch of the chain in another float type."""
    other = c.random.choice([TensorProto.FLOAT16, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
    if other == TensorProto.BFLOAT16 and c.opset < 13:
        other = TensorProto.FLOAT16
    before = c.kind
    c.add("Cast", c.tensor, to=other)
    c.kind = other
    c.add("MatMul", c.tensor, c.weight(6 if c.picture else K, 6 if c.picture else K))
    c.kind = before
    c.add("Cast", c.tensor, to=before)


def embedding(c: Chain) -> None:
    """Rows of a table, chosen by an input of integers, added to the chain."""
    if c.picture:
        return
    c.inputs.append(helper.make_tensor_value_info(c.name("tokens"), TensorProto.INT64, [3]))
    chosen = c.add_aside("Gather", c.weight(5, K), c.inputs[-1].name)
    c.add("Add", c.tensor, chosen)


def more_output(c: Chain) -> None:
    """What is inside is returned as well."""
    if c.tensor != "x":
        c.outputs.append(helper.make_tensor_value_info(c.tensor, c.kind, [None] * len(c.shape)))


def dead(c: Chain) -> None:
    """Nodes and weights that nobody reads."""
    c.add_aside("Relu", c.tensor)
    c.weight(4)


def lstm(c: Chain) -> None:
    if c.picture:
        return
    rows = c.add("Unsqueeze", c.tensor, axes=[1]) if c.opset < 13 else None
    if rows is None:
        c.add("Unsqueeze", c.tensor, c.constant([1], TensorProto.INT64))
    c.add("LSTM", c.tensor, c.weight(1, 4 * K, K), c.weight(1, 4 * K, K), hidden_size=K)
    c.add("Reshape", c.tensor, c.constant([3, K], TensorProto.INT64))


def broadcast_bias(c: Chain) -> None:
    """Constants of odd ranks beside layers."""
    (conv if c.picture else matmul)(c)
    c.add("Add", c.tensor, c.weight(*((K, 1, 1) if c.picture else (1, K))))


PIECES: tuple[tuple[Piece, int], ...] = (
    (conv, 4), (depthwise, 2), (batch_norm, 2), (residual, 2), (gemm, 4), (matmul, 4), (attention, 1), (shared, 2),
    (flatten, 4), (unused_outputs, 2), (computed_pads, 2), (scalar, 2), (empty, 1), (branch, 3), (loop, 3), (scan, 2),
    (unrolled, 1), (sequence, 2), (optional, 2), (function, 3), (microsoft, 1), (pair, 3), (integer_layer, 1),
    (half_inside, 2), (embedding, 1), (more_output, 2), (dead, 2), (lstm, 2), (broadcast_bias, 2),
)  # fmt: skip
PICTURES: tuple[Piece, ...] = (conv, depthwise, batch_norm, computed_pads)
ROWS: tuple[Piece, ...] = (gemm, matmul, attention, empty, scan, unrolled, integer_layer, embedding, lstm)


def odd_model(seed: int) -> tuple[ModelProto, str]:
    """A model that the checker accepts, and what it is made of."""
    draw = random.Random(seed)
    kind = draw.choices([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE], [12, 2, 1])[0]
    # onnxruntime has no convolution of doubles.
    chain = Chain(draw, draw.choice(OPSETS), kind, kind != TensorProto.DOUBLE and draw.random() < 0.6)
    symbolic = draw.random() < 0.3
    if symbolic:
        chain.words.append("symbolic")
    first: list[object] = [("batch" if symbolic and chain.picture else chain.shape[0]), *chain.shape[1:]]
    chain.inputs.append(helper.make_tensor_value_info("x", kind, first))
    pieces, weights = zip(*PIECES, strict=True)
    length = draw.randint(2, 6)
    while len(chain.words) < length:
        piece = draw.choices(pieces, weights)[0] if draw.random() < 0.999 else stranger
        if (chain.picture and piece in ROWS) or (not chain.picture and piece in PICTURES):
            continue
        piece(chain)
        chain.words.append(piece.__name__)
    if chain.tensor == "x":
        chain.add("Relu", "x")
    taken = {o.name for o in chain.outputs}
    if chain.tensor not in taken:
        chain.outputs.append(helper.make_tensor_value_info(chain.tensor, kind, [None] * len(chain.shape)))
    outputs = list({o.name: o for o in chain.outputs}.values())
    graph = helper.make_graph(chain.nodes, "odd", chain.inputs, outputs, chain.stored)
    _habits(graph, chain, draw)
    imports = [helper.make_opsetid("", chain.opset), *(helper.make_opsetid(d, 1) for d in sorted(chain.domains))]
    model = helper.make_model(graph, opset_imports=imports, functions=chain.functions, ir_version=_ir(chain.opset))
    return model, f"opset {chain.opset}, {TensorProto.DataType.Name(kind).lower()}: {', '.join(chain.words)}"


def _ir(opset: int) -> int:
    return 8 if opset < 19 else 10


def _habits(graph: GraphProto, chain: Chain, draw: random.Random) -> None:
    if draw.random() < 0.3:
        chain.words.append("names left out")
        for node in graph.node:
            node.name = ""
    elif draw.random() < 0.2:
        chain.words.append("one name for all")
        for node in graph.node:
            node.name = "node"
    if draw.random() < 0.3 and chain.opset >= 9:  # before, Constant knew floats only
        chain.words.append("weights as nodes")
        made = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
        if chain.kind != TensorProto.BFLOAT16:
            del graph.initializer[:]
            nodes = [*made, *(NodeProto.FromString(n.SerializeToString()) for n in graph.node)]
            del graph.node[:]
            graph.node.extend(nodes)
    elif draw.random() < 0.3:
        chain.words.append("weights as inputs")
        kinds = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in graph.initializer]
        graph.input.extend(kinds)
    if draw.random() < 0.15:
        chain.words.append("wrong order")
        nodes = [NodeProto.FromString(n.SerializeToString()) for n in graph.node]
        draw.shuffle(nodes)
        del graph.node[:]
        graph.node.extend(nodes)
