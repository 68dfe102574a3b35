"""What names mean inside the conditions of a match: tensors, attributes, axes by role, and questions about the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import AttributeProto, helper

from potc.graph.snapshot import Snapshot
from potc.language.expression import Environment, Evaluation, ExpressionError, UnknownValue, compile_expression
from potc.language.program import Program, Signature
from potc.language.syntax import Expr
from potc.match.extern import Tensor, ask, read_only

if TYPE_CHECKING:
    from potc.match.found import Binding


@dataclass(frozen=True, slots=True)
class AxisName:
    """An axis by its role (``out``, ``in``, ``channel``): becomes a number beside a tensor that has such an axis."""

    name: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What is the same for all matches of one device on one snapshot.

    ``stored`` answers whether the kernel that makes a tensor stores it as integers; before that is known, it raises.
    """

    signatures: Mapping[str, Signature]
    features: Mapping[str, bool | int | float]
    stored: Callable[[int], bool] | None = None
    axis_names: frozenset[str] = frozenset()
    externs: Mapping[str, Callable[..., object]] = field(default_factory=dict[str, Callable[..., object]])

    @staticmethod
    def of(program: Program, stored: Callable[[int], bool] | None = None) -> Scope:
        ports = [p for s in program.signatures.values() for p in (*s.inputs, *s.outputs)]
        names = frozenset(name for port in ports for name, _ in port.axes)
        externs = {extern.name: extern.function for extern in program.externs}
        return Scope(program.signatures, program.features, stored, names, externs)


@dataclass(frozen=True, slots=True)
class TensorView:
    """A tensor as conditions see it. ``node`` and ``port``: where the match reads it (port -1 - k: output k of ``node``)."""

    snapshot: Snapshot
    scope: Scope
    name: str
    tensor: int
    node: int
    port: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Dimensions, None where symbolic. Raises UnknownValue if not even the rank is known."""
        shape = self.snapshot.shapes[self.tensor]
        if shape is None:
            raise UnknownValue(f"{self.name}.shape")
        return shape

    def axis(self, name: str) -> int:
        """Number of the axis with a role, from 0. Raises ExpressionError if std.rules gives the tensor no such axis."""
        found = axis_of(self.snapshot, self.scope.signatures, self.node, self.port, name, len(self.shape))
        if found is None:
            raise ExpressionError(f"{self.name} has no axis `{name}` at {self.snapshot.ops[self.node]}", None)
        return found

    def dimension(self, index: object) -> int:
        """One dimension. Raises UnknownValue if it is symbolic, ExpressionError if there is none."""
        shape = self.shape
        number = self.axis(index.name) if isinstance(index, AxisName) else index
        if not isinstance(number, int | np.integer) or isinstance(number, bool):
            raise ExpressionError(f"{self.name}.shape is indexed by a number or an axis name", None)
        if not -len(shape) <= number < len(shape):
            raise ExpressionError(f"{self.name}.shape has {len(shape)} dimensions, no [{number}]", None)
        size = shape[int(number)]
        if size is None:
            raise UnknownValue(f"{self.name}.shape[{index.name if isinstance(index, AxisName) else index}]")
        return size

    def value(self) -> np.ndarray:
        """The numbers of a constant. Raises ExpressionError for a computed tensor."""
        if not self.snapshot.is_constant(self.tensor):
            raise ExpressionError(f"{self.name} is computed, its values are not known", None)
        return self.snapshot.value(self.tensor)

    def field(self, name: str) -> object:
        """``dtype``, ``shape``, ``rank``, ``size``, or an attribute of the node that makes the tensor (None: not given)."""
        if name == "dtype":
            dtype = self.snapshot.dtypes[self.tensor]
            if dtype is None:
                raise UnknownValue(f"{self.name}.dtype")
            return dtype
        if name == "shape":
            return ShapeView(self)
        if name == "rank":
            return len(self.shape)
        if name == "size":
            size = 1
            for k in range(len(self.shape)):
                size *= self.dimension(k)
            return size
        maker = self.snapshot.producer[self.tensor]
        if maker < 0:
            raise ExpressionError(f"{self.name} is made by no node, so it has no attribute `{name}`", None)
        return attributes(self.snapshot, maker).get(name)


@dataclass(frozen=True, slots=True)
class ShapeView:
    """``x.shape``: indexed by number or axis role, or used as a whole where all dimensions are known."""

    view: TensorView

    def index(self, index: object) -> int:
        return self.view.dimension(index)

    def value(self) -> tuple[int, ...]:
        return tuple(self.view.dimension(k) for k in range(len(self.view.shape)))


class MatchEnvironment(Environment):
    """Names of one (partial) match. ``node``: the node whose attributes are in scope, None outside of ``[...]``."""

    __slots__ = ("_bindings", "_given", "_node", "_scope", "_snapshot")

    def __init__(self, snapshot: Snapshot, scope: Scope, bindings: Mapping[str, Binding], node: int | None) -> None:
        self._snapshot = snapshot
        self._scope = scope
        self._bindings = bindings
        self._node = node
        self._given = attributes(snapshot, node) if node is not None else {}

    def lookup(self, name: str) -> object:
        """An attribute of the node at hand, a bound tensor (None: absent), a feature, or an axis name. Raises KeyError."""
        if name in self._given:
            return self._given[name]
        if name in self._bindings:
            binding = self._bindings[name]
            if isinstance(binding, tuple):
                return tuple(TensorView(self._snapshot, self._scope, name, b.tensor, b.node, b.port) for b in binding)
            return (
                None
                if binding is None
                else TensorView(self._snapshot, self._scope, name, binding.tensor, binding.node, binding.port)
            )
        if name in self._scope.features:
            return self._scope.features[name]
        if name in self._scope.axis_names:
            return AxisName(name)
        raise KeyError(name)

    def field(self, obj: object, name: str) -> object:
        if isinstance(obj, TensorView):
            return obj.field(name)
        if obj is None:
            raise ExpressionError(f"an absent tensor has no `{name}`", None)
        raise ExpressionError(f"only tensors have `.{name}`", None)

    def index(self, obj: object, index: object) -> object:
        """``x.shape[out]``; for other sequences the evaluator's own indexing applies (NotImplemented)."""
        if isinstance(obj, ShapeView):
            return obj.index(index)
        return NotImplemented

    def value(self, obj: object) -> object:
        """The numbers behind a constant tensor or a shape, for arithmetic; anything else unchanged."""
        if isinstance(obj, TensorView | ShapeView):
            return obj.value()
        return obj

    def call(self, name: str, args: tuple[object, ...]) -> object:
        question = _QUESTIONS.get(name)
        if question is None:
            function = self._scope.externs.get(name)
            return NotImplemented if function is None else ask(name, function, tuple(map(_plain_value, args)))
        try:
            return question(self._snapshot, self._scope, *args)
        except TypeError as error:
            raise ExpressionError(f"{name}: {error}", None) from error


def _plain_value(obj: object) -> object:
    """What a Python function gets for an argument: numbers, text, tuples, arrays, and ``Tensor`` for tensors."""
    if isinstance(obj, TensorView):
        snapshot, tensor = obj.snapshot, obj.tensor
        value = read_only(snapshot.value(tensor)) if snapshot.is_constant(tensor) else None
        return Tensor(snapshot.dtypes[tensor], snapshot.shapes[tensor], value)
    if isinstance(obj, ShapeView):
        return obj.view.snapshot.shapes[obj.view.tensor]
    if isinstance(obj, AxisName):
        return obj.name
    if isinstance(obj, np.ndarray):
        return read_only(obj)
    return tuple(map(_plain_value, obj)) if isinstance(obj, tuple) else obj


def _views(obj: object, name: str) -> tuple[TensorView, ...]:
    if isinstance(obj, TensorView):
        return (obj,)
    if isinstance(obj, tuple) and all(isinstance(v, TensorView) for v in obj):
        return obj
    raise ExpressionError(f"{name} asks about a captured tensor", None)


def _stored(snapshot: Snapshot, scope: Scope, obj: object) -> bool:
    if scope.stored is None:
        raise ExpressionError("what is stored is known only after the kernels are chosen", None)
    # A constant is stored in whatever format is asked for.
    return all(snapshot.is_constant(v.tensor) or scope.stored(v.tensor) for v in _views(obj, "stored"))


def _users(snapshot: Snapshot, scope: Scope, obj: object) -> int:
    return sum(len(snapshot.consumers[v.tensor]) for v in _views(obj, "users"))


def _graph_output(snapshot: Snapshot, scope: Scope, obj: object) -> bool:
    return any(v.tensor in snapshot.graph_outputs for v in _views(obj, "graph_output"))


def _graph_input(snapshot: Snapshot, scope: Scope, obj: object) -> bool:
    return all(v.tensor in snapshot.graph_inputs for v in _views(obj, "graph_input"))


def _absent(snapshot: Snapshot, scope: Scope, obj: object) -> bool:
    return obj is None


def _constant(snapshot: Snapshot, scope: Scope, obj: object) -> bool:
    return all(snapshot.is_constant(v.tensor) for v in _views(obj, "constant"))


def _known(snapshot: Snapshot, scope: Scope, obj: object, axis: object) -> bool:
    """Is this dimension a number in the model, rather than a symbol?"""
    view = _views(obj, "known")[0]
    shape = snapshot.shapes[view.tensor]
    number = view.axis(axis.name) if isinstance(axis, AxisName) else axis
    if shape is None or not isinstance(number, int) or not -len(shape) <= number < len(shape):
        return False
    return shape[number] is not None


def _opt(snapshot: Snapshot, scope: Scope, obj: object, default: object) -> object:
    return default if obj is None else obj


def _along(snapshot: Snapshot, scope: Scope, values: object, tensor: object, axis: object) -> np.ndarray:
    """A vector laid along one axis of a tensor, ready to be multiplied with it."""
    view = _views(tensor, "along")[0]
    number = view.axis(axis.name) if isinstance(axis, AxisName) else axis
    if not isinstance(number, int):
        raise ExpressionError("along needs an axis", None)
    shape = [1] * len(view.shape)
    shape[number] = -1
    numbers = values.value() if isinstance(values, TensorView) else np.asarray(values)
    return numbers.reshape(shape)


_QUESTIONS: Mapping[str, Callable[..., object]] = {
    "stored": _stored,
    "users": _users,
    "graph_output": _graph_output,
    "graph_input": _graph_input,
    "absent": _absent,
    "constant": _constant,
    "known": _known,
    "opt": _opt,
    "along": _along,
}


@lru_cache(maxsize=4096)
def _defaults(op: str, opset: int) -> Mapping[str, object]:
    """Attribute names of an operator with their schema defaults; None where the schema gives none."""
    domain, _, name = op.rpartition("::")
    try:
        schema = onnx.defs.get_schema(name, opset, domain) if not domain else onnx.defs.get_schema(name, domain=domain)
    except onnx.defs.SchemaError:
        return {}
    return {key: _plain(a.default_value) if a.default_value.name else None for key, a in schema.attributes.items()}


def _plain(attribute: AttributeProto) -> object:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value)
    return value


def attributes(snapshot: Snapshot, node: int) -> Mapping[str, object]:
    """Attributes of a node, schema defaults filled in (None: neither given nor defaulted)."""
    found = snapshot.attributes.get(node)
    if found is None:
        given = {a.name: _plain(a) for a in snapshot.protos[node].attribute}
        found = snapshot.attributes[node] = {**_defaults(snapshot.ops[node], snapshot.opset), **given}
    return found


_COMPILED: dict[int, tuple[Expr, Evaluation]] = {}


def compiled(condition: Expr) -> Evaluation:
    """The closure of an expression, made once. Keyed by identity, which is cheaper than hashing the tree; the entry holds
    the expression, so its identity can't be taken over."""
    entry = _COMPILED.get(id(condition))
    if entry is None:
        entry = _COMPILED[id(condition)] = (condition, compile_expression(condition))
    return entry[1]


class _AttributeEnvironment(Environment):
    """Only the attributes of one node: what the axes in std.rules are computed from."""

    def __init__(self, snapshot: Snapshot, node: int) -> None:
        self._snapshot = snapshot
        self._node = node

    def lookup(self, name: str) -> object:
        return attributes(self._snapshot, self._node)[name]

    def field(self, obj: object, name: str) -> object:
        raise ExpressionError(f"axes are computed from attributes, not from `.{name}`", None)

    def index(self, obj: object, index: object) -> object:
        return NotImplemented

    def value(self, obj: object) -> object:
        return obj

    def call(self, name: str, args: tuple[object, ...]) -> object:
        return NotImplemented


def axis_of(
    snapshot: Snapshot, signatures: Mapping[str, Signature], node: int, port: int, role: str, rank: int
) -> int | None:
    """Number (0 <= axis < rank) of the axis that std.rules calls ``role`` at an input port (-1 - k: output k)."""
    signature = signatures.get(snapshot.ops[node])
    if signature is None:
        return None
    ports = signature.inputs[port : port + 1] if port >= 0 else signature.outputs[-1 - port : -port]
    for entry in ports:
        for name, expression in entry.axes:
            if name == role:
                number = compiled(expression)(_AttributeEnvironment(snapshot, node))
                if not isinstance(number, int) or not -rank <= number < rank:
                    return None
                return number % rank
    return None
