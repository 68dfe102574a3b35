"""What became of nodes and tensors that preparation removed: rewritten, computed beforehand, or never needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx import NodeProto

from potc.graph.model import Model
from potc.graph.opset import raise_opset
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.match.rewrite import Change
from potc.workbench.explain_model import Examined


@dataclass(frozen=True)
class Before:
    """The model as it was read: nodes by name, the node that makes each tensor, and who reads it."""

    model: Model
    opset: int
    nodes: Mapping[str, NodeProto]
    maker: Mapping[str, NodeProto]
    readers: Mapping[str, tuple[NodeProto, ...]]
    tensors: tuple[str, ...]

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the nodes that a result depends on."""
        return _names(drop_dead(self.model))

    @cached_property
    def raised(self) -> Model:
        return raise_opset(self.model, self.opset)

    @cached_property
    def folded(self) -> Model:
        return fold_constants(infer_shapes(self.raised))


@dataclass(frozen=True, slots=True)
class GoneAnswer:
    """A node or tensor that is no part of what is planned. ``instead``: nodes or tensors that took its place."""

    what: str  # "node", "tensor"
    name: str
    words: str
    rewrite: str
    place: str
    instead: tuple[str, ...]


def before_preparation(examined: Examined) -> Before:
    graph = examined.model.proto.graph
    nodes = {node.name: node for node in graph.node}
    maker = {name: node for node in graph.node for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in dict.fromkeys(filter(None, node.input)):
            readers.setdefault(name, []).append(node)
    names = dict.fromkeys((*(v.name for v in graph.input), *(t.name for t in graph.initializer), *maker))
    frozen = {t: tuple(r) for t, r in readers.items()}
    return Before(examined.model, examined.program.opset[0], nodes, maker, frozen, tuple(names))


def change_of(examined: Examined, node: str) -> Change | None:
    """The last rewrite that a node was part of."""
    return next((c for c in reversed(examined.changes) if node in c.nodes), None)


def rewritten_from(examined: Examined, node: str) -> str:
    """How a rewrite made a node of the prepared model, in words; empty if none did."""
    change = change_of(examined, node)
    if change is None:
        return ""
    return f"{change.rewrite} ({change.place}) made it from {', '.join(change.nodes)}"


def what_became_of_node(examined: Examined, before: Before, node: str) -> GoneAnswer:
    change = change_of(examined, node)
    if change is not None:
        instead = _successors(examined, before, change)
        words = f"was rewritten by {change.rewrite} together with {_others(change, node)}"
        if len(change.nodes) == 1:
            words = f"was rewritten by {change.rewrite}"
        return GoneAnswer("node", node, words, change.rewrite, change.place, instead)
    words, instead = _without_rewrite(examined, before, before.nodes[node])
    return GoneAnswer("node", node, words, "", "", instead)


def what_became_of_tensor(examined: Examined, before: Before, tensor: str) -> GoneAnswer:
    maker = before.maker.get(tensor)
    touching = (maker,) if maker is not None else before.readers.get(tensor, ())
    for node in touching:
        change = change_of(examined, node.name)
        if change is not None:
            instead = _successors(examined, before, change)
            if maker is None:  # a constant: those that the rewrite computed from it
                own = f"{change.tensor}/"
                instead = tuple(t for t in examined.snapshot.tensors if t.startswith(own)) or instead
                words = f"went into what {change.rewrite} made of {', '.join(change.nodes)}"
            elif tensor == change.tensor:
                words = f"has another name since {change.rewrite} removed {', '.join(change.nodes)}"
            else:
                words = f"was inside of what {change.rewrite} rewrote: {', '.join(change.nodes)}"
            return GoneAnswer("tensor", tensor, words, change.rewrite, change.place, instead)
    if maker is None:
        return GoneAnswer("tensor", tensor, "is read by nothing that is left after preparation", "", "", ())
    words, instead = _without_rewrite(examined, before, maker)
    return GoneAnswer("tensor", tensor, words, "", "", instead)


def _others(change: Change, node: str) -> str:
    return ", ".join(n for n in change.nodes if n != node)


def _successors(examined: Examined, before: Before, change: Change) -> tuple[str, ...]:
    """The node that took over: it makes the tensor that kept its name, or has the name of the last node. Where a rewrite
    put another tensor in place of the result, what makes that tensor."""
    snapshot = examined.snapshot
    position = examined.changes.index(change)
    current = change
    while True:
        tensor = snapshot.tensor_ids.get(current.tensor)
        if tensor is not None and snapshot.producer[tensor] >= 0:
            return (snapshot.names[snapshot.producer[tensor]],)
        if current.nodes[-1] in examined.node_ids:
            return (current.nodes[-1],)
        later = [(i, c) for i, c in enumerate(examined.changes) if i > position and current.nodes[-1] in c.nodes]
        if not later:
            break
        position, current = later[-1]
    sources = [name for node in current.nodes if node in before.nodes for name in before.nodes[node].input]
    kept = [snapshot.tensor_ids[name] for name in sources if name in snapshot.tensor_ids]
    makers = tuple(snapshot.names[snapshot.producer[t]] for t in kept if snapshot.producer[t] >= 0)
    return (makers or tuple(snapshot.tensors[t] for t in kept))[:1]


def _without_rewrite(examined: Examined, before: Before, node: NodeProto) -> tuple[str, tuple[str, ...]]:
    """Why a node that no rewrite took is gone: the steps of preparation, tried again one by one."""
    present = tuple(name for name in node.output if name in examined.snapshot.tensor_ids)
    if node.name not in before.needed:
        return "is not needed: nothing that the model returns depends on it", ()
    if node.name not in _names(before.raised):
        return f"was replaced while the model was raised to opset {before.raised.opset}", present
    folded = before.folded.proto.graph
    if node.name not in _names(before.folded) or any(t.name in node.output for t in folded.initializer):
        return "was computed beforehand: its result does not depend on the inputs of the model", present
    makers = (examined.snapshot.producer[examined.snapshot.tensor_ids[t]] for t in present)
    instead = tuple(examined.snapshot.names[m] for m in makers if m >= 0)
    return "is not needed any more: what read it was rewritten or computed beforehand", instead


def _names(model: Model) -> frozenset[str]:
    return frozenset(node.name for node in model.proto.graph.node)
