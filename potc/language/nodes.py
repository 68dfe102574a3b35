"""Nodes of patterns: operators with their arguments, and patterns by name, which are written out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from potc.diagnostics.source import Span
from potc.language import operators, syntax
from potc.language.conditions import Names
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, PatternNode, Require, Result, Step
from potc.language.scope import Member, Scope, check_operator, members
from potc.language.ways import FIRST, PREVIOUS, Part, Placed, Renaming, Way, labeled, moved, reads

MAX_NODES = 256
MAX_WAYS = 64
NOTHING = (Way(()),)


@dataclass(slots=True)
class Lowered:
    """What a pattern has brought along so far: lines and the nodes that make them, named results and the operators that
    may make them, captures, requirements.

    ``results``: names of the outputs of the last line or step. ``steps``: names of steps, each of which may be given once
    on every path. ``again``: a first step is written a second time, and its names with it.
    """

    lines: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> number of the node, output
    makers: dict[str, frozenset[str]] = field(default_factory=dict)
    captures: dict[str, Capture] = field(default_factory=dict)
    requires: list[Require] = field(default_factory=list)
    results: tuple[str, ...] = ()
    steps: frozenset[str] = frozenset()
    again: bool = False

    @property
    def several(self) -> frozenset[str]:
        """Captures that stand for any number of tensors."""
        return frozenset(name for name, capture in self.captures.items() if capture.variadic)

    def call(self, names: Iterable[str], ops: frozenset[str]) -> None:
        """Results by these names may be made by some of the operators."""
        self.makers.update((name, ops | self.makers.get(name, frozenset())) for name in names)


@dataclass(slots=True)
class Nodes:
    """``trail``: names of patterns that are being written out; ``sets``: operator sets of the device; ``given``: what
    parameters of kind ``ops`` stand for."""

    scope: Scope
    opsets: tuple[int, int]
    sets: Mapping[str, syntax.OpSet]
    features: Mapping[str, object]
    used: set[str] = field(default_factory=set)
    trail: tuple[str, ...] = ()
    budget: list[int] = field(default_factory=lambda: [1000])  # patterns that may still be written out, on all levels
    numbers: list[int] = field(default_factory=lambda: [FIRST])
    given: Mapping[str, str] = field(default_factory=dict[str, str])

    def body(self, body: syntax.Chain | syntax.Block, low: Lowered) -> tuple[Way, ...]:
        """The ways to match the body of a pattern."""
        raise NotImplementedError

    def number(self) -> int:
        self.numbers[0] += 1
        return self.numbers[0]

    def impossible(self, message: str, at: Span, help: str) -> None:
        self.scope.error("impossible-pattern", message, at, help)

    def joined(self, before: Sequence[Way], after: Sequence[Way], at: Span) -> tuple[Way, ...]:
        """Each way of one part with each way of the next."""
        if len(before) * len(after) > MAX_WAYS:
            self.impossible(f"this can begin in more than {MAX_WAYS} ways", at, "give it fewer choices")
            before, after = before[:1], after[:1]
        return tuple(Way((*a.dag, *b.dag), b.tail) for a in before for b in after)

    def names(self, low: Lowered, ops: frozenset[str] = frozenset()) -> Names:
        return Names(self.scope, self.opsets, self.features, frozenset(low.captures), low.makers, ops, low.several)

    def with_given(self, node: syntax.NodePattern) -> syntax.NodePattern:
        """The node with operators in the place of parameters."""
        self.used.update(op for op in node.ops if op in self.given)
        return replace(node, ops=tuple(self.given.get(op, op) for op in node.ops))

    def definition_of(self, node: syntax.NodePattern) -> syntax.PatternDefinition | None:
        return self.scope.patterns.get(node.ops[0]) if len(node.ops) == 1 else None

    # ------------------------------------------------------------------------------------------ operators

    def operator(
        self, node: syntax.NodePattern, low: Lowered, number: int, names: tuple[str, ...], in_chain: bool
    ) -> tuple[Way, ...]:
        """One operator with the operators that are its arguments; nothing after a mistake."""
        found = [
            m for op in node.ops for m in members(self.scope, syntax.OpTerm(op, (), node.span), self.sets, self.opsets)
        ]
        ops = frozenset(m.op for m in found)
        before: tuple[Way, ...] = NOTHING
        args: list[Arg] = []
        for arg in node.args or ():
            made, ways = self.arg(arg, low, in_chain)
            args.append(made)
            before = self.joined(before, ways, node.span)
        if not ops:
            return ()
        self._arity(ops, node, args)
        own = self.names(low, ops)
        conditions = tuple(own.checked(c) for c in node.conditions)
        self.used |= own.used
        common, refined = self._refined(found, low)
        made = PatternNode(ops, tuple(args), (*conditions, *common), None, node.span, (), refined)
        return self.joined(before, (labeled(Way((Placed(number, made),)), number, names),), node.span)

    def _refined(
        self, found: Sequence[Member], low: Lowered
    ) -> tuple[tuple[syntax.Expr, ...], tuple[tuple[str, syntax.Expr], ...]]:
        """Conditions that a set of operators brings along: those of all its operators, and those of single ones. An
        operator that a set lists several times may meet the conditions of any."""
        stated: dict[str, dict[tuple[syntax.Expr, ...], None]] = {}
        for member in found:
            alike = frozenset(m.op for m in found if m.conditions == member.conditions)
            names = self.names(low, alike)
            stated.setdefault(member.op, {})[tuple(names.checked(c) for c in member.conditions)] = None
            self.used |= names.used
        kinds = {tuple(listed) for listed in stated.values()}
        if len(kinds) == 1 and len(only := next(iter(kinds))) == 1:
            return only[0], ()
        refined: list[tuple[str, syntax.Expr]] = []
        for op, listed in sorted(stated.items()):
            if () not in listed:
                refined.append((op, _boolean("or", tuple(_boolean("and", conditions) for conditions in listed))))
        return (), tuple(refined)

    def _arity(self, ops: frozenset[str], node: syntax.NodePattern, args: Sequence[Arg]) -> None:
        for op in sorted(ops):
            schema = operators.operator(op, self.opsets, self.scope.domains)
            # An optional input that one operator of a set does not have is absent there.
            needed = max((k + 1 for k, a in enumerate(args) if not (isinstance(a, Capture) and a.optional)), default=0)
            needed = max(needed, len(args)) if len(ops) == 1 else needed
            if schema is not None and schema.most is not None and needed > schema.most:
                self.scope.error(
                    "wrong-arity",
                    f"{op} has at most {schema.most} input(s), the pattern names {needed}",
                    node.span,
                    f"its inputs are {', '.join(schema.inputs)}",
                )

    def arg(self, arg: syntax.PatternArg, low: Lowered, in_chain: bool) -> tuple[Arg, tuple[Way, ...]]:
        """One argument, and the ways to make it where it is an operator."""
        if isinstance(arg, syntax.ArgLiteral):
            return Literal(float(arg.value), float(arg.tolerance), arg.span), NOTHING
        if isinstance(arg, syntax.ArgPrevious):
            return Result(PREVIOUS, arg.span), NOTHING
        if isinstance(arg, syntax.ArgNested):
            number = self.number()
            ways = self._nested(arg.node, low, number, in_chain)
            if ways:
                return Result(number, arg.span), ways
            return Capture("_", Kind.ANY, False, False, arg.span), NOTHING
        if arg.name in low.lines and not in_chain:
            number, output = low.lines[arg.name]
            return Result(number, arg.span, output), NOTHING
        made = Capture(arg.name, Kind(arg.kind), arg.optional, arg.variadic, arg.span)
        if arg.name != "_" and arg.name not in low.captures:
            low.captures[arg.name] = made
        return made, NOTHING

    def _nested(self, node: syntax.NodePattern, low: Lowered, number: int, in_chain: bool) -> tuple[Way, ...]:
        node = self.with_given(node)
        definition = self.definition_of(node)
        if definition is None:
            return self.operator(node, low, number, (), in_chain)
        flat = (w for way in self.inlined(node, definition, low, in_chain, ()) for w in self.flat(way, node))
        return tuple(labeled(way, number, ()) for way in flat)

    # ------------------------------------------------------------------------------------------ patterns by name

    def inlined(
        self,
        node: syntax.NodePattern,
        definition: syntax.PatternDefinition,
        low: Lowered,
        in_chain: bool,
        names: tuple[str, ...],
    ) -> tuple[Way, ...]:
        """A pattern written out with its parameters replaced. Its results get the names; its other names become
        unreachable from outside. Nothing after a mistake."""
        name = definition.name
        if name in self.trail or len(self.trail) > 32:
            message = f"pattern `{name}` contains itself"
            self.scope.error("recursive-definition", message, definition.span, "patterns have no recursion")
            return ()
        self.budget[0] -= 1
        if self.budget[0] < 0:
            self.impossible(f"pattern `{name}` is written out too often", node.span, "match less")
            return ()
        args = node.args or ()
        if len(args) != len(definition.parameters):
            self.scope.error(
                "wrong-arity",
                f"pattern `{name}` takes {len(definition.parameters)} argument(s), found {len(args)}",
                node.span,
                "give as many as it takes",
                definition.span,
                "defined here",
            )
            return ()
        before: tuple[Way, ...] = NOTHING
        given: dict[str, Arg] = {}
        sets: dict[str, str] = {}
        for parameter, arg in zip(definition.parameters, args, strict=True):
            if parameter.kind == "ops":
                sets[parameter.name] = self._given_set(parameter, arg, name)
            else:
                given[parameter.name], ways = self._argument(parameter.kind, arg, low, in_chain)
                before = self.joined(before, ways, node.span)
        inner = Lowered()
        deeper = replace(self, used=set[str](), trail=(*self.trail, name), given=sets)
        ways = deeper.body(definition.match.body, inner)
        if any(len(way.dag) > MAX_NODES for way in ways):
            self.impossible(f"pattern `{name}` has more than {MAX_NODES} nodes", definition.span, "match less")
            return ()
        for require in definition.requires:
            checked = deeper.names(inner).checked(require.condition)
            inner.requires.append(Require(checked, require.reason, require.span))
        if names and not inner.results:
            ways = tuple(self.called(way, names[0], node.span) for way in ways if way.dag)
        renamed = self._renamed(ways, inner, given, dict(zip(inner.results, names, strict=False)), low)
        return self.joined(before, renamed, node.span)

    def _given_set(self, parameter: syntax.Parameter, arg: syntax.PatternArg, pattern: str) -> str:
        """The operator, set or pattern that an argument names."""
        if isinstance(arg, syntax.ArgCapture) and arg.kind == "any" and not (arg.optional or arg.variadic):
            self.used.update({arg.name} & self.given.keys())
            sets = (*self.sets, *self.scope.op_sets, *self.scope.patterns)
            known = arg.name in (*self.given, *sets)
            if known or check_operator(self.scope, arg.name, arg.span, self.opsets, sets):
                return self.given.get(arg.name, arg.name)
            return vendor(parameter.name)
        message = f"`{parameter.name}` of pattern `{pattern}` stands for operators"
        help_ = "give the name of an operator, or of a set (`ops NAME = ...`)"
        self.scope.error("unknown-operator", message, arg.span, help_, parameter.span, "declared here")
        return vendor(parameter.name)

    def _argument(self, kind: str, arg: syntax.PatternArg, low: Lowered, in_chain: bool) -> tuple[Arg, tuple[Way, ...]]:
        made, ways = self.arg(arg, low, in_chain)
        if isinstance(made, Capture) and made.kind is Kind.ANY and kind != "any":
            made = replace(made, kind=Kind(kind))
            if made.name != "_":
                low.captures[made.name] = made
        return made, ways

    def _renamed(
        self,
        ways: Iterable[Way],
        inner: Lowered,
        given: Mapping[str, Arg],
        results: Mapping[str, str],
        low: Lowered,
    ) -> tuple[Way, ...]:
        prefix = f"_{'_'.join(self.trail)}{self.number() - FIRST}_"
        private = {n: f"{prefix}{n}" for n in (*inner.captures, *inner.makers) if n not in given} | dict(results)
        renaming = Renaming(given, private)
        low.requires.extend(Require(renaming.expr(r.condition), r.reason, r.span) for r in inner.requires)
        for name, capture in inner.captures.items():
            if name not in given:
                low.captures[private[name]] = replace(capture, name=private[name])
        for name, ops in inner.makers.items():
            low.makers[private.get(name, name)] = ops
        return tuple(renaming.way(way) for way in ways if way.dag)

    def called(self, way: Way, name: str, at: Span) -> Way:
        """A way whose last tensor has a name."""
        if way.tail:
            return Way(way.dag, (Step((tuple(way.tail),), way.tail[0].exclusive, 1, 1, False, at, name),))
        last = way.dag[-1]
        if last.node.name not in (None, name):
            message = f"this is called `{last.node.name}` and `{name}`"
            self.scope.error("duplicate-name", message, at, "keep one of the names")
        return labeled(way, last.number, (name, *last.node.others))

    # ------------------------------------------------------------------------------------------ chains in DAGs

    def flat(self, way: Way, node: syntax.NodePattern) -> tuple[Way, ...]:
        """Ways without a chain: what the chain may match becomes part of the DAG. ``node``: where the pattern is used."""
        dags: tuple[tuple[Placed, ...], ...] = (way.dag,)
        for step in way.tail:
            dags = tuple(longer for dag in dags for longer in self._followed(dag, step, node))
        if len(dags) > MAX_WAYS:
            self.impossible(f"this can begin in more than {MAX_WAYS} ways", node.span, "give it fewer choices")
        return tuple(Way(dag) for dag in dags[:MAX_WAYS])

    def _followed(
        self, dag: tuple[Placed, ...], part: Part, node: syntax.NodePattern
    ) -> tuple[tuple[Placed, ...], ...]:
        """A DAG with one part of a chain behind it, in all ways."""
        if isinstance(part, Step):
            return self._repeated(dag, part, node)
        nodes = part.nodes if isinstance(part, Pattern) else (part,)
        if not any(reads(n, PREVIOUS) for n in nodes):
            message = f"a step of `{node.ops[0]}` does not say where it takes the one before"
            self.impossible(message, node.span, "write `prev` in the place of an input")
        numbers = {PREVIOUS: dag[-1].number, **{place: self.number() for place in range(len(nodes))}}
        return ((*dag, *(Placed(numbers[place], moved(n, numbers)) for place, n in enumerate(nodes))),)

    def _repeated(
        self, dag: tuple[Placed, ...], step: Step, node: syntax.NodePattern
    ) -> tuple[tuple[Placed, ...], ...]:
        if step.negative or not step.exclusive:
            message = f"`{'not' if step.negative else '~>'}` in `{node.ops[0]}` means something in a chain only"
            self.impossible(message, node.span, f"use `{node.ops[0]}` as a step, or as the last line")
            return (dag,)
        found: list[tuple[Placed, ...]] = [dag] if step.low == 0 else []
        now: list[tuple[Placed, ...]] = [dag]
        for count in range(1, step.high + 1):
            longer: list[tuple[Placed, ...]] = []
            for sequence in step.alternatives:
                several = tuple(now)
                for part in sequence:
                    several = tuple(d for start in several for d in self._followed(start, part, node))[: MAX_WAYS + 1]
                longer.extend(several)
            now = longer[: MAX_WAYS + 1]
            if count >= step.low:
                found.extend(d if step.name is None else self.called(Way(d), step.name, node.span).dag for d in now)
        return tuple(found[: MAX_WAYS + 1])


def vendor(name: str) -> str:
    """An operator of which nothing is known, for a parameter that stands for any."""
    return f"{name}::{name}"


def _boolean(op: str, operands: tuple[syntax.Expr, ...]) -> syntax.Expr:
    return operands[0] if len(operands) == 1 else syntax.Boolean(op, operands, operands[0].span)
