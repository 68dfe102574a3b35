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
from potc.language.expression import Environment, ExpressionError, evaluate
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
    # further outputs
    "{ a, b = Split(x) y = Add(a, b) }",
    "{ a, b = Split(x) c = Relu(b) y = Mul(a, c) }",
    "{ _a, b = Split(x) y = any(Relu, Split)(b) }",
    "Halves(x) -> Tanh as y",
    "{ a, b = Halves(x) y = Mul(b, _) }",
    # a choice or a repetition first
    "(Relu(x) | Tanh(x) -> Clip) -> Mul(prev, b)? as y",
    "(Add(a, b) | Mul(a, 0.5)) * 1 .. 2 -> Relu? as y",
    "(Relu(x) -> Tanh? | Split(x)) as r ~> any(Add, Mul)(prev, z) as y",
    "Relu(x) * 1 .. 3 as y",
    "any(Relu, Tanh)(x) * 2 .. 3 ~> Clip as y",
    # several nodes as one step
    "Relu(x) -> Add(prev, Mul(z, 0.5)) as y",
    "any(Add, Relu)(x) ~> Add(Tanh(prev), any(Mul, Add)(prev, z)) -> Relu? as y",
    "Relu(x) -> Gate(prev) -> Tanh? as y",
    "any(Add, Mul)(x) ~> (Gate(prev) | Relu -> Clip) * 1 .. 2 as y",
    "Tanh(x) -> not Gate(prev) ~> Relu as y",
    "Relu(x) -> Mul(prev, prev) as y",
    "any(Relu, Clip)(x) ~> Longer(prev, Tanh(z)) as y",
    # patterns with a choice in a line
    "{ a = Maybe(x) y = Mul(a, x) }",
    "{ a = Maybe(x) b = Maybe(a) y = Add(b, 1) }",
    "Add(Maybe(x), Several(z)) as y",
    # operators as parameters, conditions of single operators
    "Two(x, Relu, Clip) as y",
    "Add(x, z) ~> Two(prev, Cut, Sides) as y",
    "Cut(x) -> Cut as y",
)
DEFINITIONS = """
ops Cut = Relu, Split[axis == 1]
ops Sides = Split[axis == 0], Split[axis == 1], Tanh
pattern Halves(x) match { r = Relu(x) a, b = Split(r) }
pattern Gate(x) match { a = Tanh(x) b = any(Clip, Relu)(x) y = Mul(a, b) }
pattern Longer(x, z) match Tanh(x) -> Add(prev, z)
pattern Maybe(x) match Relu(x) -> Clip?
pattern Several(x) match (Tanh(x) | Relu(x) -> Relu) * 1 .. 2
pattern Two(x, f: ops, g: ops) match f(x) -> g
"""
# What random graphs hardly ever hold: operators and what they read (x and z from before, results by line, b: the second).
MOTIFS = (
    "Relu x, Tanh x, Add 0 1",
    "Relu x, Mul 0 half, Tanh 1, Mul 0 2",
    "Mul x half, Add 0 one",
    "Add x z, Mul 0 x, Add 1 z",
    "Relu x, Tanh z, Mul 0 1",
    "Split x, Add 0 0b",
    "Split x, Relu 0b, Mul 0 1",
    "Split x, Split 0b",
    "Relu x, Split 0, Tanh 1",
    "Relu x, Split 0, Mul 1b 1",
    "Relu x, Mul z half, Add 0 1",
    "Relu x, Tanh 0, Mul 0 z, Add 1 2",
    "Relu x, Tanh 0, Clip 0, Mul 1 2",
    "Add x z, Tanh 0, Relu 0, Mul 1 2, Relu 3, Clip 4",
    "Clip x, Tanh z, Tanh 0, Add 1 2",
    "Relu x, Mul 0 0",
    "Relu x, Clip 0, Mul 1 x, Add 2 one",
    "Relu x, Relu 0, Relu z, Tanh 2, Add 1 3",
    "Relu x, Clip 0, Relu 1, Add 2 one",
    "Add x z, Relu 0, Split 1",
)
CONSTANTS: Mapping[str, float] = {"half": 0.5, "one": 1.0}
SHAPE = (1, 2, 4, 4)


@cache
def program() -> Program:
    rules = "\n".join(f"  float p{k} {{ match {pattern} }}" for k, pattern in enumerate(PATTERNS))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "device.rules"
        path.write_text(f"potc 1\nuse std\n{DEFINITIONS}device d {{\n  opset ai.onnx 13 .. 25\n{rules}\n}}\n")
        return load_rules(str(path))


# ---------------------------------------------------------------------------------------------- graphs


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """A small DAG; recent tensors are read more often, so that chains and diamonds appear."""
    tensors = ["x"]
    nodes: list[onnx.NodeProto] = []

    def pick() -> str:
        return tensors[-1 - min(draw(st.integers(0, len(tensors) - 1)), draw(st.integers(0, len(tensors) - 1)))]

    def add(op: str, inputs: list[str]) -> tuple[str, ...]:
        k = len(nodes)
        made = (f"t{k}",)
        attributes = {}
        if op == "Split":
            made = draw(st.sampled_from(((f"t{k}", f"u{k}"), (f"t{k}", f"u{k}"), (f"t{k}",), ("", f"u{k}"))))
            attributes = {"axis": draw(st.integers(0, 1))}
        elif op in ("Add", "Mul") and draw(st.booleans()):
            inputs.reverse()
        nodes.append(helper.make_node(op, inputs, made, name=f"{op}_{k}", **attributes))
        tensors.extend(filter(None, made))
        return made

    while len(nodes) < 8 and (not nodes or draw(st.integers(0, 7))):
        if draw(st.booleans()):
            names = {"x": pick(), "z": pick()}
            for line, (op, *inputs) in enumerate(map(str.split, draw(st.sampled_from(MOTIFS)).split(", "))):
                made = add(op, [names.get(i, i) if draw(st.integers(0, 20)) else pick() for i in inputs])
                names |= {f"{line}": made[0] or made[-1], f"{line}b": made[-1]}
            continue
        op = draw(st.sampled_from(("Conv", "Relu", "Relu", "Clip", "Tanh", "Add", "Mul", "MatMul", "Split")))
        inputs = [pick()]
        if op == "Conv":
            inputs.append("kernel")
        elif op in ("Add", "Mul", "MatMul"):
            constants = ["square"] if op == "MatMul" else sorted(CONSTANTS)
            inputs.append(draw(st.sampled_from(constants)) if draw(st.booleans()) else pick())
        add(op, inputs)
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
    """One step of a chain without choices: its nodes, or chains that must not stand behind the tensor before."""

    dag: tuple[PatternNode, ...]
    exclusive: bool
    forbidden: tuple[tuple[Link, ...], ...] = ()


Chain = tuple[Link, ...]
Nodes = tuple[onnx.NodeProto, ...]
Part = PatternNode | Step | Pattern


def chains(steps: tuple[Part, ...], exclusive: bool = True) -> Iterator[Chain]:
    """All chains that steps stand for; ``exclusive``: of the edge to a node that comes first."""
    if not steps:
        yield ()
        return
    for first in links(steps[0], exclusive):
        for rest in chains(steps[1:]):
            yield (*first, *rest)


def links(step: Part, exclusive: bool) -> Iterator[Chain]:
    if not isinstance(step, Step):
        yield (Link(step.nodes if isinstance(step, Pattern) else (step,), exclusive),)
        return
    edge = step.exclusive and not step.negative
    once = tuple(
        chain
        for first, *rest in step.alternatives
        for chain in chains((replace(first, exclusive=edge) if isinstance(first, Step) else first, *rest), edge)
    )
    if step.negative:
        yield (Link((), False, once),)
        return
    for count in range(step.low, step.high + 1):
        for chosen in itertools.product(once, repeat=count):
            yield tuple(itertools.chain.from_iterable(chosen))


class Attributes(Environment):
    """What conditions of the patterns above ask for."""

    def __init__(self, node: onnx.NodeProto) -> None:
        self.given = {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def lookup(self, name: str) -> object:
        return self.given[name]

    def field(self, obj: object, name: str) -> object:
        raise ExpressionError(name, None)


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
        for way in pattern.ways:
            for chain in set(chains(way.tail)):
                whole = (Link(way.nodes, False), *chain)
                parts = tuple(node for link in whole for node in link.dag)
                for chosen in self.choices(parts):
                    if self.linked(whole, chosen, None) and self.bound(whole, chosen, None):
                        found.add((frozenset(node.name for node in chosen), chosen[-1].name))
        return found

    def choices(self, parts: tuple[PatternNode, ...]) -> Iterator[Nodes]:
        """All ways to give each part a node of its own."""
        for chosen in itertools.product(*([n for n in self.nodes if self.suits(n, part)] for part in parts)):
            if len({node.name for node in chosen}) == len(chosen):
                yield chosen

    def suits(self, node: onnx.NodeProto, part: PatternNode) -> bool:
        return node.op_type in part.ops and all(evaluate(c, Attributes(node)) for c in part.conditions_of(node.op_type))

    def linked(self, chain: Chain, chosen: Nodes, before: onnx.NodeProto | None) -> bool:
        """Every link holds behind the node before it; the last node of each makes its first output."""
        at = 0
        for link in chain:
            if not link.dag:
                if before is not None and any(self.behind(before, forbidden) for forbidden in link.forbidden):
                    return False
                continue
            group = chosen[at : at + len(link.dag)]
            if before is not None and link.exclusive:
                tensor = before.output[0]
                places = sum(isinstance(a, Result) and a.node < 0 for node in link.dag for a in node.args)
                if len(self.reads(tensor)) != max(1, places) or tensor in self.outputs:
                    return False
            inside = {node.name for node in group}
            inner = [name for node in group[:-1] for name in node.output if name]
            if any(name in self.outputs or not inside.issuperset(self.reads(name)) for name in inner):
                return False
            before = group[-1]
            if not before.output[0]:
                return False
            at += len(link.dag)
        return True

    def behind(self, node: onnx.NodeProto, chain: Chain) -> bool:
        """True if a chain stands behind a node."""
        parts = tuple(part for link in chain for part in link.dag)
        return any(
            node.name not in {n.name for n in chosen}
            and self.linked(chain, chosen, node)
            and self.bound(chain, chosen, node)
            for chosen in self.choices(parts)
        )

    def bound(self, chain: Chain, chosen: Nodes, before: onnx.NodeProto | None) -> bool:
        """Some order of the inputs of the commutative nodes fits all arguments, with one tensor for each name."""
        wanted: list[tuple[PatternNode, Nodes, onnx.NodeProto | None]] = []
        at = 0
        for link in chain:
            group = chosen[at : at + len(link.dag)]
            wanted.extend((part, group, before) for part in link.dag)
            before = group[-1] if group else before
            at += len(link.dag)
        orders = [
            (tuple(node.input), tuple(node.input)[::-1])
            if len(part.args) == 2 and node.op_type in ("Add", "Mul")
            else (tuple(node.input),)
            for node, (part, _, _) in zip(chosen, wanted, strict=True)
        ]
        for order in itertools.product(*orders):
            names: dict[str, str] = {}
            tests = (
                self.input(arg, tensor, group, previous, names)
                for inputs, (part, group, previous) in zip(order, wanted, strict=True)
                for arg, tensor in zip(part.args, inputs, strict=False)
            )
            if all(tests):
                return True
        return False

    def input(self, arg: Arg, tensor: str, group: Nodes, before: onnx.NodeProto | None, names: dict[str, str]) -> bool:
        if isinstance(arg, Literal):
            return CONSTANTS.get(tensor) == arg.value
        if isinstance(arg, Result):
            if arg.node < 0:
                return before is not None and tensor == before.output[0]
            return arg.output < len(group[arg.node].output) and tensor == group[arg.node].output[arg.output]
        assert isinstance(arg, Capture)
        kinds = {Kind.ANY: True, Kind.CONST: tensor in self.constants, Kind.VALUE: tensor not in self.constants}
        return kinds[arg.kind] and (arg.name == "_" or names.setdefault(arg.name, tensor) == tensor)


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
    maker = {name: (node.name, out) for node in model.graph.node for out, name in enumerate(node.output) if name}
    wanted = sorted(
        (maker[tensor][0], node.name, tensor, maker[tensor][1], port)
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
