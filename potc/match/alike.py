"""Nodes that look alike match alike: a pattern is tried once on each look, and its matches are carried over.

The look of a node is all that most patterns can see of it: its operator and attributes, the types and shapes of its
tensors, which of them are constants, and the same of the nodes behind it as long as each has one reader. Patterns that see
more (several nodes above, the values of constants, who else reads) are tried node by node.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from potc.graph.snapshot import Snapshot
from potc.language import syntax
from potc.language.conditions import TENSOR_FIELDS
from potc.language.program import Capture, Pattern, PatternNode, Require, Result, Step
from potc.language.scope import parts
from potc.match.found import Binding, Bound, Match
from potc.match.match import Matcher

LONGEST = 6  # nodes in a row that a look tells apart
LOCAL_QUESTIONS = frozenset({"absent", "constant", "known"})

Look = tuple[int, ...]


class Looks:
    """The looks of all nodes of a snapshot, and the nodes behind each as far as its look tells of them."""

    def __init__(self, snapshot: Snapshot, length: int) -> None:
        self._snapshot = snapshot
        self._length = length
        self._kinds = _kinds(snapshot)

    def look(self, node: int) -> tuple[Look, tuple[int, ...]]:
        """What a node looks like, and the nodes in a row from it on."""
        snapshot, kinds = self._snapshot, self._kinds
        look, row = [kinds[node]], [node]
        while len(row) < self._length:
            outputs = snapshot.outputs[row[-1]]
            tensor = outputs[0] if outputs else -1
            if tensor < 0 or not snapshot.has_one_reader(tensor):
                look.append(-1)
                break
            reader, port = snapshot.consumers[tensor][0]
            look += (port, kinds[reader])
            row.append(reader)
        return tuple(look), tuple(row)


def _kinds(snapshot: Snapshot) -> list[int]:
    """A number for each node: equal for nodes of one operator with equal attributes, types, shapes and constants."""
    tensors: dict[object, int] = {}
    nodes: dict[object, int] = {}
    of_tensor = [
        tensors.setdefault((snapshot.is_constant(t), snapshot.dtypes[t], snapshot.shapes[t]), len(tensors))
        for t in range(len(snapshot.tensors))
    ]
    of_tensor.append(-1)  # the port that is left out
    found: list[int] = []
    for n, op in enumerate(snapshot.ops):
        ins, outs = snapshot.inputs[n], snapshot.outputs[n]
        repeated = ins if len(set(ins)) < len(ins) else ()
        key = (
            op,
            snapshot.attribute_keys[n],
            tuple([of_tensor[t] for t in ins]),
            tuple([of_tensor[t] for t in outs]),
            tuple(ins.index(t) for t in repeated),
        )
        found.append(nodes.setdefault(key, len(nodes)))
    return found


@dataclass(frozen=True, slots=True)
class Shape:
    """A match without its place: nodes and tensors are counted along the row of nodes from the anchor on."""

    nodes: tuple[int, ...]
    bindings: tuple[tuple[str, tuple[tuple[int, int], ...] | tuple[int, int] | None], ...]

    @staticmethod
    def of(match: Match, row: tuple[int, ...]) -> Shape | None:
        """None where a match has nodes that are not in the row."""
        place = {node: k for k, node in enumerate(row)}
        if not all(n in place for n in match.nodes):
            return None
        bindings: list[tuple[str, tuple[tuple[int, int], ...] | tuple[int, int] | None]] = []
        for name, binding in match.bindings.items():
            if isinstance(binding, tuple):
                bindings.append((name, tuple((place[b.node], b.port) for b in binding)))
            else:
                bindings.append((name, None if binding is None else (place[binding.node], binding.port)))
        return Shape(tuple(place[n] for n in match.nodes), tuple(bindings))

    def at(self, snapshot: Snapshot, row: tuple[int, ...]) -> Match:
        """The match in another row of the same look."""
        inputs, outputs = snapshot.inputs, snapshot.outputs
        bindings: dict[str, Binding] = {}
        for name, where in self.bindings:
            if where is None:
                bindings[name] = None
            elif where and isinstance(where[0], tuple):
                bindings[name] = tuple(_bound(inputs, outputs, row[k], port) for k, port in where)  # type: ignore[misc]
            elif where:
                bindings[name] = _bound(inputs, outputs, row[where[0]], where[1])  # type: ignore[arg-type]
            else:
                bindings[name] = ()
        nodes = tuple([row[k] for k in self.nodes])
        return Match(nodes, bindings, outputs[nodes[-1]][0])


def _bound(inputs: tuple[tuple[int, ...], ...], outputs: tuple[tuple[int, ...], ...], node: int, port: int) -> Bound:
    return Bound(inputs[node][port] if port >= 0 else outputs[node][-1 - port], node, port)


class Alike:
    """Some matchers of one anchor operator that see no more than looks. ``shapes``: look -> the matches there."""

    def __init__(self, looks: Looks, snapshot: Snapshot, matchers: tuple[Matcher, ...]) -> None:
        self._looks = looks
        self._snapshot = snapshot
        self._matchers = matchers
        self._shapes: dict[Look, tuple[tuple[int, Shape], ...]] = {}

    def matches(self, node: int) -> Iterator[tuple[int, Match]]:
        """Index of the matcher, and each of its matches at a node; longest first for each matcher."""
        look, row = self._looks.look(node)
        shapes = self._shapes.get(look)
        if shapes is None:
            tried = ((k, Shape.of(m, row)) for k, matcher in enumerate(self._matchers) for m in matcher.matches(node))
            shapes = self._shapes[look] = tuple((k, shape) for k, shape in tried if shape is not None)
        for k, shape in shapes:
            yield k, shape.at(self._snapshot, row)


# ---------------------------------------------------------------------------------------------- what patterns see


def sees_only_looks(pattern: Pattern, requires: tuple[Require, ...]) -> bool:
    """True if a look of ``reach(pattern)`` nodes decides whether and how the pattern matches."""
    captured: set[str] = set()
    for way in pattern.ways:
        names = _captured(way)
        if len(way.nodes) != 1 or reach(way) > LONGEST or len(set(names)) < len(names):
            return False
        if not all(_is_row(step) for step in way.tail):
            return False
        captured.update(names)
    conditions = [r.condition for r in requires]
    for node in _operators(pattern):
        conditions += [*node.conditions, *(c for _, c in node.refined)]
        if not all(isinstance(a, Capture) or (isinstance(a, Result) and a.node < 0) for a in node.args):
            return False
    made = {n for node in _operators(pattern) for n in (node.name, *node.others) if n}
    return all(_is_local(c, captured, made) for c in conditions)


def reach(pattern: Pattern) -> int:
    """How many nodes in a row a pattern can cover at most."""
    return max(len(way.nodes) + sum(map(_longest, way.tail)) for way in pattern.ways)


def _longest(part: PatternNode | Step | Pattern) -> int:
    if isinstance(part, PatternNode):
        return 1
    if isinstance(part, Pattern):
        return LONGEST + 1
    return part.high * max(sum(map(_longest, sequence)) for sequence in part.alternatives)


def _is_row(part: PatternNode | Step | Pattern) -> bool:
    """Every edge has one reader; nothing is excluded."""
    if isinstance(part, PatternNode):
        return sum(isinstance(a, Result) for a in part.args) <= 1
    if isinstance(part, Pattern) or part.negative or not part.exclusive:
        return False
    return all(_is_row(inner) for sequence in part.alternatives for inner in sequence)


def _operators(pattern: Pattern) -> Iterator[PatternNode]:
    waiting: list[PatternNode | Step | Pattern] = [pattern]
    while waiting:
        part = waiting.pop()
        if isinstance(part, PatternNode):
            yield part
        elif isinstance(part, Pattern):
            waiting.extend((*part.nodes, *part.tail, *part.others))
        else:
            waiting.extend(p for sequence in part.alternatives for p in sequence)


def _captured(way: Pattern) -> list[str]:
    """Captured names of one way to begin, each as often as it stands there."""
    return [
        a.name
        for node in _operators(replace(way, others=()))
        for a in node.args
        if isinstance(a, Capture) and a.name != "_"
    ]


def _is_local(expr: object, captured: set[str], made: set[str]) -> bool:
    """True if a condition asks nothing that looks don't tell: no values, no other readers, no makers of inputs."""
    match expr:
        case syntax.Field(syntax.Name(name), field):
            return field in TENSOR_FIELDS or (name in made and name not in captured)
        case syntax.Name(name):
            return name not in captured and name not in made
        case syntax.Call(name, args):
            if name in LOCAL_QUESTIONS:
                return all(isinstance(a, syntax.Name) or _is_local(a, captured, made) for a in args)
            return name not in _GLOBAL_QUESTIONS and all(_is_local(a, captured, made) for a in args)
        case _:
            return all(_is_local(part, captured, made) for part in parts(expr))


_GLOBAL_QUESTIONS = frozenset({"stored", "users", "graph_output", "graph_input", "opt", "along"})


def nothing_above(pattern: Pattern, snapshot: Snapshot, node: int) -> bool:
    """True if a pattern of several nodes can't end at a node, because no input is made by an operator that it wants."""
    producer, ops = snapshot.producer, snapshot.ops
    for way in pattern.ways:
        wanted = [way.nodes[a.node].ops for a in way.nodes[-1].args if isinstance(a, Result) and a.node >= 0]
        above = [ops[producer[t]] for t in snapshot.inputs[node] if t >= 0 and producer[t] >= 0]
        if all(any(op in some for op in above) for some in wanted):
            return False
    return True
