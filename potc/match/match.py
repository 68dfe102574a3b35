"""Patterns meet a snapshot: anchored walks that follow ports in order, never a general subgraph search.

A pattern is compiled once into a walk. It starts at one anchor (the last node of its DAG part), goes to producers port by
port, tries both orders only where the operator is declared commutative, then follows the chain part to the readers of
the tensor before. A step of several nodes is walked in the same way, from its last node backwards. A pattern that can
begin in several ways is one walk for each. The same walk with a ``Trail`` remembers why it stopped, for ``explain``: one
engine, not two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from potc.graph.snapshot import OUTER, Snapshot
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, PatternNode, Require, Result, Signature, Step
from potc.match.environment import MatchEnvironment, Scope
from potc.match.found import Binding, Bound, Match, Trail, one_of
from potc.match.pattern_parts import Dag, Part, names_of, path_of, reads_previous
from potc.match.record import record
from potc.match.truth import is_true, why_not


@record
class _State:
    """A partial match; extended by making a new one."""

    nodes: tuple[int, ...]
    bindings: Mapping[str, Binding]
    matched: Mapping[int, int]  # index in the DAG at hand -> node
    entered: int = 0  # nodes of the DAG at hand whose operator fits, on the way to the one that is looked at

    @property
    def depth(self) -> int:
        """How far the walk is, which is what a ``Trail`` counts."""
        return len(self.nodes) + self.entered

    def bind(self, name: str, binding: Binding) -> _State:
        return _State(self.nodes, {**self.bindings, name: binding}, self.matched, self.entered)


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
        self._unbound: dict[str, Binding] = dict.fromkeys(names_of(pattern))

    @property
    def anchor_ops(self) -> frozenset[str]:
        """The operators at which a match can be anchored."""
        return frozenset(op for way in self._pattern.ways for op in way.nodes[-1].ops)

    def matches(self, anchor: int, trail: Trail | None = None) -> Iterator[Match]:
        """All matches anchored at a node, one per way to begin and choice of optional steps, longest first."""
        found: list[Match] = []
        for way in self._pattern.ways:
            for state in self._whole(way.nodes, anchor, _State((), {}, {}), None, trail):
                for done in self._chain(way.tail, anchor, state, trail):
                    match = self._finish(done, trail)
                    if match is not None and all(match.nodes != other.nodes for other in found):
                        found.append(match)
        found.sort(key=lambda m: -len(m.nodes))
        yield from found

    # ------------------------------------------------------------------------------------------ DAGs

    def _whole(self, dag: Dag, anchor: int, state: _State, prev: int | None, trail: Trail | None) -> Iterator[_State]:
        """Matches a DAG that ends at a node, none of whose inner tensors is read from outside of it."""
        if self._snapshot.outputs[anchor][:1] in ((), (-1,)):
            return  # its first output, from which a match goes on, is left out
        fresh = _State(state.nodes, state.bindings, {})
        for done in self._dag(dag, len(dag) - 1, anchor, fresh, prev, trail):
            if len(dag) == 1 or self._closed(dag, len(state.nodes), done, trail):
                yield done

    def _dag(
        self, dag: Dag, index: int, node: int, state: _State, prev: int | None, trail: Trail | None
    ) -> Iterator[_State]:
        known = state.matched.get(index)
        if known is not None:
            if known == node:
                yield state
            return
        for placed in self._node(dag, index, node, state, prev, trail):
            yield _State(placed.nodes, placed.bindings, {**placed.matched, index: node}, placed.entered)

    def _node(
        self, dag: Dag, index: int, node: int, state: _State, prev: int | None, trail: Trail | None
    ) -> Iterator[_State]:
        """Matches one operator with all its inputs; ``prev`` is the tensor that a chain step arrives by."""
        pattern = dag[index]
        snapshot = self._snapshot
        if snapshot.ops[node] not in pattern.ops:
            if trail is not None:
                found = f"`{snapshot.names[node]}` is {snapshot.ops[node]}"
                trail.stop_before(state.depth, "{found}, wanted {wanted}", found, pattern.ops, pattern.span)
            return
        if node in state.nodes:
            return
        for order in self._orders(pattern, node):
            for placed in self._args(dag, pattern.args, 0, node, order, state, prev, trail):
                done = _State((*placed.nodes, node), placed.bindings, placed.matched, placed.entered)
                if pattern.name is not None:
                    for port, name in enumerate((pattern.name, *pattern.others)):
                        done = done.bind(name, self._made(node, port))
                if self._conditions(pattern, node, done, trail):
                    yield done

    def _made(self, node: int, port: int) -> Bound | None:
        """An output under a name; None where the node leaves it out."""
        outputs = self._snapshot.outputs[node]
        return Bound(outputs[port], node, -1 - port) if port < len(outputs) and outputs[port] >= 0 else None

    def _orders(self, pattern: PatternNode, node: int) -> tuple[tuple[int, ...], ...]:
        ports = tuple(range(len(self._snapshot.inputs[node])))
        if len(pattern.args) == 2 and len(ports) == 2 and self._snapshot.ops[node] in self._commutative:
            return (ports, ports[::-1])
        return (ports,)

    def _args(
        self,
        dag: Dag,
        args: tuple[Arg, ...],
        k: int,
        node: int,
        order: tuple[int, ...],
        state: _State,
        prev: int | None,
        trail: Trail | None,
    ) -> Iterator[_State]:
        """Inputs from the ``k``-th on. Only a node of the DAG part can match in several ways; the rest is one straight line."""
        bindings = dict(state.bindings)
        while k < len(args):
            arg = args[k]
            port = order[k] if k < len(order) else -1
            tensor = self._snapshot.inputs[node][port] if port >= 0 else -1
            if isinstance(arg, Result) and arg.node >= 0:
                placed = _State(state.nodes, bindings, state.matched, state.entered)
                for inner in self._made_by(dag, arg, tensor, node, port, placed, prev, trail):
                    yield from self._args(dag, args, k + 1, node, order, inner, prev, trail)
                return
            if isinstance(arg, Capture) and arg.variadic:
                reason = self._variadic(arg, node, order[k:], bindings)
                k = len(args)
            else:
                reason = self._input(arg, tensor, node, port, bindings, prev)
                k += 1
            if reason:
                if trail is not None:
                    trail.stop(state.depth, f"input {port} of `{self._snapshot.names[node]}` {reason}", arg.span)
                return
        yield _State(state.nodes, bindings, state.matched, state.entered)

    def _made_by(
        self,
        dag: Dag,
        arg: Result,
        tensor: int,
        node: int,
        port: int,
        state: _State,
        prev: int | None,
        trail: Trail | None,
    ) -> Iterator[_State]:
        """An input that another node of the DAG makes."""
        snapshot = self._snapshot
        source = snapshot.producer[tensor] if tensor >= 0 else -1
        outputs = snapshot.outputs[source] if source >= 0 else ()
        if arg.output < len(outputs) and outputs[arg.output] == tensor:
            deeper = _State(state.nodes, state.bindings, state.matched, state.entered + 1)
            for done in self._dag(dag, arg.node, source, deeper, prev, trail):
                yield _State(done.nodes, done.bindings, done.matched, state.entered)
        elif trail is not None:
            wanted = one_of(dag[arg.node].ops)
            which = f"output {arg.output} of {wanted}" if arg.output else f"made by {wanted}"
            words = f"input {port} of `{snapshot.names[node]}` is not {which}"
            trail.stop(state.depth, words, arg.span)

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

    def _closed(self, dag: Dag, start: int, state: _State, trail: Trail | None) -> bool:
        """True if no inner tensor of a DAG is read from outside of it. ``start``: how many nodes came before it."""
        inside = set(state.nodes[start:])
        last = state.matched[len(dag) - 1]
        for node in state.nodes[start:]:
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

    def _chain(self, steps: tuple[Part, ...], node: int, state: _State, trail: Trail | None) -> Iterator[_State]:
        if not steps:
            yield state
            return
        step, rest = steps[0], steps[1:]
        if not isinstance(step, Step):
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
        rest: tuple[Part, ...],
        node: int,
        state: _State,
        trail: Trail | None,
    ) -> Iterator[_State]:
        if count < step.high:
            for placed in self._once(step, node, state, trail):
                after = placed.nodes[-1]
                named = placed if step.name is None else placed.bind(step.name, self._made(after, 0))
                yield from self._repeat(step, count + 1, rest, after, named, trail)
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
        self, part: PatternNode | Pattern, exclusive: bool, node: int, state: _State, trail: Trail | None
    ) -> Iterator[tuple[int, _State]]:
        """One step along the edge from a node's first output: to a reader, or to the last of several nodes."""
        tensor = self._snapshot.outputs[node][0]
        dag = part.nodes if isinstance(part, Pattern) else (part,)
        if exclusive and not self._read_only_by(dag, tensor):
            if trail is not None:
                words = "step `{wanted}` stopped: {found}"
                first = next((n for n in dag if reads_previous(n)), dag[0])
                trail.stop_before(state.depth, words, self._readers(tensor), first.ops, first.span)
            return
        for last in self._ends(dag, tensor):
            for placed in self._whole(dag, last, state, tensor, trail):
                yield last, placed

    def _read_only_by(self, dag: Dag, tensor: int) -> bool:
        """True if a tensor has no more readers than a step has places for it, and the model does not return it."""
        readers = self._snapshot.consumers[tensor]
        places = sum(isinstance(a, Result) and a.node < 0 for n in dag for a in n.args)
        inner = all(port != OUTER for _, port in readers)
        return len(readers) == max(places, 1) and inner and tensor not in self._snapshot.graph_outputs

    def _ends(self, dag: Dag, tensor: int) -> Iterable[int]:
        """Nodes at which a step of several nodes may end: forward along one of its paths from the tensor before."""
        readers = dict.fromkeys(c for c, port in self._snapshot.consumers[tensor] if port != OUTER)
        if len(dag) == 1:
            return readers
        outputs: dict[int, set[int]] = {}  # of the path's nodes so far
        for index in path_of(dag):
            ops = dag[index].ops
            found = [n for n in readers if self._snapshot.ops[n] in ops]
            made = (t for n in found for t in self._snapshot.outputs[n] if t >= 0)
            outputs[index] = set(found)
            readers = dict.fromkeys(c for t in made for c, port in self._snapshot.consumers[t] if port != OUTER)
        return sorted(outputs[len(dag) - 1])

    def _readers(self, tensor: int) -> str:
        """Who reads a tensor, in words."""
        readers = tuple(dict.fromkeys(self._snapshot.consumers[tensor]))  # a nested graph may read it several times
        name = self._snapshot.tensors[tensor]
        if not readers:
            return (
                f"`{name}` is what its graph returns"
                if tensor in self._snapshot.graph_outputs
                else f"nobody reads `{name}`"
            )
        names = ", ".join(self._snapshot.names[c] for c, _ in readers[:4])
        also = ", and its graph returns it" if tensor in self._snapshot.graph_outputs else ""
        many = "consumer" if len(readers) == 1 else "consumers"
        return f"`{name}` has {len(readers)} {many} ({names}){also}"

    def _forbidden(self, step: Step, node: int, state: _State) -> bool:
        """True if what a ``not`` names stands behind a node, whoever else reads the tensor between."""
        return next(self._once(replace(step, exclusive=False), node, state, None), None) is not None

    # ------------------------------------------------------------------------------------------ conditions

    def _conditions(self, pattern: PatternNode, node: int, state: _State, trail: Trail | None) -> bool:
        conditions = pattern.conditions_of(self._snapshot.ops[node]) if pattern.refined else pattern.conditions
        if not conditions:
            return True
        environment = MatchEnvironment(self._snapshot, self._scope, state.bindings, node)
        for condition in conditions:
            if not is_true(condition, environment):
                if trail is not None:
                    trail.stop(state.depth, why_not(condition, environment), pattern.span)
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
                        trail.stop(len(state.nodes), words, require.span, whole=True)
                    return None
        return Match(state.nodes, bindings, result)
