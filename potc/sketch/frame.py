"""A variant of a pattern as a graph that has nodes and tensors, and no shapes, values or attributes yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from potc.language.program import Capture, Kind, Literal, PatternNode, Result, Step
from potc.match.found import Binding, Bound
from potc.sketch.constraints import Constraint
from potc.sketch.variants import Bar, Link, Variant, once, optional_port, schema_of

MANY = 16  # inputs; operators with more take any number


@dataclass(slots=True)
class External:
    """A tensor that no node of the frame makes. ``kind`` ANY: a constant or a model input, as the search finds fit.

    ``filled``: the one number that all its elements are, from a literal of the pattern.
    """

    kind: Kind
    filled: float | None = None


@dataclass(slots=True)
class Placed:
    """One node: operator, tensors by port (-1: left out). ``pattern`` None: no part of the match."""

    op: str
    inputs: list[int]
    outputs: list[int]
    pattern: PatternNode | None


@dataclass(slots=True)
class Frame:
    """Nodes in topological order. ``covered``: those of the match, ``bindings`` what its names are bound to (only the
    tensors of a binding count here). ``returned``: tensors that the model returns although nodes read them.
    """

    opset: int
    nodes: list[Placed] = field(default_factory=list)
    externals: dict[int, External] = field(default_factory=dict)
    tensors: int = 0
    bindings: dict[str, Binding] = field(default_factory=dict)
    returned: set[int] = field(default_factory=set)
    result: int = -1

    @property
    def covered(self) -> tuple[int, ...]:
        return tuple(k for k, node in enumerate(self.nodes) if node.pattern is not None)

    def tensor(self) -> int:
        self.tensors += 1
        return self.tensors - 1

    def external(self, kind: Kind, filled: float | None = None) -> int:
        made = self.tensor()
        self.externals[made] = External(kind, filled)
        return made


class Impossible(Exception):
    """A variant that no graph of this opset has."""


def make_frame(variant: Variant, opset: int, bystander: str, broken: Constraint | None = None, more: str = "") -> Frame:
    """The nodes of a variant with one constraint of the pattern broken, if any. ``more``: which of the optional inputs that
    the pattern does not look at are given: none, "all" or the "last". Raises Impossible."""
    builder = _Builder(Frame(opset), variant, bystander, broken, more)
    return builder.build()


def has_place(variant: Variant, broken: Constraint) -> bool:
    """True if the part of the pattern that a constraint is about is there in a variant."""
    if broken.node is not None:
        given = [row for part, row in zip(variant.patterns, variant.given, strict=True) if part is broken.node]
        if not given or (broken.arg >= 0 and not any(row[broken.arg] for row in given)):
            return False
    if broken.step is None:
        return True
    bars = [e.step for e in variant.chain if isinstance(e, Bar)]
    steps = [s for e in variant.chain if isinstance(e, Link) for s in e.steps]
    return any(s is broken.step for s in (*bars, *steps))


class _Builder:
    def __init__(self, frame: Frame, variant: Variant, bystander: str, broken: Constraint | None, more: str) -> None:
        self.more = more
        self.frame = frame
        self.variant = variant
        self.bystander = bystander
        self.broken = broken
        self.made: dict[int, int] = {}  # DAG node index -> node
        self.done = False  # a constraint is broken in one place, also where a step repeats

    def build(self) -> Frame:
        frame, variant = self.frame, self.variant
        for k, part in enumerate(variant.nodes):
            self.made[k] = self._node(part, variant.ops[k], variant.given[k], None)
            if self._is("edge", part):
                frame.returned.add(frame.nodes[self.made[k]].outputs[0])
        at, k = len(frame.nodes) - 1, len(variant.nodes)
        before = frame.nodes[at].outputs[0]
        for entry in variant.chain:
            if isinstance(entry, Bar):
                before = frame.nodes[at].outputs[0]
                if self._is("excluded", None, entry.step):
                    self._forbidden(entry.step, before)
                continue
            if not entry.place:
                before = frame.nodes[at].outputs[0]
                self.made = {}
            self._edge(entry, before)
            at = self.made[entry.place] = self._node(entry.pattern, variant.ops[k], variant.given[k], before, entry)
            for step in entry.steps:
                if step.name is not None:
                    frame.bindings[step.name] = Bound(frame.nodes[at].outputs[0], at, -1)
            if self._is("edge", entry.pattern) and entry.place < self._last(k):
                frame.returned.add(frame.nodes[at].outputs[0])
            k += 1
        frame.result = frame.nodes[at].outputs[0]
        return frame

    def _last(self, k: int) -> int:
        """Index of the last node of the part that the k-th operator of the variant is in."""
        links = [e for e in self.variant.chain if isinstance(e, Link)][k - len(self.variant.nodes) :]
        last = links[0].place
        for link in links[1:]:
            if link.place <= last:
                break
            last = link.place
        return last

    def _is(self, kind: str, node: PatternNode | None, step: Step | None = None, arg: int = -1) -> bool:
        broken = self.broken
        return (
            broken is not None
            and broken.kind == kind
            and (
                (broken.node is not None and broken.node is node and broken.arg == arg)
                or (broken.step is not None and broken.step is step)
            )
        )

    def _edge(self, link: Link, before: int) -> None:
        hit = link.exclusive and any(self._is("edge", None, s) for s in link.steps)
        if (hit or (self._is("edge", link.pattern) and not self._last_of(link))) and not self.done:
            self.done = True
            self.frame.returned.add(before)

    def _last_of(self, link: Link) -> bool:
        """True for a node of a part with several nodes: there an edge is what it makes, not what it reads."""
        return link.place > 0 or any(
            isinstance(e, Link) and e.place == 1 and p is link
            for p, e in zip(self.variant.chain, self.variant.chain[1:], strict=False)
        )

    def _node(
        self, part: PatternNode, op: str, given: tuple[int, ...], prev: int | None, link: Link | None = None
    ) -> int:
        frame = self.frame
        replaced = self._is("operator", part) or (
            link is not None and any(self._is("operator", None, s) for s in link.steps)
        )
        if replaced and not self.done:
            self.done = True
            return self._bystander(part, prev)
        schema = schema_of(op, frame.opset)
        if schema is not None and schema.deprecated:
            raise Impossible(op)
        inputs: list[int] = []
        args = part.args
        if not args and prev is not None:
            inputs.append(prev)
        for k, arg in enumerate(args):
            if isinstance(arg, Result):
                made = None if arg.node < 0 else frame.nodes[self.made[arg.node]].outputs
                if made is not None and arg.output >= len(made):
                    raise Impossible(op)
                inputs.append(made[arg.output] if made is not None else prev if prev is not None else -1)
            elif isinstance(arg, Literal):
                off = self._is("literal", part, None, k)
                value = arg.value + max(1.0, 4 * arg.tolerance * abs(arg.value)) if off else arg.value
                inputs.append(frame.external(Kind.CONST, value))
            else:
                inputs.extend(self._capture(part, k, arg, given[k], op))
        if schema is not None:
            if len([t for t in inputs if t >= 0]) > schema.max_input:
                raise Impossible(op)
            missing = range(len(inputs), schema.min_input)
            inputs.extend(-1 if optional_port(schema, port) else frame.external(Kind.ANY) for port in missing)
            if self.more and part.args and len(inputs) < schema.max_input < MANY:
                left_out = schema.max_input - len(inputs) - 1 if self.more == "last" else 0
                inputs.extend([-1] * left_out)
                inputs.extend(frame.external(Kind.ANY) for _ in range(len(inputs), schema.max_input))
            for port, tensor in enumerate(inputs):
                if tensor < 0 and not optional_port(schema, port):
                    raise Impossible(op)
        while inputs and inputs[-1] < 0:
            inputs.pop()
        count = max(1, schema.min_output if schema is not None else 1, 1 + len(part.others), self._asked(part))
        if schema is not None and count > schema.max_output:
            raise Impossible(op)
        outputs = [frame.tensor() for _ in range(count)]
        frame.nodes.append(Placed(op, inputs, outputs, part))
        index = len(frame.nodes) - 1
        if part.name is not None:
            for port, name in enumerate((part.name, *part.others)):
                frame.bindings[name] = Bound(outputs[port], index, -1 - port)
        return index

    def _asked(self, part: PatternNode) -> int:
        """How many outputs of a node others of the pattern read."""
        numbers = [k for k, n in enumerate(self.variant.nodes) if n is part]
        args = (a for n in self.variant.nodes for a in n.args if isinstance(a, Result))
        return max((a.output + 1 for a in args if a.node in numbers), default=1)

    def _bystander(self, part: PatternNode, prev: int | None) -> int:
        """Another operator in the place of one of the pattern, on its first computed input."""
        frame = self.frame
        source = prev
        for arg in part.args:
            if source is None and isinstance(arg, Result):
                source = frame.nodes[self.made[arg.node]].outputs[0]
            elif source is None and isinstance(arg, Capture) and arg.kind is not Kind.CONST:
                bound = frame.bindings.get(arg.name)
                source = bound.tensor if isinstance(bound, Bound) else None
        source = frame.external(Kind.VALUE) if source is None else source
        frame.nodes.append(Placed(self.bystander, [source], [frame.tensor()], part))
        index = len(frame.nodes) - 1
        for arg in part.args:
            if isinstance(arg, Capture) and arg.kind is not Kind.CONST and arg.name != "_":
                frame.bindings.setdefault(arg.name, Bound(source, index, 0))
        if part.name is not None:
            frame.bindings[part.name] = Bound(frame.nodes[index].outputs[0], index, -1)
        return index

    def _capture(self, part: PatternNode, k: int, arg: Capture, count: int, op: str) -> list[int]:
        frame = self.frame
        if arg.variadic:
            kind = self._kind(part, k, arg)
            made = [frame.external(arg.kind) for _ in range(count - 1)] + [frame.external(kind)]
            frame.bindings[arg.name] = tuple(Bound(t, len(frame.nodes), k + i) for i, t in enumerate(made))
            return made
        if not count or self._is("given", part, None, k):
            if arg.name != "_":
                frame.bindings.setdefault(arg.name, None)
            return [-1]
        before = frame.bindings.get(arg.name) if arg.name != "_" else None
        if isinstance(before, Bound) and not self._is("same", part, None, k):
            known = frame.externals.get(before.tensor)
            if known is not None and known.kind is Kind.ANY:
                known.kind = self._kind(part, k, arg)
            return [before.tensor]
        made = frame.external(self._kind(part, k, arg))
        if arg.name != "_" and not isinstance(before, Bound):
            frame.bindings[arg.name] = Bound(made, len(frame.nodes), k)
        return [made]

    def _kind(self, part: PatternNode, k: int, arg: Capture) -> Kind:
        if self._is("constant", part, None, k):
            return Kind.VALUE
        if self._is("computed", part, None, k):
            return Kind.CONST
        return arg.kind

    def _forbidden(self, step: Step, before: int) -> None:
        """Puts what a ``not`` names behind a tensor, beside whatever follows."""
        frame, own = self.frame, dict(self.frame.bindings)
        chain = next(iter(sorted((tuple(c) for c in once(step)), key=len)))
        at = before
        for entry in chain:
            if isinstance(entry, Bar):
                continue
            op = min(entry.pattern.ops)
            given = tuple(0 if isinstance(a, Capture) and a.optional else 1 for a in entry.pattern.args)
            index = self._node(entry.pattern, op, given, at)
            frame.nodes[index].pattern = None
            at = frame.nodes[index].outputs[0]
        frame.bindings.clear()
        frame.bindings.update(own)


def readers(frame: Frame) -> Mapping[int, list[tuple[int, int]]]:
    """(node, port) pairs that read each tensor."""
    found: dict[int, list[tuple[int, int]]] = {}
    for k, node in enumerate(frame.nodes):
        for port, tensor in enumerate(node.inputs):
            if tensor >= 0:
                found.setdefault(tensor, []).append((k, port))
    return found
