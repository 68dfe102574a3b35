"""The ways to take a pattern: which optional steps and inputs, how often, which alternative, which operator."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import onnx

from potc.language.operators import split
from potc.language.program import Capture, Pattern, PatternNode, Result, Step

MOST = 200
STRUCTURES = 400  # choices of steps that are looked at
LIST = (2, 1, 3)  # how many tensors a capture with `...` takes, the usual number first


@dataclass(frozen=True, slots=True)
class Link:
    """One operator of the chain part. ``steps``: the steps it is part of, outermost first. ``exclusive``: of its edge.

    ``place``: its index among the nodes of a part that has several, which all read the same tensor before as ``prev``.
    """

    pattern: PatternNode
    exclusive: bool
    steps: tuple[Step, ...]
    place: int = 0

    @property
    def optional(self) -> bool:
        return any(s.low == 0 or len(s.alternatives) > 1 for s in self.steps)


@dataclass(frozen=True, slots=True)
class Bar:
    """A ``not`` step: what must not stand behind the operator before."""

    step: Step


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to take a pattern. ``ops`` and ``given`` are by operator, those of the DAG part first, then the chain's.

    ``given``: for each argument of the pattern how many inputs it takes: 0 for an absent one, 1, or several for ``...``.
    """

    nodes: tuple[PatternNode, ...]
    chain: tuple[Link | Bar, ...]
    ops: tuple[str, ...]
    given: tuple[tuple[int, ...], ...]
    words: str

    @property
    def patterns(self) -> tuple[PatternNode, ...]:
        return (*self.nodes, *(link.pattern for link in self.chain if isinstance(link, Link)))


@lru_cache(maxsize=4096)
def schema_of(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The schema in force, None for vendors' operators."""
    domain, name = split(op)
    try:
        return onnx.defs.get_schema(name, domain=domain) if domain else onnx.defs.get_schema(name, opset, "")
    except onnx.defs.SchemaError:
        return None


def newest(op: str) -> onnx.defs.OpSchema | None:
    """The newest schema; arity and optional ports hardly ever change."""
    return schema_of(op, onnx.defs.onnx_opset_version())


def optional_port(schema: onnx.defs.OpSchema | None, port: int) -> bool:
    """True if an input may be left out. Of vendors' operators nothing is known, so it may."""
    if schema is None:
        return True
    if port >= len(schema.inputs):
        return port >= schema.min_input
    return schema.inputs[port].option == onnx.defs.OpSchema.FormalParameterOption.Optional


def variants(pattern: Pattern) -> tuple[Variant, ...]:
    """Each way to take a pattern, simplest first: fewest operators, then the fewest choices that differ from the plainest.

    At most 200; where there are more, each single choice is still among them as far as they reach.
    """
    structures = [
        (way.nodes, tuple(chain))
        for way in pattern.ways
        for chain in itertools.islice(_chains(way.tail, True, ()), STRUCTURES)
    ]
    structures.sort(key=lambda s: len(s[0]) + len(s[1]))
    plain = [_Choices(nodes, chain) for nodes, chain in structures]
    plain = [c for c in plain if c.possible]
    found: dict[Variant, None] = {}
    for distance in range(max((len(c.options) for c in plain), default=0) + 1):
        for choices in plain:
            for variant in choices.at(distance):
                found[variant] = None
                if len(found) == MOST:
                    return _sorted(found)
    return _sorted(found)


def _sorted(found: dict[Variant, None]) -> tuple[Variant, ...]:
    return tuple(sorted(found, key=lambda v: len(v.patterns)))  # stable: within a size, the plainest stays first


class _Choices:
    """What is left to choose once the steps are taken: operators, optional inputs, lengths of lists."""

    def __init__(self, nodes: tuple[PatternNode, ...], chain: tuple[Link | Bar, ...]) -> None:
        self.nodes = nodes
        self.chain = chain
        self.patterns = (*nodes, *(link.pattern for link in chain if isinstance(link, Link)))
        self.ops = [sorted(p.ops) for p in self.patterns]
        self.possible = all(self.ops)
        # One entry per choice: where it is, and how many ways there are.
        self.options: list[tuple[tuple[int, int], int]] = []
        seen: set[str] = set()
        for k, part in enumerate(self.patterns):
            if len(self.ops[k]) > 1:
                self.options.append(((k, -1), len(self.ops[k])))
            for a, arg in enumerate(part.args):
                if (
                    isinstance(arg, Capture)
                    and (arg.optional or arg.variadic)
                    and (arg.name == "_" or arg.name not in seen)
                ):
                    self.options.append(((k, a), len(LIST) if arg.variadic else 2))
                    seen.add(arg.name)

    def at(self, distance: int) -> Iterator[Variant]:
        """All variants with so many choices that are not the plainest."""
        for chosen in itertools.combinations(self.options, distance):
            for values in itertools.product(*(range(1, count) for _, count in chosen)):
                variant = self._variant({where: v for (where, _), v in zip(chosen, values, strict=True)})
                if variant is not None:
                    yield variant

    def _variant(self, taken: dict[tuple[int, int], int]) -> Variant | None:
        ops = tuple(names[taken.get((k, -1), 0)] for k, names in enumerate(self.ops))
        given: list[tuple[int, ...]] = []
        absent: list[str] = []
        present: dict[str, int] = {}
        for k, part in enumerate(self.patterns):
            schema = newest(ops[k])
            row: list[int] = []
            for a, arg in enumerate(part.args):
                count = 1
                if isinstance(arg, Capture) and (arg.optional or arg.variadic):
                    choice = taken.get((k, a), 0)
                    count = LIST[choice] if arg.variadic else choice
                    if arg.name in present:
                        count = present[arg.name]
                    elif schema is not None and not arg.variadic:
                        has_port = a < schema.max_input
                        if (choice == 1 and not has_port) or (
                            choice == 0 and has_port and not optional_port(schema, a)
                        ):
                            if choice == 1 or (k, a) in taken:
                                return None
                            count = 1  # the operator insists on it
                    if arg.name != "_":
                        present[arg.name] = count
                    if not count:
                        absent.append(arg.name)
                row.append(count)
            given.append(tuple(row))
        named = [n for n in dict.fromkeys(absent) if not n.startswith("_")]
        words = " -> ".join(ops) + (f", without {', '.join(named)}" if named else "")
        lists = [f"{n} tensors in {name}" for name, n in present.items() if n > 1]
        return Variant(self.nodes, self.chain, ops, tuple(given), ", ".join((words, *lists)))


def _chains(
    steps: tuple[PatternNode | Step | Pattern, ...], exclusive: bool, inside: tuple[Step, ...]
) -> Iterator[tuple[Link | Bar, ...]]:
    """All chains that steps stand for, short ones first. ``exclusive``: of the edge to an operator that comes first."""
    if not steps:
        yield ()
        return
    for first in _links(steps[0], exclusive, inside):
        for rest in _chains(steps[1:], True, inside):
            yield (*first, *rest)


def _links(
    step: PatternNode | Step | Pattern, exclusive: bool, inside: tuple[Step, ...]
) -> Iterator[tuple[Link | Bar, ...]]:
    if not isinstance(step, Step):
        nodes = step.nodes if isinstance(step, Pattern) else (step,)
        yield tuple(Link(node, exclusive and not k, inside, k) for k, node in enumerate(nodes))
        return
    if step.negative:
        yield (Bar(step),)
        return
    for count in range(step.low, step.high + 1):
        for chosen in itertools.product(tuple(once(step, inside)), repeat=count):
            yield tuple(itertools.chain.from_iterable(chosen))


def once(step: Step, inside: tuple[Step, ...] = ()) -> Iterator[tuple[Link | Bar, ...]]:
    """Each alternative of a step, as a chain; the edge of the step is that of the first operator in it."""
    for first, *rest in step.alternatives:
        head = replace(first, exclusive=step.exclusive) if isinstance(first, Step) else first
        yield from _chains((head, *rest), step.exclusive, (*inside, step))


def results_of(node: PatternNode) -> tuple[int, ...]:
    """Indices of the DAG nodes that a node reads from."""
    return tuple(a.node for a in node.args if isinstance(a, Result) and a.node >= 0)
