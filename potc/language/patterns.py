"""Patterns: chains and blocks become nodes and steps; patterns that are used by name are written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from potc.diagnostics.source import Span
from potc.language import operators, syntax
from potc.language.conditions import Names
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, PatternNode, Require, Result, Step
from potc.language.scope import Scope, members

MAX_NODES = 256
PREVIOUS = -1


@dataclass(slots=True)
class Lowered:
    """A pattern on its way: nodes so far, which name is which node, what is captured, requirements that came along."""

    nodes: list[PatternNode] = field(default_factory=list)
    tail: list[Step] = field(default_factory=list)
    results: dict[str, int] = field(default_factory=dict)  # names of DAG nodes
    makers: dict[str, frozenset[str]] = field(default_factory=dict)  # every named result -> operators
    captures: dict[str, Capture] = field(default_factory=dict)
    requires: list[Require] = field(default_factory=list)
    result: str | None = None


@dataclass(slots=True)
class Lowering:
    """Lowers the patterns of one device. ``trail``: names of patterns that are being written out."""

    scope: Scope
    opsets: tuple[int, int]
    sets: Mapping[str, syntax.OpSet]
    features: Mapping[str, object]
    used: set[str] = field(default_factory=set)
    trail: tuple[str, ...] = ()
    budget: list[int] = field(
        default_factory=lambda: [1000]
    )  # patterns that may still be written out, shared by all levels

    def pattern(self, match: syntax.Match) -> tuple[Pattern, Lowered]:
        """The whole pattern. Mistakes are told; the result is then only good for finding more of them."""
        low = Lowered()
        self.body(match.body, low)
        if len(low.nodes) + len(low.tail) > MAX_NODES:
            self.scope.error(
                "impossible-pattern", f"this pattern has more than {MAX_NODES} nodes", match.span, "match less"
            )
        return Pattern(tuple(low.nodes), tuple(low.tail), low.result, match.span), low

    def definition(self, pattern: syntax.PatternDefinition) -> None:
        """Checks a pattern on its own, its parameters captured as they are."""
        low = Lowered()
        deeper = replace(self, trail=(*self.trail, pattern.name))
        deeper.body(pattern.match.body, low)
        for parameter in pattern.parameters:
            if parameter.name not in low.captures and parameter.kind != "ops":
                self.scope.error(
                    "unbound-name",
                    f"pattern `{pattern.name}` does not use its parameter `{parameter.name}`",
                    parameter.span,
                    "use it, or remove it",
                )
        for require in pattern.requires:
            deeper._names(low).checked(require.condition)

    def body(self, body: syntax.Chain | syntax.Block, low: Lowered) -> None:
        if isinstance(body, syntax.Block):
            self._block(body, low)
        else:
            self._chain(body, low)

    # ------------------------------------------------------------------------------------------ lines

    def _block(self, block: syntax.Block, low: Lowered) -> None:
        later = {name: bind for bind in block.binds for name in bind.names}
        for bind in block.binds:
            for name in bind.names:
                later.pop(name, None)
            node = replace(bind.node, args=tuple(self._line_arg(a, later) for a in bind.node.args or ()))
            if len(bind.names) > 1:
                self.scope.not_supported(
                    "naming more than the first output of a node", bind.span, "name the first output only"
                )
            name = next(iter(bind.names))
            if name in low.results or name in low.captures:
                self.scope.error("duplicate-name", f"`{name}` is bound twice", bind.span, "give each line its own name")
            index = self._node(node, low, name)
            low.results[name] = index
            low.result = name
        self._reached(block, low)

    def _line_arg(self, arg: syntax.PatternArg, later: Mapping[str, syntax.Bind]) -> syntax.PatternArg:
        """Tells what a line can't be given; such an argument then stands for anything."""
        nothing = syntax.ArgCapture("_", "any", False, False, arg.span)
        if isinstance(arg, syntax.ArgCapture) and arg.name in later:
            message = f"`{arg.name}` is used before its line"
            self.scope.error("unbound-name", message, arg.span, "move its line up", later[arg.name].span, "its line")
            return nothing
        if isinstance(arg, syntax.ArgPrevious):
            message = "`prev` means something in a chain of `->` only"
            self.scope.error("unbound-name", message, arg.span, "write the name of the line")
            return nothing
        return arg

    def _reached(self, block: syntax.Block, low: Lowered) -> None:
        """Every line must lead to the last one: the match is found from there."""
        if -1 in low.results.values():
            return  # a line was told to be wrong already
        waiting, seen = [len(low.nodes) - 1], set[int]()
        while waiting:
            index = waiting.pop()
            if index not in seen and index >= 0:
                seen.add(index)
                waiting.extend(a.node for a in low.nodes[index].args if isinstance(a, Result))
        for bind in block.binds:
            if low.results.get(bind.names[0], -1) not in seen:
                self.scope.error(
                    "unreached-line",
                    f"`{bind.names[0]}` does not lead to the last line",
                    bind.span,
                    "use it, or remove the line",
                )

    # ------------------------------------------------------------------------------------------ chains

    def _chain(self, chain: syntax.Chain, low: Lowered) -> None:
        first, *rest = chain.steps
        head = _single(first)
        if head is None or first.negative or (first.low, first.high) != (1, 1):
            self.scope.not_supported(
                "a choice, repetition or `not` as the first step", first.span, "begin with one operator, or `any(A, B)`"
            )
            return
        last = not rest
        index = self._node(head, low, first.name)
        low.result = first.name if first.name is not None else low.result if last else None
        if first.name is not None:
            low.results[first.name] = index
            low.makers[first.name] = low.nodes[index].ops if index >= 0 else frozenset()
        for k, step in enumerate(rest):
            lowered = self._step(step, low, k == len(rest) - 1)
            if lowered is not None:
                low.tail.append(lowered)
        if rest:
            self._result(tuple(rest), low)

    def _result(self, steps: tuple[syntax.ChainStep, ...], low: Lowered) -> None:
        """The name of the last step is the result, and may be made by an earlier node where the last steps are optional."""
        name = steps[-1].name
        low.result = name
        if name is None:
            return
        ops: set[str] = set()
        for step in reversed(low.tail):
            ops |= _last_ops(step)
            if step.low > 0 and not step.negative:
                break
        else:
            ops |= low.nodes[-1].ops if low.nodes else frozenset()
        low.makers[name] = frozenset(ops)

    def _step(self, step: syntax.ChainStep, low: Lowered, last: bool) -> Step | None:
        bodies = step.alternatives if isinstance(step.alternatives, tuple) else (step.alternatives,)
        exclusive = step.edge != "~>"
        alternatives: list[tuple[PatternNode | Step, ...]] = []
        name = None if last else step.name
        for body in bodies:
            sequence = self._sequence(body, low, name)
            if sequence:
                alternatives.append(sequence)
        if step.negative and step.name is not None:
            self.scope.error(
                "unbound-name", f"`{step.name}` names a step that must not be there", step.span, "remove `as`"
            )
        if not alternatives:
            return None
        made = Step(tuple(alternatives), exclusive, step.low, step.high, step.negative, step.span)
        if name is not None:
            if name in low.makers or name in low.captures:
                self.scope.error("duplicate-name", f"`{name}` is bound twice", step.span, "give each step its own name")
            low.makers[name] = frozenset(_last_ops(made))
        return made

    def _sequence(
        self, body: syntax.Chain | syntax.NodePattern, low: Lowered, name: str | None
    ) -> tuple[PatternNode | Step, ...]:
        if isinstance(body, syntax.NodePattern):
            return self._tail_node(body, low, name)
        found: list[PatternNode | Step] = []
        for k, step in enumerate(body.steps):
            label = step.name if step.name is not None else name if k == len(body.steps) - 1 else None
            single = _single(step)
            if k == 0 and single is not None and (step.low, step.high, step.negative) == (1, 1, False):
                found.extend(self._tail_node(single, low, label))
                continue
            inner = self._step(replace(step, name=label, edge=step.edge or "->"), low, False)
            if inner is not None:
                found.append(inner)
        return tuple(found)

    def _tail_node(self, node: syntax.NodePattern, low: Lowered, name: str | None) -> tuple[PatternNode | Step, ...]:
        definition = self._definition(node)
        if definition is None:
            made = self._plain(node, low, name, in_chain=True)
            return () if made is None else (made,)
        inner = self._inlined(node, definition, low)
        if inner is None:
            return ()
        if len(inner.nodes) > 1:
            self.scope.not_supported(
                "a pattern of several lines as a later step of a chain", node.span, "write it first, or as lines"
            )
            return ()
        head = replace(inner.nodes[0], name=name if not inner.tail else inner.nodes[0].name)
        return (head, *inner.tail)

    # ------------------------------------------------------------------------------------------ nodes

    def _definition(self, node: syntax.NodePattern) -> syntax.PatternDefinition | None:
        return self.scope.patterns.get(node.ops[0]) if len(node.ops) == 1 else None

    def _node(self, node: syntax.NodePattern, low: Lowered, name: str | None) -> int:
        """Adds a node of the DAG part, or all nodes of a pattern; the index of the one that gives the result (-1: a mistake)."""
        definition = self._definition(node)
        if definition is not None:
            inner = self._inlined(node, definition, low)
            if inner is None:
                return -1
            offset = len(low.nodes)
            low.nodes.extend(_shifted(n, offset) for n in inner.nodes)
            low.tail.extend(inner.tail)
            low.result = inner.result
            index = len(low.nodes) - 1
            if name is not None and not inner.tail and index >= offset:
                low.nodes[index] = replace(low.nodes[index], name=name)
        else:
            made = self._plain(node, low, name, in_chain=False)
            if made is None:
                return -1
            low.nodes.append(made)
            index = len(low.nodes) - 1
        if name is not None and index >= 0:
            low.makers[name] = low.nodes[index].ops
        return index

    def _plain(self, node: syntax.NodePattern, low: Lowered, name: str | None, in_chain: bool) -> PatternNode | None:
        found = [
            m for op in node.ops for m in members(self.scope, syntax.OpTerm(op, (), node.span), self.sets, self.opsets)
        ]
        ops = frozenset(m.op for m in found)
        if not ops:
            for arg in node.args or ():  # what it would have captured is known to the rest of the rule
                if isinstance(arg, syntax.ArgCapture):
                    self._capture(arg, low)
            return None
        refined = {m.conditions for m in found}
        if len(refined) > 1:
            self.scope.not_supported(
                "a set whose operators have different conditions, in a pattern", node.span, "write the alternatives out"
            )
        args = tuple(self._arg(arg, low, in_chain) for arg in node.args or ())
        self._arity(ops, node, args)
        names = self._names(low, ops)
        conditions = tuple(names.checked(c) for c in (*node.conditions, *next(iter(refined))))
        self.used |= names.used
        return PatternNode(ops, args, conditions, name, node.span)

    def _names(self, low: Lowered, ops: frozenset[str] = frozenset()) -> Names:
        return Names(self.scope, self.opsets, self.features, frozenset(low.captures), low.makers, ops)

    def _arity(self, ops: frozenset[str], node: syntax.NodePattern, args: tuple[Arg, ...]) -> None:
        for op in sorted(ops):
            schema = operators.operator(op, self.opsets)
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

    def _arg(self, arg: syntax.PatternArg, low: Lowered, in_chain: bool) -> Arg:
        if isinstance(arg, syntax.ArgLiteral):
            return Literal(float(arg.value), float(arg.tolerance), arg.span)
        if isinstance(arg, syntax.ArgPrevious):
            if not in_chain and not self.trail:
                self.scope.error(
                    "unbound-name", "`prev` is the step before, and there is none", arg.span, "name the input"
                )
            return Result(PREVIOUS, arg.span)
        if isinstance(arg, syntax.ArgNested):
            if in_chain:
                self.scope.not_supported(
                    "an operator as an argument of a later step", arg.span, "write the pattern as lines"
                )
                return Capture("_", Kind.ANY, False, False, arg.span)
            index = self._node(arg.node, low, None)
            return Result(index, arg.span) if index >= 0 else Capture("_", Kind.ANY, False, False, arg.span)
        if arg.name in low.results and not in_chain:
            return Result(low.results[arg.name], arg.span)
        return self._capture(arg, low)

    def _capture(self, arg: syntax.ArgCapture, low: Lowered) -> Capture:
        made = Capture(arg.name, Kind(arg.kind), arg.optional, arg.variadic, arg.span)
        if arg.name != "_" and arg.name not in low.captures:
            low.captures[arg.name] = made
        return made

    # ------------------------------------------------------------------------------------------ patterns by name

    def _inlined(self, node: syntax.NodePattern, definition: syntax.PatternDefinition, low: Lowered) -> Lowered | None:
        """A pattern written out with its parameters replaced; its other names become unreachable from outside."""
        name = definition.name
        if name in self.trail or len(self.trail) > 32:
            self.scope.error(
                "recursive-definition",
                f"pattern `{name}` contains itself",
                definition.span,
                "patterns have no recursion",
            )
            return None
        self.budget[0] -= 1
        if self.budget[0] < 0:
            self.scope.error(
                "impossible-pattern", f"pattern `{name}` is written out too often", node.span, "match less"
            )
            return None
        if any(p.kind == "ops" for p in definition.parameters):
            self.scope.not_supported("a parameter that is an operator set", definition.span)
            return None
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
            return None
        given = {p.name: self._argument(p.kind, a, low) for p, a in zip(definition.parameters, args, strict=True)}
        inner = Lowered()
        deeper = Lowering(self.scope, self.opsets, self.sets, self.features, set(), (*self.trail, name), self.budget)
        deeper.body(definition.match.body, inner)
        if len(inner.nodes) > MAX_NODES:
            self.scope.error(
                "impossible-pattern", f"pattern `{name}` has more than {MAX_NODES} nodes", definition.span, "match less"
            )
            return None
        for require in definition.requires:
            names = deeper._names(inner)
            inner.requires.append(Require(names.checked(require.condition), require.reason, require.span))
        return self._renamed(inner, given, node.span, low)

    def _argument(self, kind: str, arg: syntax.PatternArg, low: Lowered) -> Arg:
        made = self._arg(arg, low, in_chain=isinstance(arg, syntax.ArgPrevious))
        if isinstance(made, Capture) and made.kind is Kind.ANY and kind != "any":
            made = replace(made, kind=Kind(kind))
            if made.name != "_":
                low.captures[made.name] = made
        return made

    def _renamed(self, inner: Lowered, given: Mapping[str, Arg], at: Span, low: Lowered) -> Lowered:
        number = sum(1 for n in (*low.captures, *low.makers) if n.startswith("_")) + len(low.nodes) + len(low.tail)
        private = {
            n: f"_{'_'.join(self.trail)}{number}_{n}" for n in (*inner.captures, *inner.makers) if n not in given
        }
        renaming = _Renaming(given, private)
        result = Lowered(
            nodes=[renaming.node(n) for n in inner.nodes],
            tail=[renaming.step(t) for t in inner.tail],
            requires=[Require(renaming.expr(r.condition), r.reason, r.span) for r in inner.requires],
            result=None,
        )
        low.requires.extend(result.requires)
        for name, capture in inner.captures.items():
            if name not in given:
                low.captures[private[name]] = replace(capture, name=private[name])
        for name, ops in inner.makers.items():
            low.makers[private.get(name, name)] = ops
        return result


def _single(step: syntax.ChainStep) -> syntax.NodePattern | None:
    return step.alternatives if isinstance(step.alternatives, syntax.NodePattern) else None


def _last_ops(step: Step) -> set[str]:
    """Operators that may be the last node of a step."""
    ops: set[str] = set()
    for sequence in step.alternatives:
        last = sequence[-1]
        ops |= last.ops if isinstance(last, PatternNode) else _last_ops(last)
    return ops


def _shifted(node: PatternNode, offset: int) -> PatternNode:
    """The node after ``offset`` others: references inside the inlined pattern move; marked outer ones are final."""
    args = tuple(
        Result(a.node - _OUTER if a.node >= _OUTER else a.node + offset, a.span)
        if isinstance(a, Result) and a.node >= 0
        else a
        for a in node.args
    )
    return replace(node, args=args)


_OUTER = 1 << 20  # marks references from inside a pattern to nodes of its user until both are in one list


@dataclass(frozen=True, slots=True)
class _Renaming:
    """Puts arguments for parameters, and private names for the rest."""

    given: Mapping[str, Arg]
    private: Mapping[str, str]

    def node(self, node: PatternNode) -> PatternNode:
        name = None if node.name is None else self.private.get(node.name, node.name)
        args = tuple(self._arg(a) for a in node.args)
        return PatternNode(node.ops, args, tuple(self.expr(c) for c in node.conditions), name, node.span)

    def _arg(self, arg: Arg) -> Arg:
        if not isinstance(arg, Capture) or arg.name == "_":
            return arg
        given = self.given.get(arg.name)
        if isinstance(given, Result):
            return Result(given.node + _OUTER if given.node >= 0 else given.node, given.span)
        if isinstance(given, Capture):
            kind = arg.kind if given.kind is Kind.ANY else given.kind
            return replace(given, kind=kind, optional=given.optional or arg.optional)
        return given if given is not None else replace(arg, name=self.private.get(arg.name, arg.name))

    def step(self, step: Step) -> Step:
        sequences = tuple(
            tuple(self.node(n) if isinstance(n, PatternNode) else self.step(n) for n in s) for s in step.alternatives
        )
        return replace(step, alternatives=sequences)

    def expr(self, expr: syntax.Expr) -> syntax.Expr:
        return _rename(expr, {**self.private, **{p: a.name for p, a in self.given.items() if isinstance(a, Capture)}})


def _rename(expr, names: Mapping[str, str]):  # type: ignore[no-untyped-def]
    if isinstance(expr, syntax.Name):
        return replace(expr, name=names.get(expr.name, expr.name))
    changes = {}
    for key in (
        "target",
        "index",
        "operand",
        "left",
        "right",
        "low",
        "high",
        "item",
        "members",
        "args",
        "items",
        "operands",
    ):
        part = getattr(expr, key, None)
        if isinstance(part, tuple):
            changes[key] = tuple(_rename(p, names) for p in part)
        elif part is not None and not isinstance(part, str):
            changes[key] = _rename(part, names)
    return replace(expr, **changes) if changes else expr
