"""What became of nodes and tensors that preparation removed: rewritten, computed beforehand, or never needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from onnx import NodeProto

from potc.graph.bodies import Body, bodies_of, with_bodies
from potc.graph.model import Model
from potc.graph.names import all_graphs, all_nodes
from potc.graph.opset import raise_opset
from potc.graph.prepare import drop_dead, fold_constants, infer_shapes
from potc.match.rewrite import Change
from potc.workbench.explain_model import Examined


@dataclass(frozen=True)
class Before:
    """The model as it was read, bodies included: nodes by name, the node that makes each tensor, and who reads it."""

    model: Model
    opset: int
    nodes: Mapping[str, NodeProto]
    maker: Mapping[str, NodeProto]
    readers: Mapping[str, tuple[NodeProto, ...]]
    tensors: tuple[str, ...]

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the nodes that a result depends on."""
        return _names(_everywhere(self.model, lambda m: drop_dead(infer_shapes(m))))

    @cached_property
    def raised(self) -> Model:
        return raise_opset(self.model, self.opset)

    @cached_property
    def folded(self) -> Model:
        return _everywhere(self.raised, lambda m: fold_constants(infer_shapes(m)))


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
    nodes = {node.name: node for node in all_nodes(graph)}
    maker = {name: node for node in nodes.values() for name in node.output if name}
    readers: dict[str, list[NodeProto]] = {}
    for node in nodes.values():
        for name in dict.fromkeys(filter(None, node.input)):
            readers.setdefault(name, []).append(node)
    given = [v.name for one in all_graphs(graph) for v in (*one.input, *one.initializer)]
    names = dict.fromkeys((*given, *maker))
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
    if node in examined.shut:
        return GoneAnswer("node", node, *_in_shut(examined, node), ())
    words, instead = _without_rewrite(examined, before, before.nodes[node])
    return GoneAnswer("node", node, words, "", "", instead)


def what_became_of_tensor(examined: Examined, before: Before, tensor: str) -> GoneAnswer:
    if tensor in examined.shut:
        return GoneAnswer("tensor", tensor, *_in_shut(examined, tensor), ())
    maker = before.maker.get(tensor)
    touching = (maker,) if maker is not None else before.readers.get(tensor, ())
    for node in touching:
        change = change_of(examined, node.name)
        if change is not None:
            instead = _successors(examined, before, change)
            if maker is None:  # a constant: those that the rewrite computed from it
                own = f"{change.tensor}/"
                present = (t for graph in examined.graphs for t in graph.snapshot.tensors)
                instead = tuple(t for t in present if t.startswith(own)) or instead
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


def _in_shut(examined: Examined, name: str) -> tuple[str, str, str]:
    """Words, rule and place for what is in a body that nothing is planned for."""
    left = examined.shut[name]
    reason = left.reasons[0]
    return f"is in the body {left.node}, which stays as it is: {reason.reason}", reason.rule, reason.place


def _everywhere(model: Model, step: Callable[[Model], Model]) -> Model:
    """The model with a step of preparation done to its main graph, then to all bodies."""
    model = step(model)
    bodies = [(b, _everywhere(b.model, step)) for b in bodies_of(model) if isinstance(b, Body)]
    return with_bodies(model, bodies)


def _others(change: Change, node: str) -> str:
    return ", ".join(n for n in change.nodes if n != node)


def _successors(examined: Examined, before: Before, change: Change) -> tuple[str, ...]:
    """The node that took over: it makes the tensor that kept its name, or has the name of the last node. Where a rewrite
    put another tensor in place of the result, what makes that tensor."""
    position = examined.changes.index(change)
    current = change
    while True:
        if maker := examined.maker(current.tensor):
            return (maker,)
        if examined.has_node(current.nodes[-1]):
            return (current.nodes[-1],)
        later = [(i, c) for i, c in enumerate(examined.changes) if i > position and current.nodes[-1] in c.nodes]
        if not later:
            break
        position, current = later[-1]
    sources = [name for node in current.nodes if node in before.nodes for name in before.nodes[node].input]
    kept = tuple(name for name in sources if examined.has_tensor(name))
    makers = tuple(filter(None, map(examined.maker, kept)))
    return (makers or kept)[:1]


def _without_rewrite(examined: Examined, before: Before, node: NodeProto) -> tuple[str, tuple[str, ...]]:
    """Why a node that no rewrite took is gone: the steps of preparation, tried again one by one."""
    present = tuple(name for name in node.output if name and examined.has_tensor(name))
    if node.name not in before.needed:
        return "is not needed: nothing that the model returns depends on it", ()
    if node.name not in _names(before.raised):
        return f"was replaced while the model was raised to opset {before.raised.opset}", present
    stored = {t.name for graph in all_graphs(before.folded.proto.graph) for t in graph.initializer}
    if node.name not in _names(before.folded) or not stored.isdisjoint(node.output):
        return "was computed beforehand: its result does not depend on the inputs of the model", present
    instead = tuple(filter(None, map(examined.maker, present)))
    return "is not needed any more: what read it was rewritten or computed beforehand", instead


def _names(model: Model) -> frozenset[str]:
    return frozenset(node.name for node in all_nodes(model.proto.graph))
