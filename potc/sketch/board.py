"""One candidate graph, as far as its numbers are known: shapes flow through it, conditions are asked of it.

A candidate is a mapping from variables to values. Schemas say what each node makes of its inputs; a snapshot built from
that answers the conditions of rules exactly as it would for a model that was read from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper

from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.expression import ExpressionError, UnknownValue
from potc.language.operators import split
from potc.language.program import Kind
from potc.language.syntax import Boolean, Call, Expr, Unary
from potc.match.environment import MatchEnvironment, Scope, compiled
from potc.match.found import Binding, Bound
from potc.sketch.frame import Frame, readers
from potc.sketch.infer import Values, attribute_proto, infer_node, numbers
from potc.sketch.types import Types

# ("shape", t) -> dimensions; ("constant", t) -> bool; ("values", t) -> Values or None (random); ("type", group) -> name;
# ("attribute", node, name) -> value; ("returned", t) -> bool; ("readers", t), ("made", t) -> int, bool.
Variable = tuple[Any, ...]
Assignment = dict[Variable, Any]
HARD = 100
LOADED = 64  # elements; what inference may need the numbers of


@dataclass(frozen=True, slots=True)
class Check:
    """A condition that must hold (or, ``wanted`` False, must not). ``node``: the one whose attributes are in scope.

    ``hard``: a graph without it is no graph, or not the one that was asked for. ``stored``: what the question has for an
    answer whether a kernel stores a tensor. ``relation``: std.rules says so of an operator.
    """

    condition: Expr
    node: int | None
    bindings: Mapping[str, Binding]
    wanted: bool = True
    hard: bool = False
    stored: bool = True
    relation: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with a candidate. ``nodes``: those whose schemas refuse it; ``failed``: indices of checks.

    ``cost``: hard ones count more than all others together. ``weight``: what the search makes smaller; there, they count
    alike, so that one may be given up for a moment. ``snapshot``: what conditions were asked of.
    """

    nodes: tuple[int, ...]
    failed: tuple[int, ...]
    cost: int
    weight: int
    snapshot: Snapshot


class Board:
    """A frame with its checks, ready to judge candidates."""

    def __init__(self, frame: Frame, checks: tuple[Check, ...], types: Types, scope: Scope, seed: int) -> None:
        self.frame = frame
        self.checks = checks
        self.types = types
        self.seed = seed
        self.opset = frame.opset
        self._scopes = {
            wanted: Scope(scope.signatures, scope.features, (lambda _t, w=wanted: w), scope.axis_names)
            for wanted in (True, False)
        }
        self._consumers = readers(frame)
        self._producer = [-1] * frame.tensors
        for k, node in enumerate(frame.nodes):
            for t in node.outputs:
                self._producer[t] = k
        self._names = tuple(f"t{t}" for t in range(frame.tensors))
        self._ends = [n.outputs[0] for n in frame.nodes if not any(self._consumers.get(t) for t in n.outputs)]
        self._proto: dict[tuple[Any, ...], NodeProto] = {}
        self._arrays: dict[tuple[Any, ...], np.ndarray] = {}
        self._fixed: tuple[Any, ...] = (
            tuple(f"n{k}" for k in range(len(frame.nodes))),
            tuple(n.op for n in frame.nodes),
            tuple(tuple(n.inputs) for n in frame.nodes),
            tuple(tuple(n.outputs) for n in frame.nodes),
        )

    def producer(self, tensor: int) -> int:
        return self._producer[tensor]

    def is_constant(self, candidate: Assignment, tensor: int) -> bool:
        external = self.frame.externals.get(tensor)
        if external is None:
            return False
        return external.kind is Kind.CONST or (external.kind is Kind.ANY and bool(candidate.get(("constant", tensor))))

    def returned(self, candidate: Assignment, tensor: int) -> bool:
        """True if the model returns a tensor: its ends, unless a candidate says otherwise."""
        default = tensor in self.frame.returned or tensor in self._ends
        return bool(candidate.get(("returned", tensor), default))

    def extra_readers(self, candidate: Assignment, tensor: int) -> int:
        count = int(candidate.get(("readers", tensor), 0))
        lost = tensor in self._ends and not self.returned(candidate, tensor) and not count
        return 1 if lost else count

    def attributes(self, candidate: Assignment, node: int) -> dict[str, Any]:
        return {
            v[2]: value for v, value in candidate.items() if v[0] == "attribute" and v[1] == node and value is not None
        }

    def proto(self, candidate: Assignment, node: int) -> NodeProto:
        given = tuple(sorted(self.attributes(candidate, node).items()))
        key = (node, given)
        found = self._proto.get(key)
        if found is None:
            placed = self.frame.nodes[node]
            domain, op = split(placed.op)
            found = helper.make_node(
                op,
                [self._names[t] if t >= 0 else "" for t in placed.inputs],
                [self._names[t] for t in placed.outputs],
                name=f"n{node}",
                domain=domain or None,
            )
            for name, value in given:
                found.attribute.append(attribute_proto(placed.op, self.opset, name, value))
            self._proto[key] = found
        return found

    def array(self, candidate: Assignment, tensor: int) -> np.ndarray:
        """The numbers of a constant external, the same for equal candidates and seeds."""
        dtype = candidate["type", self.types.group[tensor]]
        shape = candidate["shape", tensor]
        filled = self.frame.externals[tensor].filled
        values = Values(filled) if filled is not None else candidate.get(("values", tensor))
        key = (tensor, dtype, shape, values)
        found = self._arrays.get(key)
        if found is None:
            found = self._arrays[key] = numbers(tensor, dtype, shape, values, self.seed)
        return found

    def judge(self, candidate: Assignment) -> Verdict:
        shapes, dtypes, arrays, wrong = self._flow(candidate)
        snapshot = self._snapshot(candidate, shapes, dtypes, arrays)
        failed: list[int] = []
        hard = len(wrong)
        for k, check in enumerate(self.checks):
            holds = self.holds(check, snapshot)
            if holds is not check.wanted:
                failed.append(k)
                hard += check.hard
        soft = sum(not self.checks[k].hard for k in failed)
        weight = 2 * len(wrong) + sum(self._distance(self.checks[k], snapshot) for k in failed)
        return Verdict(tuple(wrong), tuple(failed), HARD * hard + soft, weight, snapshot)

    def _distance(self, check: Check, snapshot: Snapshot) -> int:
        """How many parts of a condition would have to change, at least 1."""
        environment = self.environment(check, snapshot)

        def of(part: Expr, wanted: bool) -> int:
            if isinstance(part, Unary) and part.op == "not":
                return of(part.operand, not wanted)
            if isinstance(part, Boolean):
                parts = [of(operand, wanted) for operand in part.operands]
                return sum(parts) if (part.op == "and") == wanted else min(parts)
            try:
                return int(bool(compiled(part)(environment)) is not wanted)
            except ExpressionError:
                return 1

        return max(1, of(check.condition, check.wanted)) if isinstance(check.condition, Boolean) else 1

    def is_settled_false(self) -> bool:
        """True if a check fails whatever the numbers are, because the frame alone answers it."""
        snapshot = self._snapshot({}, [None] * self.frame.tensors, [None] * self.frame.tensors, {})
        return any(is_settled(c.condition) and self.holds(c, snapshot) is not c.wanted for c in self.checks)

    def environment(self, check: Check, snapshot: Snapshot) -> MatchEnvironment:
        return MatchEnvironment(snapshot, self._scopes[check.stored], check.bindings, check.node)

    def holds(self, check: Check, snapshot: Snapshot) -> bool | None:
        """None where the condition can't be computed: neither true nor cleanly false. What schemas leave open (dimensions
        that depend on computed values) is no fault of a graph, and may be for a rule."""
        try:
            return bool(compiled(check.condition)(self.environment(check, snapshot)))
        except UnknownValue:
            return check.wanted if check.relation else None
        except ExpressionError:
            return None

    def _flow(
        self, candidate: Assignment
    ) -> tuple[list[tuple[int | None, ...] | None], list[str | None], dict[int, np.ndarray], list[int]]:
        frame = self.frame
        shapes: list[tuple[int | None, ...] | None] = [None] * frame.tensors
        dtypes: list[str | None] = [None] * frame.tensors
        arrays: dict[int, np.ndarray] = {}
        for t in frame.externals:
            shapes[t] = candidate["shape", t]
            dtypes[t] = candidate["type", self.types.group[t]]
            if self.is_constant(candidate, t):
                arrays[t] = self.array(candidate, t)
        wrong: list[int] = []
        for k, node in enumerate(frame.nodes):
            inputs = tuple(t for t in node.inputs if t >= 0)
            if any(dtypes[t] is None for t in inputs):
                wrong.append(k)  # what comes before is wrong already
                continue
            made = self._made(k, candidate, shapes, dtypes, arrays)
            if made is None:
                wrong.append(k)
                continue
            for t, (dtype, shape) in zip(node.outputs, made, strict=False):
                shapes[t], dtypes[t] = shape, dtype
        return shapes, dtypes, arrays, wrong

    def _made(
        self,
        k: int,
        candidate: Assignment,
        shapes: list[tuple[int | None, ...] | None],
        dtypes: list[str | None],
        arrays: Mapping[int, np.ndarray],
    ) -> tuple[tuple[str, tuple[int | None, ...] | None], ...] | None:
        """Types and shapes of a node's results, None where its schema refuses the inputs."""
        node = self.frame.nodes[k]
        proto = self.proto(candidate, k)
        described: list[tuple[Any, ...]] = []
        for t in node.inputs:
            if t >= 0:
                data = arrays.get(t)
                small = data is not None and data.size <= LOADED and (data.dtype.kind != "f" or data.ndim <= 1)
                shown = data.tobytes() if small and data is not None else None
                described.append((t, dtypes[t], shapes[t], shown))
        key = proto.SerializeToString()
        return infer_node(node.op, self.opset, key, tuple(described))

    def _snapshot(
        self,
        candidate: Assignment,
        shapes: list[tuple[int | None, ...] | None],
        dtypes: list[str | None],
        arrays: dict[int, np.ndarray],
    ) -> Snapshot:
        frame = self.frame
        names, ops, inputs, outputs = self._fixed
        producer = list(self._producer)
        consumers: list[tuple[tuple[int, int], ...]] = []
        later = len(frame.nodes)
        inner: dict[int, Mapping[str, object]] = {}
        for t in range(frame.tensors):
            found = list(self._consumers.get(t, ()))
            found.extend((later + i, 0) for i in range(self.extra_readers(candidate, t)))
            consumers.append(tuple(found))
            if candidate.get(("made", t)):
                producer[t] = later
                inner[later] = {}
        constants = dict.fromkeys(arrays, _NO_TENSOR)
        return replace(
            _EMPTY,
            protos=tuple(self.proto(candidate, k) for k in range(len(frame.nodes))),
            names=names,
            ops=ops,
            inputs=inputs,
            outputs=outputs,
            tensors=self._names,
            producer=tuple(producer),
            consumers=tuple(consumers),
            dtypes=tuple(dtypes),
            shapes=tuple(shapes),
            initializers=constants,
            graph_inputs=frozenset(t for t in frame.externals if t not in arrays and not candidate.get(("made", t))),
            graph_outputs=frozenset(n.outputs[0] for n in frame.nodes if self.returned(candidate, n.outputs[0])),
            opset=self.opset,
            attributes=inner,
            _values=dict(arrays),
        )


_NO_TENSOR = onnx.TensorProto()
_EMPTY = take_snapshot(onnx.ModelProto())  # fields that conditions never ask for stay as they are in it


def is_settled(condition: Expr) -> bool:
    """True for a question that the frame alone answers."""
    match condition:
        case Unary("not", operand):
            return is_settled(operand)
        case Call("absent", _):
            return True
        case _:
            return False


def bound(binding: Binding) -> tuple[Bound, ...]:
    """All tensors behind one name."""
    if binding is None:
        return ()
    return binding if isinstance(binding, tuple) else (binding,)
