"""What the names of a library mean: operator sets, signatures, patterns, predicates, devices."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related, Severity
from potc.diagnostics.source import Span
from potc.language import operators, syntax
from potc.language.files import Library
from potc.language.program import Port, Signature

MAX_SET = 1000


@dataclass(frozen=True, slots=True)
class Member:
    """One operator of a set, with conditions on its attributes."""

    op: str
    conditions: tuple[syntax.Expr, ...]


@dataclass(slots=True)
class Scope:
    """Definitions by name, and where mistakes go."""

    problems: Diagnostics
    op_sets: dict[str, syntax.OpSet] = field(default_factory=dict)
    patterns: dict[str, syntax.PatternDefinition] = field(default_factory=dict)
    predicates: dict[str, syntax.Predicate | syntax.ExternPredicate] = field(default_factory=dict)
    signatures: dict[str, Signature] = field(default_factory=dict)
    devices: dict[str, syntax.Device | syntax.DeviceAlgebra] = field(default_factory=dict)
    rewrites: dict[str, syntax.RewriteDefinition] = field(default_factory=dict)
    prefers: list[syntax.PreferStatement] = field(default_factory=list)
    tests: list[syntax.Test] = field(default_factory=list)
    domains: operators.Domains = ()  # of the device at hand: opset ranges beside that of ONNX itself

    def error(
        self, code: str, message: str, at: Span, help: str | None = None, other: Span | None = None, label: str = ""
    ) -> None:
        related = () if other is None else (Related(other, label or "first here"),)
        self.problems.add(Diagnostic(code, message, at=at, related=related, help=help))

    def warning(self, code: str, message: str, at: Span, help: str | None = None) -> None:
        self.problems.add(Diagnostic(code, message, Severity.WARNING, at=at, help=help))

    def unknown(
        self,
        what: str,
        name: str,
        at: Span,
        known: Iterable[str],
        code: str = "unknown-name",
        help: str = "check its spelling, or define it",
    ) -> None:
        """A name that means nothing, with the nearest one that does, or ``help`` where none is near."""
        near = operators.suggest(name, tuple(sorted(known)))
        self.error(code, f"there is no {what} `{name}`", at, f"did you mean `{near}`?" if near else help)

    def unknown_axis(self, name: str, at: Span, known: Iterable[str]) -> None:
        """Axes are named by ``op`` statements: without any, ``std`` is not used."""
        told = "check its spelling" if self.signatures else "add `use std`, which names the axes of ONNX operators"
        self.unknown("axis", name, at, known, help=told)

    @property
    def axis_names(self) -> frozenset[str]:
        ports = [p for s in self.signatures.values() for p in (*s.inputs, *s.outputs)]
        return frozenset(name for port in ports for name, _ in port.axes)


def build_scope(library: Library, problems: Diagnostics) -> Scope:
    """Collects all definitions; tells duplicates and wrong signatures."""
    scope = Scope(problems)
    for file in library.files:
        taken = library.taken.get(file.source.path)
        for item in file.items:
            _define(scope, item, taken)
    return scope


def _define(scope: Scope, item: syntax.Item, taken: frozenset[str] | None) -> None:
    if isinstance(item, syntax.OpSignature):
        if item.op in scope.signatures:
            scope.error(
                "duplicate-name",
                f"`op {item.op}` is declared twice",
                item.span,
                "remove one of them",
                scope.signatures[item.op].span,
            )
        else:
            scope.signatures[item.op] = _signature(scope, item)
    elif isinstance(item, syntax.OpSet):
        _put(scope, scope.op_sets, item.name, item, "operator set")
    elif isinstance(item, syntax.PatternDefinition):
        _put(scope, scope.patterns, item.name, item, "pattern")
    elif isinstance(item, syntax.Predicate | syntax.ExternPredicate):
        _put(scope, scope.predicates, item.name, item, "predicate")
        if isinstance(item, syntax.ExternPredicate) and not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", item.origin):
            message = f'"{item.origin}" names no function of a file'
            scope.error("extern-failed", message, item.span, 'write `from "FILE:FUNCTION"`')
    elif isinstance(item, syntax.Device | syntax.DeviceAlgebra):
        _put(scope, scope.devices, item.name, item, "device")
    elif isinstance(item, syntax.RewriteDefinition):
        if taken is None or item.name in taken:
            _put(scope, scope.rewrites, item.name, item, "rewrite")
    elif isinstance(item, syntax.PreferStatement):
        scope.prefers.append(item)
    elif isinstance(item, syntax.Test):
        scope.tests.append(item)


def _put(scope: Scope, table: dict, name: str, item: syntax.Item, what: str) -> None:
    if name in table:
        scope.error(
            "duplicate-name",
            f"{what} `{name}` is defined twice",
            item.span,
            "rename or remove one of them",
            table[name].span,
        )
        return
    table[name] = item


def _signature(scope: Scope, item: syntax.OpSignature) -> Signature:
    """A signature, its ports checked against the schema by name and order."""
    if not operators.exists(item.op):
        scope.unknown("operator", item.op, item.span, operators.names(), "unknown-operator")
    known = operators.port_names(item.op)
    if known is not None:
        for ports, expected, what in ((item.inputs, known[0], "input"), (item.outputs, known[1], "output")):
            for k, port in enumerate(ports):
                if k >= len(expected) or expected[k] != port.name:
                    right = (
                        f"{what} {k} of {item.op} is `{expected[k]}`"
                        if k < len(expected)
                        else f"{item.op} has {len(expected)} {what}(s): {', '.join(expected)}"
                    )
                    scope.error(
                        "unknown-port", f"{item.op} has no {what} `{port.name}` at this place", port.span, right
                    )
        _axes(scope, item)
    flags = {flag.word: flag.degree for flag in item.flags}
    degree = flags.get("homogeneous")
    names = [p.name for p in item.inputs]
    if isinstance(degree, str) and degree not in names:
        span = next(flag.span for flag in item.flags if flag.degree == degree)
        scope.unknown(f"input of {item.op}", degree, span, names, "unknown-port")
    for port in item.inputs:
        if port.within is not None:
            message = f"`{port.name}` is an input: only results have ends"
            scope.error("unknown-port", message, port.span, f"say it of the operator that makes `{port.name}`")
    return Signature(
        op=item.op,
        inputs=tuple(_port(p) for p in item.inputs),
        outputs=tuple(_port(p) for p in item.outputs),
        commutative="commutative" in flags,
        homogeneous="homogeneous" in flags,
        degree=1 if degree is None else degree,
        multiplicative="multiplicative" in flags,
        elementwise="elementwise" in flags,
        sliding="sliding" in flags,
        spreading="spreading" in flags,
        span=item.span,
        where=None if item.where is None else _relations(scope, item, item.where),
        ports=(tuple(p.name for p in item.inputs), tuple(p.name for p in item.outputs)),
    )


def _relations(scope: Scope, item: syntax.OpSignature, where: syntax.Expr) -> syntax.Expr:
    """What is said of a valid node may speak of its ports, its attributes, and axes of its own ports."""
    newest = operators.newest_opset()
    schema = operators.operator(item.op, (newest, newest))
    ports = (*item.inputs, *item.outputs)
    known = {p.name for p in ports} | {a.name for p in ports for a in p.axes}
    if schema is not None:
        known |= set(schema.attributes)
        for name in names_in(where):
            if name.name not in known:
                scope.unknown(f"port, axis or attribute of {item.op}", name.name, name.span, known, "unbound-name")
    return where


def _axes(scope: Scope, item: syntax.OpSignature) -> None:
    newest = operators.newest_opset()
    schema = operators.operator(item.op, (newest, newest))
    if schema is None:
        return
    for port in (*item.inputs, *item.outputs):
        for setting in port.axes:
            for name in names_in(setting.value):
                if name.name not in schema.attributes:
                    scope.unknown(
                        f"attribute of {item.op}", name.name, name.span, schema.attributes, "unknown-attribute"
                    )


def _port(port: syntax.SignaturePort) -> Port:
    within = None if port.within is None else (float(port.within[0]), float(port.within[1]))
    return Port(port.role, tuple((a.name, a.value) for a in port.axes), within)


def names_in(expr: object) -> list[syntax.Name]:
    """All names of an expression, from the left; functions and fields are none."""
    if isinstance(expr, syntax.Name):
        return [expr]
    return [name for part in parts(expr) for name in names_in(part)]


_PARTS: dict[type, Callable[[Any], tuple[object, ...]]] = {
    syntax.Field: lambda e: (e.target,),
    syntax.Index: lambda e: (e.target, e.index),
    syntax.Call: lambda e: e.args,
    syntax.Unary: lambda e: (e.operand,),
    syntax.Binary: lambda e: (e.left, e.right),
    syntax.Compare: lambda e: (e.left, e.right),
    syntax.Range: lambda e: (e.low, e.high),
    syntax.SetOf: lambda e: e.items,
    syntax.Boolean: lambda e: e.operands,
    syntax.In: lambda e: (e.item, e.members),
}


def parts(expr: object) -> tuple[object, ...]:
    """The direct sub-expressions."""
    found = _PARTS.get(type(expr))  # a table, since every part of every condition comes here
    return () if found is None else found(expr)


# ---------------------------------------------------------------------------------------------- operator sets


def members(
    scope: Scope,
    term: syntax.OpTerm,
    local: Mapping[str, syntax.OpSet],
    opsets: tuple[int, int],
    trail: tuple[str, ...] = (),
) -> tuple[Member, ...]:
    """The operators that a name stands for: a set of the device, a set of a file, or the operator itself."""
    found = local.get(term.op) or scope.op_sets.get(term.op)
    if found is None:
        if check_operator(scope, term.op, term.span, opsets, (*local, *scope.op_sets)):
            return (Member(term.op, term.conditions),)
        return ()
    if term.op in trail:
        scope.error(
            "recursive-definition", f"operator set `{term.op}` contains itself", found.span, "list the operators"
        )
        return ()
    inner = (*trail, term.op)
    removed = {m.op for t in found.exclude for m in members(scope, t, local, opsets, inner)}
    listed = (m for t in found.include for m in members(scope, t, local, opsets, inner))
    kept: dict[tuple[str, tuple[syntax.Expr, ...]], Member] = {}
    for member in listed:
        if member.op not in removed:
            refined = Member(member.op, (*member.conditions, *term.conditions))
            kept.setdefault((refined.op, refined.conditions), refined)
    return tuple(kept.values())


def check_operator(scope: Scope, op: str, at: Span, opsets: tuple[int, int], sets: Iterable[str] = ()) -> bool:
    """Tells an operator that is not in every opset of the device."""
    if operators.exists(op, opsets, scope.domains):
        return True
    stated = operators.range_of(op, opsets, scope.domains)
    if stated is not None and operators.exists(op):
        low, high = stated
        domain, _ = operators.split(op)
        first = next(
            n for n in range(low, high + 1) if not operators.exists(op, (n, n), ((domain, n, n),) if domain else ())
        )
        ends = [operators.exists(op, (n, n), ((domain, n, n),) if domain else ()) for n in (low, high)]
        cure = "narrow the device's `opset`" if any(ends) else "take an `opset` of the device that has it"
        scope.error(
            "unknown-operator",
            f"`{op}` is not an operator of opset {first}, and the device declares {low} .. {high}",
            at,
            f"{cure}, or leave the operator out",
        )
        return False
    near = operators.suggest(op, (*operators.names(), *sets))
    help_ = f"did you mean `{near}`?" if near else "operators of other domains are written `domain::Name`"
    if not near and not scope.signatures:
        help_ += "; sets of operators come with `use std`"
    scope.error("unknown-operator", f"there is no operator `{op}` in ONNX", at, help_)
    return False
