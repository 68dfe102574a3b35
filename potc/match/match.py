"""Patterns meet a snapshot: anchored walks that follow ports in order, never a general subgraph search.

A pattern is compiled once into a walk. It starts at one anchor (the last node of its DAG part), goes to producers port by
port, tries both orders only where the operator is declared commutative, then follows the chain part to the only reader
of the tensor before. The same walk with a ``Trail`` remembers why it stopped, for ``explain``: one engine, not two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from potc.diagnostics.source import Span
from potc.graph.snapshot import Snapshot
from potc.language.expression import ExpressionError, UnknownValue, describe
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, PatternNode, Require, Result, Signature, Step
from potc.language.syntax import Expr
from potc.match.environment import MatchEnvironment, Scope, compiled


@dataclass(frozen=True, slots=True)
class Bound:
    """A tensor under a pattern's name. ``node`` and ``port`` are where the match reads it; port -1: ``node`` makes it."""

    tensor: int
    node: int
    port: int


Binding = Bound | tuple[Bound, ...] | None  # one tensor, a variadic capture, an optional input that is absent


@dataclass(frozen=True, slots=True)
class Match:
    """Covered nodes in data-flow order of the pattern (DAG part, then chain), and what every name is bound to."""

    nodes: tuple[int, ...]
    bindings: Mapping[str, Binding]
    result: int  # the tensor that the last node makes


@dataclass(slots=True)
class Trail:
    """The deepest place that a walk reached, and why it ended there. ``steps`` counts matched nodes."""

    steps: int = -1
    reason: str = ""
    at: Span | None = None

    def stop(self, steps: int, reason: str, at: Span) -> None:
        if steps > self.steps:
            self.steps, self.reason, self.at = steps, reason, at


@dataclass(frozen=True, slots=True)
class _State:
    """A partial match; extended by making a new one."""

    nodes: tuple[int, ...]
    bindings: Mapping[str, Binding]
    matched: Mapping[int, int]  # pattern node index -> node

    def bind(self, name: str, binding: Binding) -> _State:
        return _State(self.nodes, {**self.bindings, name: binding}, self.matched)


class Matcher:
    """One pattern with its requirements, ready to be matched anywhere in one snapshot."""

    def __init__(
        self,
        pattern: Pattern,
        requires: tuple[Require, ...],
        snapshot: Snapshot,
        scope: Scope,
        signatures: Mapping[str, Signature],
    ) -> None:
        self._pattern = pattern
        self._snapshot = snapshot
        self._scope = scope
        self._commutative = frozenset(op for op, signature in signatures.items() if signature.commutative)
        self._requires = requires
        self._unbound: dict[str, Binding] = dict.fromkeys(_names(pattern))
        self._needs_closure = len(pattern.nodes) > 1

    @property
    def anchor_ops(self) -> frozenset[str]:
        """The operators at which a match can be anchored."""
        return self._pattern.nodes[-1].ops

    def matches(self, anchor: int, trail: Trail | None = None) -> Iterator[Match]:
        """All matches anchored at a node, one per choice of optional steps, longest first."""
        head = len(self._pattern.nodes) - 1
        found: list[Match] = []
        for state in self._dag(head, anchor, _State((), {}, {}), trail):
            if self._needs_closure and not self._closed(state, trail):
                continue
            for done in self._chain(self._pattern.tail, anchor, state, trail):
                match = self._finish(done, trail)
                if match is not None and all(match.nodes != other.nodes for other in found):
                    found.append(match)
        found.sort(key=lambda m: -len(m.nodes))
        yield from found

    # ------------------------------------------------------------------------------------------ DAG part

    def _dag(self, index: int, node: int, state: _State, trail: Trail | None) -> Iterator[_State]:
        known = state.matched.get(index)
        if known is not None:
            if known == node:
                yield state
            return
        pattern = self._pattern.nodes[index]
        for placed in self._node(pattern, node, state, None, trail):
            yield _State(placed.nodes, placed.bindings, {**placed.matched, index: node})

    def _node(
        self, pattern: PatternNode, node: int, state: _State, prev: int | None, trail: Trail | None
    ) -> Iterator[_State]:
        """Matches one operator with all its inputs; ``prev`` is the tensor that a chain step arrives by."""
        snapshot = self._snapshot
        if snapshot.ops[node] not in pattern.ops:
            if trail is not None:
                trail.stop(
                    len(state.nodes),
                    f"`{snapshot.names[node]}` is {snapshot.ops[node]}, wanted {_one_of(pattern.ops)}",
                    pattern.span,
                )
            return
        if node in state.nodes or not snapshot.outputs[node] or snapshot.outputs[node][0] < 0:
            return  # taken already, or its first output, which patterns speak of, is left out
        for order in self._orders(pattern, node):
            for placed in self._args(pattern.args, 0, node, order, state, prev, trail):
                done = _State((*placed.nodes, node), placed.bindings, placed.matched)
                made = snapshot.outputs[node][0]
                if pattern.name is not None:
                    done = done.bind(pattern.name, Bound(made, node, -1))
                if self._conditions(pattern, node, done, trail):
                    yield done

    def _orders(self, pattern: PatternNode, node: int) -> tuple[tuple[int, ...], ...]:
        ports = tuple(range(len(self._snapshot.inputs[node])))
        if len(pattern.args) == 2 and len(ports) == 2 and self._snapshot.ops[node] in self._commutative:
            return (ports, ports[::-1])
        return (ports,)

    def _args(
        self,
        args: tuple[Arg, ...],
        k: int,
        node: int,
        order: tuple[int, ...],
        state: _State,
        prev: int | None,
        trail: Trail | None,
    ) -> Iterator[_State]:
        """Inputs from the ``k``-th on. Only a node of the DAG part can match in several ways; the rest is one straight line."""
        if not args and prev is not None:
            args = (Result(-1, self._pattern.span),)
        bindings = dict(state.bindings)
        while k < len(args):
            arg = args[k]
            port = order[k] if k < len(order) else -1
            tensor = self._snapshot.inputs[node][port] if port >= 0 else -1
            if isinstance(arg, Result) and arg.node >= 0:
                placed = _State(state.nodes, bindings, state.matched)
                for inner in self._made_by(arg, tensor, node, port, placed, trail):
                    yield from self._args(args, k + 1, node, order, inner, prev, trail)
                return
            if isinstance(arg, Capture) and arg.variadic:
                reason = self._variadic(arg, node, order[k:], bindings)
                k = len(args)
            else:
                reason = self._input(arg, tensor, node, port, bindings, prev)
                k += 1
            if reason:
                if trail is not None:
                    trail.stop(len(state.nodes), f"input {port} of `{self._snapshot.names[node]}` {reason}", arg.span)
                return
        yield _State(state.nodes, bindings, state.matched)

    def _made_by(
        self, arg: Result, tensor: int, node: int, port: int, state: _State, trail: Trail | None
    ) -> Iterator[_State]:
        """An input that another node of the DAG part makes."""
        snapshot = self._snapshot
        source = snapshot.producer[tensor] if tensor >= 0 else -1
        if source >= 0 and snapshot.outputs[source][0] == tensor:
            yield from self._dag(arg.node, source, state, trail)
        elif trail is not None:
            wanted = _one_of(self._pattern.nodes[arg.node].ops)
            words = f"input {port} of `{snapshot.names[node]}` is not made by {wanted}"
            trail.stop(len(state.nodes), words, arg.span)

    def _input(
        self, arg: Arg, tensor: int, node: int, port: int, bindings: dict[str, Binding], prev: int | None
    ) -> str:
        """Binds one input, or says why it does not fit."""
        if isinstance(arg, Result):
            return "" if tensor == prev else "is not the tensor before"
        if isinstance(arg, Literal):
            return self._literal(arg, tensor)
        reason = self._capture(arg, tensor, bindings)
        if not reason and arg.name != "_":
            bindings[arg.name] = Bound(tensor, node, port) if tensor >= 0 else None
        return reason

    def _capture(self, arg: Capture, tensor: int, bindings: Mapping[str, Binding]) -> str:
        """Why the tensor can't be captured; empty if it can."""
        if tensor < 0:
            return "" if arg.optional else "is absent"
        constant = self._snapshot.is_constant(tensor)
        if arg.kind is Kind.CONST and not constant:
            return f"(`{self._snapshot.tensors[tensor]}`) is computed, wanted a constant"
        if arg.kind is Kind.VALUE and constant:
            return f"(`{self._snapshot.tensors[tensor]}`) is a constant, wanted a computed tensor"
        before = bindings.get(arg.name)
        if isinstance(before, Bound) and arg.name != "_" and before.tensor != tensor:
            return f"is another tensor than the `{arg.name}` before"
        return ""

    def _literal(self, arg: Literal, tensor: int) -> str:
        if tensor < 0 or not self._snapshot.is_constant(tensor):
            return f"is not the constant {arg.value:g}"
        value = self._snapshot.value(tensor)
        if (
            value.dtype.kind not in "fiu"
            or value.size == 0
            or (abs(value - arg.value) > arg.tolerance * max(abs(arg.value), 1e-30)).any()
        ):
            return f"is not {arg.value:g}"
        return ""

    def _variadic(self, arg: Capture, node: int, ports: tuple[int, ...], bindings: dict[str, Binding]) -> str:
        """Binds all further inputs under one name, or says why one does not fit."""
        single = Capture("_", arg.kind, True, False, arg.span)
        bound: list[Bound] = []
        for port in ports:
            tensor = self._snapshot.inputs[node][port]
            reason = self._capture(single, tensor, bindings)
            if reason:
                return reason
            if tensor >= 0:
                bound.append(Bound(tensor, node, port))
        bindings[arg.name] = tuple(bound)
        return ""

    def _closed(self, state: _State, trail: Trail | None) -> bool:
        """True if no inner tensor of the DAG part is read from outside of it."""
        inside = set(state.nodes)
        last = state.matched[len(self._pattern.nodes) - 1]
        for node in state.nodes:
            if node == last:
                continue
            for tensor in self._snapshot.outputs[node]:
                if tensor < 0:
                    continue
                outside = tensor in self._snapshot.graph_outputs or any(
                    c not in inside for c, _ in self._snapshot.consumers[tensor]
                )
                if outside:
                    if trail is not None:
                        trail.stop(
                            len(state.nodes),
                            f"`{self._snapshot.tensors[tensor]}` is also read outside of the pattern",
                            self._pattern.span,
                        )
                    return False
        return True

    # ------------------------------------------------------------------------------------------ chain part

    def _chain(
        self, steps: tuple[PatternNode | Step, ...], node: int, state: _State, trail: Trail | None
    ) -> Iterator[_State]:
        if not steps:
            yield state
            return
        step, rest = steps[0], steps[1:]
        if isinstance(step, PatternNode):
            for after, placed in self._follow(step, True, node, state, trail):
                yield from self._chain(rest, after, placed, trail)
            return
        if step.negative:
            if self._forbidden(step, node, state):
                if trail is not None:
                    trail.stop(len(state.nodes), "a reader is one that the pattern excludes", step.span)
                return
            yield from self._chain(rest, node, state, trail)
            return
        yield from self._repeat(step, 0, rest, node, state, trail)

    def _repeat(
        self,
        step: Step,
        count: int,
        rest: tuple[PatternNode | Step, ...],
        node: int,
        state: _State,
        trail: Trail | None,
    ) -> Iterator[_State]:
        if count < step.high:
            for placed in self._once(step, node, state, trail):
                yield from self._repeat(step, count + 1, rest, placed.nodes[-1], placed, trail)
        if count >= step.low:
            yield from self._chain(rest, node, state, trail)

    def _once(self, step: Step, node: int, state: _State, trail: Trail | None) -> Iterator[_State]:
        """Each alternative once; the edge of the step is that of the first step in it."""
        for first, *more in step.alternatives:
            if isinstance(first, Step):
                inner = replace(first, exclusive=step.exclusive)
                yield from self._chain((inner, *more), node, state, trail)
                continue
            for after, placed in self._follow(first, step.exclusive, node, state, trail):
                yield from self._chain(tuple(more), after, placed, trail)

    def _follow(
        self, pattern: PatternNode, exclusive: bool, node: int, state: _State, trail: Trail | None
    ) -> Iterator[tuple[int, _State]]:
        """One step along the edge from a node's first output to a reader."""
        snapshot = self._snapshot
        tensor = snapshot.outputs[node][0]
        readers = snapshot.consumers[tensor]
        if exclusive and not snapshot.has_one_reader(tensor):
            if trail is not None:
                words = f"step `{_one_of(pattern.ops)}` stopped: {self._readers(tensor)}"
                trail.stop(len(state.nodes), words, pattern.span)
            return
        for reader in dict.fromkeys(c for c, port in readers if port >= 0):
            for placed in self._node(pattern, reader, state, tensor, trail):
                yield reader, placed

    def _readers(self, tensor: int) -> str:
        """Who reads a tensor, in words."""
        readers = tuple(dict.fromkeys(self._snapshot.consumers[tensor]))  # a nested graph may read it several times
        name = self._snapshot.tensors[tensor]
        if not readers:
            return (
                f"`{name}` is what the model returns"
                if tensor in self._snapshot.graph_outputs
                else f"nobody reads `{name}`"
            )
        names = ", ".join(self._snapshot.names[c] for c, _ in readers[:4])
        also = ", and the model returns it" if tensor in self._snapshot.graph_outputs else ""
        many = "consumer" if len(readers) == 1 else "consumers"
        return f"`{name}` has {len(readers)} {many} ({names}){also}"

    def _forbidden(self, step: Step, node: int, state: _State) -> bool:
        """True if what a ``not`` names stands behind a node, whoever else reads the tensor between."""
        return next(self._once(replace(step, exclusive=False), node, state, None), None) is not None

    # ------------------------------------------------------------------------------------------ conditions

    def _conditions(self, pattern: PatternNode, node: int, state: _State, trail: Trail | None) -> bool:
        if not pattern.conditions:
            return True
        environment = MatchEnvironment(self._snapshot, self._scope, state.bindings, node)
        for condition in pattern.conditions:
            if not is_true(condition, environment):
                if trail is not None:
                    trail.stop(len(state.nodes), why_not(condition, environment), pattern.span)
                return False
        return True

    def _finish(self, state: _State, trail: Trail | None) -> Match | None:
        last = state.nodes[-1]
        result = self._snapshot.outputs[last][0]
        bindings = {**self._unbound, **state.bindings}
        if self._pattern.result is not None:
            bindings[self._pattern.result] = Bound(result, last, -1)
        if self._requires:
            environment = MatchEnvironment(self._snapshot, self._scope, bindings, None)
            for require in self._requires:
                if not is_true(require.condition, environment):
                    if trail is not None:
                        reason = why_not(require.condition, environment)
                        words = f"{require.reason} ({reason})" if require.reason else reason
                        trail.stop(len(state.nodes), words, require.span)
                    return None
        return Match(state.nodes, bindings, result)


def _parts(pattern: Pattern) -> Iterator[PatternNode]:
    """All operators of a pattern, those of optional steps and alternatives included."""
    waiting: list[PatternNode | Step] = [*pattern.nodes, *pattern.tail]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Step):
            waiting.extend(p for sequence in part.alternatives for p in sequence)
        else:
            yield part


def operators_of(pattern: Pattern) -> frozenset[str]:
    """All operators that a pattern speaks of."""
    return frozenset(op for part in _parts(pattern) for op in part.ops)


def _names(pattern: Pattern) -> Iterator[str]:
    """All names that a pattern can bind: those of optional steps that were not taken are absent, not unknown."""
    for part in _parts(pattern):
        if part.name is not None:
            yield part.name
        yield from (a.name for a in part.args if isinstance(a, Capture) and a.name != "_")


def is_true(condition: Expr, environment: MatchEnvironment) -> bool:
    """What can't be known or computed is not true."""
    try:
        return bool(compiled(condition)(environment))
    except ExpressionError:
        return False


def why_not(condition: Expr, environment: MatchEnvironment) -> str:
    """Why a condition is not true, in words; empty if it is."""
    try:
        return "" if compiled(condition)(environment) else describe(condition, environment)
    except UnknownValue as unknown:
        return f"{unknown} is unknown"
    except ExpressionError as error:
        return str(error)


def _one_of(ops: frozenset[str]) -> str:
    return " | ".join(sorted(ops))
