"""The matcher finds what plain enumeration finds; the snapshot's networkx graph is its arrays."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import networkx as nx
import onnx
import onnx.printer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from potc.graph.snapshot import take_snapshot
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, PatternNode, Program, Result, Step
from potc.language.resolve import load_rules
from potc.match.environment import Scope
from potc.match.match import Matcher

PATTERNS = (
    "Conv(x, w: const) -> Relu? -> Clip? as y",
    "Conv(x, w: const) -> (Relu | Clip -> Tanh)? as y",
    "Conv(x, w: const) -> Relu * 0 .. 3 ~> Tanh as y",
    "Conv(x, w: const) -> (Relu? -> Clip | Tanh -> Relu?) as y",
    "Conv(x, w: const) ~> (Tanh? -> Relu | not Relu -> Clip) as y",
    "Conv(x, w: const) -> not Tanh -> Relu? as y",
    "Conv(x, w: const) -> not (Relu -> any(Tanh, Clip)) -> not Add(prev, 1) -> Relu? as y",
    "Add(a: value, b: value) -> Relu? as y",
    "Add(x, x) -> any(Relu, Tanh)? as y",
    "MatMul(x: value, w: const) -> Add(prev, b: const)? as y",
    "any(Add, Mul)(a, b) ~> any(Relu, Tanh, Add) as y",
    "any(Relu, Tanh)(x) ~> Mul(x, prev) as y",
    "{ a = Relu(x) b = Tanh(x) y = Add(a, b) }",
    "{ a = Relu(x) b = Mul(a, 0.5) c = Tanh(b) y = Mul(a, c) }",
    "{ s = Mul(x, 0.5) y = Add(s, 1) }",
    "{ a = Add(x, z) b = Mul(a, x) y = Add(b, z) }",
    "{ a = any(Relu, Clip)(x) b = any(Relu, Tanh)(z) y = Mul(b, a) }",
)
CONSTANTS: Mapping[str, float] = {"half": 0.5, "one": 1.0}
SHAPE = (1, 2, 4, 4)


@cache
def program() -> Program:
    rules = "\n".join(f"  float p{k} {{ match {pattern} }}" for k, pattern in enumerate(PATTERNS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.rules"
        path.write_text(f"potc 1\nuse std\ndevice d {{\n  opset ai.onnx 13 .. 25\n{rules}\n}}\n")
        return load_rules(str(path))


# ---------------------------------------------------------------------------------------------- graphs


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A small DAG; recent tensors are read more often, so that chains and diamonds appear."""
    tensors = ["x"]
    nodes: list[onnx.NodeProto] = []

    def pick() -> str:
        return tensors[-1 - min(draw(st.integers(0, len(tensors) - 1)), draw(st.integers(0, len(tensors) - 1)))]

    for k in range(draw(st.integers(1, 9))):
        op = draw(st.sampled_from(("Conv", "Relu", "Clip", "Tanh", "Add", "Mul", "Add", "Mul", "MatMul")))
        inputs = [pick()]
        if op == "Conv":
            inputs.append("kernel")
        elif op in ("Add", "Mul", "MatMul"):
            constants = ["square"] if op == "MatMul" else sorted(CONSTANTS)
            inputs.append(draw(st.sampled_from(constants)) if draw(st.booleans()) else pick())
            if op != "MatMul" and draw(st.booleans()):
                inputs.reverse()
        nodes.append(helper.make_node(op, inputs, [f"t{k}"], name=f"{op}_{k}"))
        tensors.append(f"t{k}")
    read = {name for node in nodes for name in node.input}
    outputs = [t for t in tensors[1:] if t not in read or draw(st.integers(0, 7)) == 0]
    f32 = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [nodes[i] for i in draw(st.permutations(range(len(nodes))))],
        "g",
        [helper.make_tensor_value_info("x", f32, SHAPE)],
        [helper.make_tensor_value_info(t, f32, SHAPE) for t in outputs],
        [
            helper.make_tensor("kernel", f32, (2, 2, 1, 1), [1, 2, 3, 4]),
            helper.make_tensor("square", f32, (4, 4), [float(i) for i in range(16)]),
            *(helper.make_tensor(name, f32, (), [value]) for name, value in CONSTANTS.items()),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


# ---------------------------------------------------------------------------------------------- enumeration


@dataclass(frozen=True)
class Link:
    """One step of a chain without choices: a node, or chains that must not stand behind the tensor before."""

    node: PatternNode | None
    exclusive: bool
    forbidden: tuple[tuple[Link, ...], ...] = ()


Chain = tuple[Link, ...]
Nodes = tuple[onnx.NodeProto, ...]


def chains(steps: tuple[PatternNode | Step, ...], exclusive: bool = True) -> Iterator[Chain]:
    """All chains that steps stand for; ``exclusive``: of the edge to a node that comes first."""
    if not steps:
        yield ()
        return
    for first in links(steps[0], exclusive):
        for rest in chains(steps[1:]):
            yield (*first, *rest)


def links(step: PatternNode | Step, exclusive: bool) -> Iterator[Chain]:
    if isinstance(step, PatternNode):
        yield (Link(step, exclusive),)
        return
    edge = step.exclusive and not step.negative
    once = tuple(
        chain
        for first, *rest in step.alternatives
        for chain in chains((first if isinstance(first, PatternNode) else replace(first, exclusive=edge), *rest), edge)
    )
    if step.negative:
        yield (Link(None, False, once),)
        return
    for count in range(step.low, step.high + 1):
        for chosen in itertools.product(once, repeat=count):
            yield tuple(itertools.chain.from_iterable(chosen))


def parts_of(chain: Chain) -> tuple[PatternNode, ...]:
    return tuple(link.node for link in chain if link.node is not None)


class Reference:
    """Matches by trying every assignment of nodes, straight from the ONNX graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.constants = {t.name for t in model.graph.initializer}
        self.outputs = {o.name for o in model.graph.output}

    def reads(self, tensor: str) -> list[str]:
        return [node.name for node in self.nodes for name in node.input if name == tensor]

    def matches(self, pattern: Pattern) -> set[tuple[frozenset[str], str]]:
        found: set[tuple[frozenset[str], str]] = set()
        for chain in set(chains(pattern.tail)):
            parts = (*pattern.nodes, *parts_of(chain))
            for chosen in self.choices(parts):
                dag = chosen[: len(pattern.nodes)]
                if self.closed(dag) and self.linked(chain, chosen[len(dag) - 1 :]) and self.bound(parts, chosen):
                    found.add((frozenset(node.name for node in chosen), chosen[-1].name))
        return found

    def choices(self, parts: tuple[PatternNode, ...]) -> Iterator[Nodes]:
        """All ways to give each part a node of its own."""
        for chosen in itertools.product(*([n for n in self.nodes if n.op_type in part.ops] for part in parts)):
            if len({node.name for node in chosen}) == len(chosen):
                yield chosen

    def closed(self, dag: Nodes) -> bool:
        inside = {node.name for node in dag}
        inner = [node.output[0] for node in dag[:-1]]
        return all(t not in self.outputs and inside.issuperset(self.reads(t)) for t in inner)

    def linked(self, chain: Chain, chosen: Nodes) -> bool:
        """Every link holds at the node before it; ``chosen`` starts with the node that the chain starts at."""
        at = 0
        for link in chain:
            tensor = chosen[at].output[0]
            if link.node is None:
                if any(self.behind(chosen[at], forbidden) for forbidden in link.forbidden):
                    return False
                continue
            if link.exclusive and (len(self.reads(tensor)) != 1 or tensor in self.outputs):
                return False
            at += 1
        return True

    def behind(self, node: onnx.NodeProto, chain: Chain) -> bool:
        """True if a chain stands behind a node."""
        parts = parts_of(chain)
        return any(
            self.linked(chain, (node, *chosen)) and self.bound((None, *parts), (node, *chosen))
            for chosen in self.choices(parts)
        )

    def bound(self, parts: tuple[PatternNode | None, ...], chosen: Nodes) -> bool:
        """Some order of the inputs of the commutative nodes fits all arguments, with one tensor for each name."""
        stated = [() if part is None else part.args or (Result(-1, part.span),) for part in parts]
        orders = [
            (tuple(node.input), tuple(node.input)[::-1])
            if len(args) == 2 and node.op_type in ("Add", "Mul")
            else (tuple(node.input),)
            for node, args in zip(chosen, stated, strict=True)
        ]
        for order in itertools.product(*orders):
            names: dict[str, str] = {}
            tests = (
                self.input(arg, tensor, chosen, k, names)
                for k, (inputs, args) in enumerate(zip(order, stated, strict=True))
                for arg, tensor in zip(args, inputs, strict=False)
            )
            if all(tests):
                return True
        return False

    def input(self, arg: Arg, tensor: str, chosen: Nodes, index: int, names: dict[str, str]) -> bool:
        if isinstance(arg, Literal):
            return CONSTANTS.get(tensor) == arg.value
        if isinstance(arg, Result):
            return tensor == chosen[arg.node if arg.node >= 0 else index - 1].output[0]
        assert isinstance(arg, Capture)
        kinds = {Kind.ANY: True, Kind.CONST: tensor in self.constants, Kind.VALUE: tensor not in self.constants}
        return kinds[arg.kind] and names.setdefault(arg.name, tensor) == tensor


@settings(max_examples=300)
@given(model=models())
def test_matches_are_those_of_enumeration(model: onnx.ModelProto) -> None:
    snapshot = take_snapshot(model)
    reference = Reference(model)
    scope = Scope.of(program())
    for rule in program().rules:
        matcher = Matcher(rule.pattern, rule.requires, snapshot, scope, program().signatures)
        anchors = [n for op in matcher.anchor_ops for n in snapshot.by_op.get(op, ())]
        matches = [m for n in anchors for m in matcher.matches(n)]
        found = {(frozenset(snapshot.names[n] for n in m.nodes), snapshot.names[m.nodes[-1]]) for m in matches}
        assert found == reference.matches(rule.pattern), (
            f"{PATTERNS[int(rule.name[1:])]} in\n{onnx.printer.to_text(model)}"
        )
        assert all(snapshot.producer[m.result] == m.nodes[-1] for m in matches)
        assert all(len(set(m.nodes)) == len(m.nodes) for m in matches)


@given(model=models())
def test_networkx_graph_has_the_edges_of_the_arrays(model: onnx.ModelProto) -> None:
    snapshot = take_snapshot(model)
    graph = snapshot.graph
    maker = {node.output[0]: node.name for node in model.graph.node}
    wanted = sorted(
        (maker[tensor], node.name, tensor, 0, port)
        for node in model.graph.node
        for port, tensor in enumerate(node.input)
        if tensor in maker
    )
    edges = graph.edges(data=True)
    found = [(snapshot.names[a], snapshot.names[b], d["tensor"], d["out_port"], d["in_port"]) for a, b, d in edges]
    assert sorted(found) == wanted
    labels = [(d["name"], d["op"]) for _, d in sorted(graph.nodes(data=True))]
    assert labels == list(zip(snapshot.names, snapshot.ops, strict=True))
    assert all(a < b for a, b in graph.edges())
    with pytest.raises(nx.NetworkXError):
        graph.add_edge(0, 0)
