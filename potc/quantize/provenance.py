"""What a compiled model says about itself: which rule, at which line, is behind each node and tensor that was added or
covered, and by which rules, device and potc the model was made.

Everything stands in ``metadata_props``. Those of nodes and tensors came with IR version 10; older readers skip fields
that they don't know, so the IR version stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx
from onnx import NodeProto

from potc import __version__
from potc.graph.names import all_graphs
from potc.language.program import Program
from potc.match.rewrite import Change
from potc.quantize.plan import Insertion, Origin, Plan

VERSION, DEVICE, DIGEST = "potc.version", "potc.device", "potc.rules.sha256"
RULE, PLACE = "potc.rule", "potc.place"  # of nodes and tensors; several are separated by "; ", in the same order
KERNEL = "potc.kernel"  # of covered nodes: the first node of their kernel
TENSOR = "potc.tensor"  # of inserted nodes: the tensor that they quantize
REWRITE = "potc.rewrite"  # of nodes that a rewrite made

_PLACE = re.compile(r"[^/\\]+:\d+(?=, |$)")


def record_provenance(
    model: onnx.ModelProto, program: Program, plan: Plan, changes: Sequence[Change] = ()
) -> onnx.ModelProto:
    """The same model, changed in place. ``model`` is what lowering made of the plan, ``changes`` what came before."""
    _set(model, {VERSION: __version__, DEVICE: program.device, DIGEST: program.digest})
    graph = _Graph(model)
    for kernel in plan.kernels:
        for name in kernel.nodes:
            _set(graph.nodes[name], {RULE: kernel.rule, PLACE: _shown(kernel.place), KERNEL: kernel.nodes[0]})
    found: dict[str, tuple[str, list[Origin]]] = {}  # name of an inserted node -> its tensor, who asked for it
    for constant in plan.constants:
        for node in graph.dequantizing(graph.nodes[constant.node].input[constant.port]):
            found.setdefault(node.name, (constant.tensor, []))[1].extend(constant.origins)
    for insertion in sorted(plan.insertions, key=lambda i: i.consumers is None):
        origins = plan.quantizers[insertion.quantizer].origins
        for node in graph.inserted(insertion, found):
            found.setdefault(node.name, (insertion.tensor, []))[1].extend(origins)
    for name, (tensor, origins) in found.items():
        props = _props(origins)
        _set(graph.nodes[name], {TENSOR: tensor, **props})
        graph.mark_tensors(graph.nodes[name], props)
    for change in changes:
        node = graph.computing(change.tensor)
        if node is not None:
            _set(node, {REWRITE: f"{change.rewrite} ({_shown(change.place)})"})
    return model


def _props(origins: Iterable[Origin]) -> dict[str, str]:
    pairs = dict.fromkeys((o.rule, _shown(o.place)) for o in origins)
    return {RULE: "; ".join(rule for rule, _ in pairs), PLACE: "; ".join(place for _, place in pairs)}


def _shown(place: str) -> str:
    """A place, or several, without folders: where rule files were when the model was made is no part of the result."""
    return ", ".join(_PLACE.findall(place))


def _set(holder: Any, values: dict[str, str]) -> None:
    """Sets entries of a ``metadata_props``; other entries stay, and stay in front."""
    kept = [(p.key, p.value) for p in holder.metadata_props if p.key not in values]
    del holder.metadata_props[:]
    for key, value in (*kept, *values.items()):
        holder.metadata_props.add(key=key, value=value)


def _is_cast(node: NodeProto | None, tensor: str) -> bool:
    """Did lowering write the node, to see a tensor of another float type as float32?"""
    return node is not None and node.op_type == "Cast" and node.name.startswith(f"{tensor}/cast")


class _Graph:
    """The compiled graph and what is nested in it, by names."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graphs = list(all_graphs(model.graph))  # names are unique in all of them together
        nodes = [node for graph in graphs for node in graph.node]
        self.nodes = {node.name: node for node in nodes}
        self.maker = {name: node for node in nodes for name in node.output if name}
        self._quantize: dict[str, list[NodeProto]] = {}
        self._dequantize: dict[str, list[NodeProto]] = {}
        for node in nodes:
            if node.op_type == "QuantizeLinear":
                self._quantize.setdefault(self._uncast(node.input[0]), []).append(node)
            elif node.op_type == "DequantizeLinear":
                self._dequantize.setdefault(node.input[0], []).append(node)
        self._values = {v.name: v for graph in graphs for v in (*graph.value_info, *graph.output)}
        self._stored = {t.name: t for graph in graphs for t in graph.initializer}

    def inserted(self, insertion: Insertion, known: Iterable[str]) -> Iterator[NodeProto]:
        """The nodes of a pair. ``known``: inserted nodes that belong to other pairs."""
        if insertion.consumers is not None:
            ends = dict.fromkeys(self.nodes[name].input[port] for name, port in insertion.consumers)
        elif insertion.tensor in self.maker:
            ends = {insertion.tensor: None}
        else:  # an input of the model, which keeps its name
            taken = set(known)
            own = f"{insertion.tensor}/quantize"
            ours = (
                q for q in self._quantize.get(insertion.tensor, ()) if q.name.startswith(own) and q.name not in taken
            )
            ends = {d.output[0]: None for q in ours for d in self._dequantize.get(q.output[0], ())}
        pairs = {node.name: node for end in ends for node in self.dequantizing(end)}
        for node in tuple(pairs.values()):
            if node.op_type == "DequantizeLinear":
                quantize = self.maker[node.input[0]]
                before = self.maker.get(quantize.input[0])
                pairs |= {
                    n.name: n for n in (quantize, *((before,) if _is_cast(before, insertion.tensor) else ())) if n
                }
        yield from pairs.values()

    def dequantizing(self, tensor: str) -> Iterator[NodeProto]:
        """The DequantizeLinear behind which a tensor stands, and the cast between them if there is one."""
        node = self.maker[tensor]
        if node.op_type == "Cast":
            yield node
            node = self.maker[node.input[0]]
        yield node

    def _uncast(self, tensor: str) -> str:
        """What a tensor was before lowering cast it."""
        node = self.maker.get(tensor)
        return node.input[0] if node is not None and _is_cast(node, node.input[0]) else tensor

    def mark_tensors(self, node: NodeProto, props: dict[str, str]) -> None:
        """What a DequantizeLinear makes, and the stored codes that it reads."""
        if node.op_type == "DequantizeLinear" and node.output[0] in self._values:
            _set(self._values[node.output[0]], props)
        if node.input[0] in self._stored:
            _set(self._stored[node.input[0]], props)

    def computing(self, tensor: str) -> NodeProto | None:
        """The node of the prepared model that makes a tensor, in front of any pair that was inserted behind it."""
        node = self.maker.get(tensor)
        while node is not None and any(p.key == TENSOR for p in node.metadata_props):
            node = self.maker.get(node.input[0])
        return node
