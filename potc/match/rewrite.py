"""Rewrites from rule files, applied to a fixed point before anything is quantized. The only graph edits before lowering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import Diagnostic, Rejected, reject
from potc.graph.model import Model
from potc.graph.names import fresh
from potc.graph.prepare import drop_dead, infer_shapes
from potc.graph.snapshot import OUTER, Snapshot, take_snapshot
from potc.language.expression import Environment, ExpressionError, evaluate
from potc.language.program import EmitNode, EmitValue, Program, Rewrite
from potc.limits import limits, with_raising
from potc.match.element_types import FLOATS, element_types, result_type
from potc.match.environment import MatchEnvironment, Scope, TensorView
from potc.match.found import Bound, Match
from potc.match.match import Matcher


@dataclass(frozen=True, slots=True)
class Change:
    """One application of a rewrite: the nodes that went, and the tensor that keeps its name and values."""

    rewrite: str
    place: str
    nodes: tuple[str, ...]
    tensor: str


@dataclass(frozen=True, slots=True)
class _Emitted:
    """A tensor that an emitted node makes. ``dtype``: as ``f32``, None where it is not known."""

    name: str
    dtype: str | None


class _EmitEnvironment(Environment):
    """Names on the right side: what was emitted before, then the match. Constants are computed in float64."""

    def __init__(self, match: MatchEnvironment) -> None:
        self._match = match
        self.emitted: dict[str, object] = {}

    def lookup(self, name: str) -> object:
        return self.emitted[name] if name in self.emitted else self._match.lookup(name)

    def field(self, obj: object, name: str) -> object:
        return self._match.field(obj, name)

    def index(self, obj: object, index: object) -> object:
        return self._match.index(obj, index)

    def value(self, obj: object) -> object:
        plain = self._match.value(obj)
        if isinstance(plain, np.ndarray) and plain.dtype.kind == "f":
            return plain.astype(np.float64)
        return plain

    def call(self, name: str, args: tuple[object, ...]) -> object:
        return self._match.call(name, args)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """``wanted``: the opset that a model must have for the rewrites that matched and were passed over, 0 where none was."""

    model: Model
    changes: tuple[Change, ...] = ()
    wanted: int = 0


def apply_rewrites(model: Model, program: Program) -> Rewritten:
    """Applies all rewrites of a program until none matches, but for those whose operators the model's opset does not have yet.
    Raises Rejected(endless-rewrite) after too many rounds."""
    changes: list[Change] = []
    spent: set[tuple[str, str]] = set()
    wanted = 0
    if not program.rewrites:
        return Rewritten(model)
    for _ in range(limits().rewrite_rounds):
        model, applied, later = _round(model, program, spent)
        changes.extend(applied)
        wanted = max(wanted, later)
        if not applied:
            return Rewritten(model, tuple(changes), wanted)
        model = infer_shapes(drop_dead(model))
    last = next(r for r in program.rewrites if r.name == changes[-1].rewrite)
    # Far more than any sane chain of folds: a rewrite that feeds itself is told by name instead of running forever.
    message = f"`{last.name}` was still matching after {limits().rewrite_rounds} rounds"
    help_ = with_raising("state `once`, or let each application leave fewer nodes that it matches", "rewrite-rounds")
    raise reject("endless-rewrite", message, at=last.span, help=help_)


def apply_once(model: Model, program: Program, rewrite: Rewrite, nodes: tuple[str, ...]) -> Model | None:
    """One application of one rewrite to the nodes with these names, None where it does not match exactly them. Nodes that
    nobody reads any more are gone. Raises Rejected(failing-emit)."""
    snapshot = take_snapshot(model.proto)
    scope = Scope.of(program)
    matcher = Matcher(rewrite.pattern, rewrite.requires, snapshot, scope, program.signatures)
    anchors = (node for op in sorted(matcher.anchor_ops) for node in snapshot.by_op.get(op, ()))
    for match in (m for node in anchors for m in matcher.matches(node)):
        if {snapshot.names[n] for n in match.nodes} == set(nodes):
            edit = _Edit(snapshot)
            if edit.apply(rewrite, match, scope):
                return infer_shapes(drop_dead(model.with_proto(edit.result(model.proto))))
    return None


def _round(model: Model, program: Program, spent: set[tuple[str, str]]) -> tuple[Model, list[Change], int]:
    """One pass over the graph, and the opset that passed over matches want. ``spent``: (rewrite, node) for nodes that a ``once``
    rewrite made: it leaves them alone."""
    snapshot = take_snapshot(model.proto)
    scope = Scope.of(program)
    claimed: set[int] = set()
    edit = _Edit(snapshot)
    changes: list[Change] = []
    wanted = 0
    for rewrite, match in _found(snapshot, program, scope):
        if rewrite.opset > model.opset:
            wanted = max(wanted, rewrite.opset)
            continue
        if rewrite.once and any((rewrite.name, snapshot.names[n]) in spent for n in match.nodes):
            continue
        if claimed.isdisjoint(match.nodes) and edit.apply(rewrite, match, scope):
            claimed.update(match.nodes)
            if rewrite.once:
                spent.update((rewrite.name, name) for name in edit.made_by(match))
            # What reads the result may hold a stale view of its producer: it waits for the next round.
            claimed.update(n for n, _ in snapshot.consumers[match.result])
            nodes = tuple(snapshot.names[n] for n in match.nodes)
            changes.append(Change(rewrite.name, rewrite.span.place, nodes, snapshot.tensors[match.result]))
    return model.with_proto(edit.result(model.proto)) if changes else model, changes, wanted


def _found(snapshot: Snapshot, program: Program, scope: Scope) -> list[tuple[Rewrite, Match]]:
    """All matches of all rewrites, larger ones first, then from the start of the graph."""
    found: list[tuple[Rewrite, Match]] = []
    for rewrite in sorted(program.rewrites, key=lambda r: r.name):
        matcher = Matcher(rewrite.pattern, rewrite.requires, snapshot, scope, program.signatures)
        for op in sorted(matcher.anchor_ops):
            for node in snapshot.by_op.get(op, ()):
                found.extend((rewrite, match) for match in matcher.matches(node))
    found.sort(key=lambda f: (-len(f[1].nodes), f[1].nodes[-1], f[0].name))
    return found


class _Edit:
    """Collects replacements against one snapshot and writes them into a new graph at once."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._replaced: dict[str, list[NodeProto]] = {}  # name of the removed last node -> what comes instead
        self._constants: list[TensorProto] = []
        self._renamed: dict[str, str] = {}
        self._copied: dict[str, int] = {}  # name of an emitted node -> the matched node whose attributes it has
        self._names = {*snapshot.tensors, *snapshot.names}

    def apply(self, rewrite: Rewrite, match: Match, scope: Scope) -> bool:
        """Emits the right side. False where the result can't take another name (read by a nested graph, say), or another
        output of the last node is read."""
        snapshot = self._snapshot
        if any(t >= 0 and (snapshot.consumers[t] or t in snapshot.graph_outputs) for t in self._extra(match)):
            return False
        environment = _EmitEnvironment(MatchEnvironment(snapshot, scope, match.bindings, None))
        result = snapshot.tensors[match.result]
        nodes: list[NodeProto] = []
        for emit in rewrite.emits:
            final = emit.name == rewrite.pattern.result
            try:
                if isinstance(emit, EmitNode):
                    nodes.append(self._node(emit, match, environment, result, final))
                elif final:
                    if not self._alias(emit, environment, match.result):
                        return False
                else:
                    environment.emitted[emit.name] = evaluate(emit.value, environment)
            except ExpressionError as error:
                where = ", ".join(snapshot.names[n] for n in match.nodes)
                raise Rejected(
                    [
                        Diagnostic(
                            "failing-emit",
                            f"`{rewrite.name}` can't compute `{emit.name}` at {where}: {error}",
                            at=emit.span,
                        )
                    ]
                ) from error
        if nodes:
            self._remove_inner(match, nodes)
        self._replaced[snapshot.names[match.nodes[-1]]] = nodes
        return True

    def made_by(self, match: Match) -> tuple[str, ...]:
        """Names of the nodes that came instead of a match."""
        return tuple(node.name for node in self._replaced[self._snapshot.names[match.nodes[-1]]])

    def _extra(self, match: Match) -> tuple[int, ...]:
        """Outputs of the last node that no right side makes."""
        return self._snapshot.outputs[match.nodes[-1]][1:]

    def _remove_inner(self, match: Match, nodes: list[NodeProto]) -> None:
        """Matched nodes whose results nobody else reads go together with the last one; a node that was copied from one of
        them takes over its name."""
        snapshot = self._snapshot
        inside, read = set(match.nodes), {name for node in nodes for name in node.input}
        for inner in match.nodes[:-1]:
            made = [t for t in snapshot.outputs[inner] if t >= 0]
            private = all(r in inside for t in made for r, _ in snapshot.consumers[t])
            if private and not any(t in snapshot.graph_outputs or snapshot.tensors[t] in read for t in made):
                self._replaced[snapshot.names[inner]] = []
                for node in nodes:
                    if self._copied.get(node.name) == inner:
                        node.name = snapshot.names[inner]

    def _node(self, emit: EmitNode, match: Match, environment: _EmitEnvironment, result: str, final: bool) -> NodeProto:
        values = [evaluate(arg, environment) for arg in emit.args]
        beside = element_types(emit.op, [self._element_type(value) for value in values])
        inputs = [
            self._input(value, f"{result}/{self._label(arg, k)}", match, dtype)
            for k, (arg, value, dtype) in enumerate(zip(emit.args, values, beside, strict=True))
        ]
        while inputs and not inputs[-1]:
            inputs.pop()
        output = result if final else fresh(f"{result}/{emit.name}", self._names)
        domain, _, op = emit.op.rpartition("::")
        last = self._snapshot.names[match.nodes[-1]]
        node = helper.make_node(
            op,
            inputs,
            [output],
            name=last if final else fresh(f"{last}/{emit.name}", self._names),
            domain=domain or None,
        )
        named = {name: evaluate(value, environment) for name, value in emit.attributes}
        if emit.copy_from is not None:
            bound = match.bindings[emit.copy_from]
            if isinstance(bound, Bound):
                source = self._snapshot.protos[self._snapshot.producer[bound.tensor]]
                node.attribute.extend(a for a in source.attribute if a.name not in named)
                self._copied[node.name] = self._snapshot.producer[bound.tensor]
        for name, value in named.items():
            if value is not None:
                node.attribute.append(helper.make_attribute(name, _attribute_value(value)))
        made = result_type(emit.op, [self._element_type(value) for value in values])
        environment.emitted[emit.name] = _Emitted(output, self._snapshot.dtypes[match.result] if final else made)
        return node

    def _element_type(self, value: object) -> str | None:
        """Of a tensor of the model or an emitted one, where it is known."""
        if isinstance(value, _Emitted):
            return value.dtype
        return self._snapshot.dtypes[value.tensor] if isinstance(value, TensorView) else None

    def _label(self, arg: object, port: int) -> str:
        name = getattr(arg, "name", None)
        return name if isinstance(name, str) else f"input{port}"

    def _input(self, value: object, label: str, match: Match, beside: str | None) -> str:
        """The name of an input. ``beside``: the element type that the operator wants here, where another input says so."""
        if value is None:
            return ""
        if isinstance(value, TensorView):
            return self._snapshot.tensors[value.tensor]
        if isinstance(value, _Emitted):
            return value.name
        array = np.asarray(value)
        dtype = beside or self._snapshot.dtypes[match.result]
        if array.dtype.kind == "f" or (beside in FLOATS and array.dtype.kind in "iu"):
            array = array.astype(FLOATS.get(dtype or "", np.float32))
        name = fresh(label, self._names)
        self._constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def _alias(self, emit: EmitValue, environment: _EmitEnvironment, result: int) -> bool:
        """``y = x``: readers of y read x instead; where y is a model output, the maker of x writes y."""
        snapshot = self._snapshot
        target = evaluate(emit.value, environment)
        if not isinstance(target, TensorView):
            raise ExpressionError(f"`{emit.name}` must be a tensor of the match or a node", emit.span)
        source = target.tensor
        touched = (*snapshot.consumers[result], *snapshot.consumers[source])
        old, new = (source, result) if result in snapshot.graph_outputs else (result, source)
        movable = (
            old not in snapshot.graph_outputs and old not in snapshot.graph_inputs and not snapshot.is_constant(old)
        )
        names = {snapshot.tensors[old], snapshot.tensors[new]}
        chained = names & (self._renamed.keys() | set(self._renamed.values()))
        if any(port == OUTER for _, port in touched) or not movable or chained:
            return False
        self._renamed[snapshot.tensors[old]] = snapshot.tensors[new]
        return True

    def result(self, proto: onnx.ModelProto) -> onnx.ModelProto:
        """A model with the edited main graph; weights are shared with the old one as far as protobuf allows."""
        edited = onnx.ModelProto()
        edited.CopyFrom(proto)
        nodes: list[NodeProto] = []
        for node in edited.graph.node:
            nodes.extend(self._replaced.get(node.name, (node,)))
        for node in nodes:
            _rename(node, self._renamed)
        kept = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del edited.graph.node[:]
        edited.graph.node.extend(kept)
        edited.graph.initializer.extend(self._constants)
        return edited


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    if names:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]


def _attribute_value(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [v.item() if isinstance(v, np.generic) else v for v in value]
    return value.item() if isinstance(value, np.generic) else value
