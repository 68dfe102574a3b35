"""Conditions of rules: predicates replaced by what they say, every name and function checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from potc.language import operators, syntax
from potc.language.arithmetic import FUNCTIONS
from potc.language.scope import Scope, parts

TENSOR_FIELDS = frozenset({"dtype", "shape", "rank", "size"})
# Questions about the graph: name -> how many arguments. The matcher answers them.
QUESTIONS: Mapping[str, int] = {
    "stored": 1,
    "users": 1,
    "graph_output": 1,
    "graph_input": 1,
    "absent": 1,
    "constant": 1,
    "known": 2,
    "opt": 2,
    "along": 3,
}
MAX_PARTS = 5000
MAX_DEPTH = 200


@dataclass(slots=True)
class Names:
    """What an expression may speak of.

    ``tensors``: captured tensors; ``nodes``: named results -> operators that may make them; ``attributes_of``: operators
    whose attributes are in scope by their bare names (inside ``[...]``); ``several``: captures that stand for any number of
    tensors. ``used`` collects what was spoken of.
    """

    scope: Scope
    opsets: tuple[int, int]
    features: Mapping[str, object]
    tensors: frozenset[str] = frozenset()
    nodes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    attributes_of: frozenset[str] = frozenset()
    several: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)

    def checked(self, expr: syntax.Expr) -> syntax.Expr:
        """The expression without predicates; mistakes are told."""
        plain = expand(self.scope, expr)
        self._check(plain)
        return plain

    def _check(self, expr: Any) -> None:
        if isinstance(expr, syntax.Name):
            self._name(expr)
            return
        if isinstance(expr, syntax.Field):
            self._field(expr)
        elif isinstance(expr, syntax.Call):
            self._call(expr)
        for part in parts(expr):
            self._check(part)

    def _name(self, expr: syntax.Name) -> None:
        name = expr.name
        if self.attributes_of and self._attribute(name, self.attributes_of, expr):
            return
        if name in self.tensors or name in self.nodes:
            self.used.add(name)
            return
        if name in self.features or name in self.scope.axis_names:
            return
        if self.attributes_of:
            ops = " | ".join(sorted(self.attributes_of)[:4])
            known = {a for op in self.attributes_of for a in self._schema_attributes(op)} | self.tensors
            self.scope.unknown(f"attribute of {ops} or other name", name, expr.span, known, "unknown-attribute")
            return
        self.scope.unknown(
            "tensor, feature or axis",
            name,
            expr.span,
            {*self.tensors, *self.nodes, *self.features, *self.scope.axis_names},
            "unbound-name",
        )

    def _schema_attributes(self, op: str) -> tuple[str, ...]:
        schema = operators.operator(op, self.opsets, self.scope.domains)
        return () if schema is None else tuple(schema.attributes)

    def _attribute(self, name: str, ops: frozenset[str], expr: syntax.Name | syntax.Field) -> bool:
        """True if ``name`` is an attribute of one of the operators, or was told to be a bad one."""
        found = False
        for op in sorted(ops):
            schema = operators.operator(op, self.opsets, self.scope.domains)
            if schema is None:
                found |= not operators.is_known_domain(op)
            elif name in schema.attributes:
                found = True
            elif name in schema.sometimes:
                found = True
                low, high = self.opsets
                became = "became an input" if schema.sometimes[name] else "is missing in some opset"
                self.scope.error(
                    "attribute-became-input",
                    f"`{name}` of {op} {became} between opset {low} and {high}",
                    expr.span,
                    "capture it as an input, or narrow the device's `opset`",
                )
        return found

    def _field(self, expr: syntax.Field) -> None:
        if isinstance(expr.target, syntax.Name) and expr.target.name in self.several:
            name = expr.target.name
            message = f"`{name}` stands for any number of tensors, which have no one `{expr.name}`"
            self.scope.error("unknown-attribute", message, expr.span, "ask the result, or capture inputs one by one")
            return
        if not isinstance(expr.target, syntax.Name) or expr.name in TENSOR_FIELDS:
            return
        ops = self.nodes.get(expr.target.name)
        if ops is None:
            known = operators.all_attributes()
            if expr.name not in known:
                self.scope.unknown(
                    "property or attribute", expr.name, expr.span, {*TENSOR_FIELDS, *known}, "unknown-attribute"
                )
        elif not self._attribute(expr.name, ops, expr):
            listed = {a for op in ops for a in self._schema_attributes(op)} | TENSOR_FIELDS
            self.scope.unknown(
                f"attribute of {' | '.join(sorted(ops)[:4])}", expr.name, expr.span, listed, "unknown-attribute"
            )

    def _call(self, expr: syntax.Call) -> None:
        count = len(expr.args)
        if expr.name in FUNCTIONS:
            _, fewest, most = FUNCTIONS[expr.name]
            right = count >= fewest and (most is None or count <= most)
            wanted = str(fewest) if most == fewest else f"at least {fewest}"
        elif expr.name in QUESTIONS:
            right, wanted = count == QUESTIONS[expr.name], str(QUESTIONS[expr.name])
        elif isinstance(self.scope.predicates.get(expr.name), syntax.ExternPredicate):
            return  # how many arguments it takes was checked where it was found
        else:
            self.scope.unknown("function", expr.name, expr.span, {*FUNCTIONS, *QUESTIONS, *self.scope.predicates})
            return
        if not right:
            self.scope.error(
                "wrong-arity",
                f"`{expr.name}` takes {wanted} argument(s), found {count}",
                expr.span,
                "give as many arguments as it takes",
            )


# ---------------------------------------------------------------------------------------------- predicates


def expand(scope: Scope, expr: syntax.Expr) -> syntax.Expr:
    """Replaces calls of predicates by their bodies. Tells recursion, wrong arity and bodies that explode."""
    if not scope.predicates:
        return expr
    expansion = _Expansion(scope)
    result = expansion.of(expr, {}, (), 0)
    if expansion.left < 0 or not _shallow(result):
        scope.error(
            "recursive-definition",
            "this condition is too long once its predicates are written out",
            expr.span,
            "simplify the predicates",
        )
        return syntax.Truth(True, expr.span)
    return result


def _shallow(expr: object) -> bool:
    """True if later walks over the expression can't run out of stack."""
    level = [expr]
    for _ in range(MAX_DEPTH):
        level = [p for e in level for p in parts(e)]
        if not level:
            return True
    return False


@dataclass(slots=True)
class _Expansion:
    """``left``: how many parts the result may still get; an argument counts wherever it is put."""

    scope: Scope
    left: int = MAX_PARTS

    def of(self, expr: Any, given: Mapping[str, tuple[Any, int]], trail: tuple[str, ...], depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth > MAX_DEPTH:
            self.left = -1
            return syntax.Truth(True, expr.span)
        if isinstance(expr, syntax.Name):
            value, size = given.get(expr.name, (expr, 0))
            self.left -= size
            return value
        if isinstance(expr, syntax.Call) and expr.name in self.scope.predicates:
            return self._predicate(expr, given, trail, depth)
        changes: dict[str, Any] = {}
        for f in fields(expr):
            part = getattr(expr, f.name)
            if f.name != "span" and is_dataclass(part):
                changes[f.name] = self.of(part, given, trail, depth + 1)
            elif isinstance(part, tuple):
                changes[f.name] = tuple(self.of(p, given, trail, depth + 1) for p in part)
        return replace(expr, **changes) if changes else expr

    def _predicate(
        self, expr: syntax.Call, given: Mapping[str, tuple[Any, int]], trail: tuple[str, ...], depth: int
    ) -> Any:
        predicate = self.scope.predicates[expr.name]
        args: list[tuple[Any, int]] = []
        for arg in expr.args:
            before = self.left
            args.append((self.of(arg, given, trail, depth + 1), 0))
            args[-1] = (args[-1][0], before - self.left)
        true = syntax.Truth(True, expr.span)
        if len(args) != len(predicate.parameters):
            message = f"`{expr.name}` takes {len(predicate.parameters)} argument(s), found {len(args)}"
            self.scope.error(
                "wrong-arity", message, expr.span, "give as many arguments as it takes", predicate.span, "defined here"
            )
            return true
        if isinstance(predicate, syntax.ExternPredicate):
            return replace(expr, args=tuple(arg for arg, _ in args))
        if expr.name in trail:
            message = f"predicate `{expr.name}` calls itself"
            self.scope.error("recursive-definition", message, predicate.span, "conditions have no recursion")
            return true
        bound = dict(zip(predicate.parameters, args, strict=True))
        return self.of(predicate.body, bound, (*trail, expr.name), depth + 1)
