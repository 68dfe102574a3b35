"""A quantized graph in stages: between two of them, numbers of some nodes become known that the next stage needs.

A stage ends where such a node (a layer) begins: it also runs the layer, to see what it returns, and the next stage runs it again
with what was found. Between stages a sample is what later stages read of it, as integers wherever it is stored as integers:
a DequantizeLinear runs again in each stage that wants its result.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from potc.execute.session import InferenceSession, open_session
from potc.graph.snapshot import outer_reads

HELD = frozenset({TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16, TensorProto.INT32})


@dataclass(slots=True)
class Stage:
    """``layers``: names of the nodes whose results are to be seen here; ``settled``: of those that were seen in the stage before.
    ``reads`` and ``kept``: tensors that it takes from samples, and that it leaves in them for later ones."""

    layers: tuple[str, ...]
    settled: tuple[str, ...]
    nodes: list[NodeProto]
    reads: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    later: frozenset[str] = field(default_factory=frozenset[str])


@dataclass(frozen=True, slots=True)
class Given:
    """A constant that takes the place of what input ``port`` of a node reads."""

    port: int
    values: np.ndarray


def stages(proto: onnx.ModelProto, layers: Collection[str]) -> list[Stage]:
    """One for each number of layers that can follow each other: a layer is seen once all before it are settled.

    ``layers``: names of nodes of the main graph, whose order is topological.
    """
    nodes, level = list(proto.graph.node), _levels(proto, layers)
    again = _Again(proto)
    found: list[Stage] = []
    for number in range(1 + max((level[name] for name in layers), default=-1)):
        seen = [node for node in nodes if node.name in layers and level[node.name] == number]
        settled = [node for node in nodes if node.name in layers and level[node.name] == number - 1]
        between = [n for n in nodes if n.name not in layers and level[n.name] == number and n.name not in again.names]
        found.append(Stage(_names(seen), _names(settled), again.with_makers([*settled, *between, *seen])))
    stored = {t.name for t in proto.graph.initializer}
    for stage in found:
        made = {name for node in stage.nodes for name in node.output}
        stage.reads = tuple(sorted({name for node in stage.nodes for name in _reads(node)} - made - stored))
    for number, stage in enumerate(found):
        later = {name for other in found[number + 1 :] for name in other.reads}
        mine = (node for node in stage.nodes if node.name not in {*stage.layers, *again.names})
        stage.kept = tuple(name for node in mine for name in node.output if name in later)
        stage.later = frozenset(later)
    return found


def open_stage(
    proto: onnx.ModelProto,
    stage: Stage,
    types: Mapping[str, np.dtype[Any]],
    given: Mapping[str, Given],
    appended: tuple[Sequence[NodeProto], Sequence[onnx.TensorProto]],
    outputs: Sequence[str],
) -> InferenceSession:
    """A session of one thread that runs a stage, in float between the quantizers. ``types``: of what it reads; ``given``: by node;
    ``appended``: nodes and constants that look at results; ``outputs``: beside what is kept."""
    changed: list[NodeProto] = []
    constants = list(appended[1])
    for node in stage.nodes:
        if node.name in given:
            name = f"{node.name}/given"
            constants.append(numpy_helper.from_array(given[node.name].values, name))
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[given[node.name].port] = name
            node = copy
        changed.append(node)
    read = {name for node in (*changed, *appended[0]) for name in _reads(node)}
    own = {t.name for t in constants}
    kinds = {name: helper.np_dtype_to_tensor_dtype(types[name]) for name in stage.reads}
    graph = helper.make_graph(
        [*changed, *appended[0]],
        "stage",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()],
        [helper.make_empty_tensor_value_info(name) for name in (*stage.kept, *outputs)],
        [*(t for t in proto.graph.initializer if t.name in read and t.name not in own), *constants],
    )
    model = helper.make_model(
        graph, opset_imports=list(proto.opset_import), functions=list(proto.functions), ir_version=proto.ir_version
    )
    return open_session(model.SerializeToString(), optimize=True, threads=1, quantizers=False, arena=True)


def _names(nodes: Iterable[NodeProto]) -> tuple[str, ...]:
    return tuple(node.name for node in nodes)


def _levels(proto: onnx.ModelProto, layers: Collection[str]) -> dict[str, int]:
    """Of each node, how many layers in a row come before it."""
    behind: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in proto.graph.node:
        found[node.name] = max((behind.get(name, 0) for name in _reads(node)), default=0)
        behind.update(dict.fromkeys(node.output, found[node.name] + (node.name in layers)))
    return found


class _Again:
    """Nodes that run in each stage that wants their results: what reads constants alone, and what makes numbers of integers that
    a sample can hold. ``names``: of these nodes."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._nodes = list(proto.graph.node)
        self._maker = {name: node for node in self._nodes for name in node.output if name}
        stored = {t.name: t.data_type for t in proto.graph.initializer}
        constants = set(stored)
        self.names: set[str] = set()
        for node in self._nodes:
            if constants.issuperset(_reads(node)):
                constants.update(node.output)
                self.names.add(node.name)
            elif node.op_type == "DequantizeLinear" and len(node.input) > 2 and stored.get(node.input[2]) in HELD:
                self.names.add(node.name)

    def with_makers(self, nodes: Iterable[NodeProto]) -> list[NodeProto]:
        """The nodes and those that run again for them, in the order of the graph."""
        wanted = {node.name for node in nodes}
        pending = [name for node in self._nodes if node.name in wanted for name in _reads(node)]
        while pending:
            maker = self._maker.get(pending.pop())
            if maker is not None and maker.name in self.names and maker.name not in wanted:
                wanted.add(maker.name)
                pending.extend(_reads(maker))
        return [node for node in self._nodes if node.name in wanted]


def _reads(node: NodeProto) -> set[str]:
    return {*node.input, *outer_reads(node)} - {""}
