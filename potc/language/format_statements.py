"""The text of each statement that holds no other statements, as `potc fmt` writes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from potc.language import syntax as s
from potc.language.text import number, operands, quoted, text

WIDTH = 120
INDENT = "  "


def statement(node: Any, column: int = 0) -> list[str]:
    """The lines of a statement. ``column``: how wide what stands before `else` or `=` is written, at least."""
    if isinstance(node, s.RequireStatement):
        return _require(node, column)
    if isinstance(node, s.QTypeDefinition):
        return [f"qtype {node.name:<{column}} = {_types(node.types)}"]
    written = _STATEMENTS[type(node)](node)
    return [written] if isinstance(written, str) else list(written)


def parts_of_lines(node: Any) -> list[Any]:
    """For each line of a statement of several lines that a remark may stand between: what it ends, or None."""
    if isinstance(node, s.Emit):
        return list(node.binds)
    match = node.match if isinstance(node, s.PatternDefinition) else node
    if not isinstance(match, s.Match) or not isinstance(match.body, s.Block):
        return []
    requires = node.requires if isinstance(node, s.PatternDefinition) else ()
    below = [part for r in requires for part in (*[None] * (len(_require(r)) - 1), r)]
    return [None, *match.body.binds, match.body, *below]


# ---------------------------------------------------------------------------------------------- one-line statements


def _listed(lead: str, parts: Sequence[str], tail: str = "") -> list[str]:
    """``lead a, b, c`` on one line if it fits, else filled lines that hang under the first part."""
    lines, current = [], lead
    for k, part in enumerate(parts):
        piece = part + ("," if k < len(parts) - 1 else tail)
        if k and len(current) + 1 + len(piece) > WIDTH - 4:
            lines.append(current)
            current = " " * len(lead) + " " + piece
        else:
            current += " " + piece
    return [*lines, current]


def _condition(lead: str, condition: s.Expr, indent: int | None = None) -> list[str]:
    """``lead condition`` on one line if it fits, else filled lines that each begin with the outermost `and` or `or`."""
    flat = f"{lead} {text(condition)}"
    if len(flat) <= WIDTH - 4 or not isinstance(condition, s.Boolean):
        return [flat]
    hang = " " * (len(lead) + 1 if indent is None else indent)
    first, *rest = operands(condition)
    lines = [f"{lead} {first}"]
    for operand in rest:
        piece = f"{condition.op} {operand}"
        if len(lines[-1]) + 1 + len(piece) <= WIDTH - 4:
            lines[-1] += f" {piece}"
        else:
            lines.append(hang + piece)
    return lines


def _use(n: s.Use) -> str:
    names = f": {', '.join(n.names)}" if n.names else ""
    return f"use {quoted(n.target) if n.is_path else n.target}{names}"


def _term(n: s.OpTerm) -> str:
    return n.op + _conditions(n.conditions)


def _conditions(conditions: Iterable[s.Expr]) -> str:
    inner = ", ".join(text(c) for c in conditions)
    return f"[{inner}]" if inner else ""


def _op_set(n: s.OpSet) -> list[str]:
    lines = _listed(f"ops {n.name} =", [_term(t) for t in n.include])
    if n.exclude:
        lines[-1] += " - " + ", ".join(_term(t) for t in n.exclude)
    return lines


def _port(n: s.SignaturePort) -> str:
    axes = f"({_settings(n.axes)})" if n.axes else ""
    within = f" within [{number(n.within[0])}, {number(n.within[1])}]" if n.within is not None else ""
    return f"{n.name}: {n.role}{axes}{'?' if n.optional else '...' if n.variadic else ''}{within}"


def _flag(n: s.OpFlag) -> str:
    if n.degree is None:
        return f" {n.word}"
    return f" {n.word}({n.degree if isinstance(n.degree, str) else number(n.degree)})"


def _settings(settings: Iterable[s.Setting]) -> str:
    return ", ".join(f"{x.name} = {text(x.value)}" for x in settings)


def _signature(n: s.OpSignature) -> list[str]:
    flags = "".join(map(_flag, n.flags))
    line = f"op {n.op}({', '.join(map(_port, n.inputs))}) -> {', '.join(map(_port, n.outputs))}{flags}"
    if n.where is None:
        return [line]
    flat = f"{line} where {text(n.where)}"
    return [flat] if len(flat) <= WIDTH else [line, *_condition("  where", n.where)]


def _predicate(n: s.Predicate) -> list[str]:
    return _condition(f"pred {n.name}({', '.join(n.parameters)}) =", n.body, 4)


def _extern(n: s.ExternPredicate) -> str:
    return f"extern pred {n.name}({', '.join(n.parameters)}) from {quoted(n.origin)}"


def _pattern_definition(n: s.PatternDefinition) -> list[str]:
    parameters = ", ".join(p.name if p.kind == "any" else f"{p.name}: {p.kind}" for p in n.parameters)
    first, *rest = _match(n.match)
    requires = [INDENT + line for r in n.requires for line in _require(r)]
    return [f"pattern {n.name}({parameters}) {first}", *rest, *requires]


def _device_algebra(n: s.DeviceAlgebra) -> str:
    return f"device {n.name} = {_device_expr(n.value)}"


def _device_expr(n: s.DeviceExpr) -> str:
    if isinstance(n, s.DeviceReference):
        return n.name + (f" with ({_settings(n.settings)})" if n.settings else "")
    right = _device_expr(n.right)  # `&` groups to the left
    return f"{_device_expr(n.left)} & {f'({right})' if isinstance(n.right, s.DeviceCombination) else right}"


def _feature(n: s.FeatureDefinition) -> str:
    return f"feature {n.name}: {n.type} = {text(n.value)}"


def _accum(n: s.Accum) -> str:
    along = f" along ({', '.join(n.along)})" if n.along else ""
    return f"accum {n.storage} lanes {n.lanes}{along}{f' unless {text(n.unless)}' if n.unless is not None else ''}"


def _where(n: s.Pass | s.SameScale, word: str) -> list[str]:
    lines = _listed(word, [_term(t) for t in n.terms])
    if n.where is not None:
        lines[-1] += f" where {text(n.where)}"
    return lines


def _prefer(n: s.PreferStatement) -> str:
    return f"prefer {n.winner} over {n.loser}{f' because {quoted(n.because)}' if n.because is not None else ''}"


# ---------------------------------------------------------------------------------------------- patterns


def _match(n: s.Match) -> list[str]:
    if isinstance(n.body, s.Block):
        width = max(len(", ".join(b.names)) for b in n.body.binds)
        binds = [f"{INDENT}{', '.join(b.names):<{width}} = {_node(b.node)}" for b in n.body.binds]
        return ["match {", *binds, "}"]
    steps = [_step(step) for step in n.body.steps]
    flat = f"match {' '.join(steps)}"
    if len(flat) <= WIDTH - 4:
        return [flat]
    return [f"match {steps[0]}", *(f"      {step}" for step in steps[1:])]


def _step(n: s.ChainStep) -> str:
    edge = f"{n.edge} " if n.edge else ""
    body = (
        _node(n.alternatives)
        if isinstance(n.alternatives, s.NodePattern)
        else f"({' | '.join(map(_chain, n.alternatives))})"
    )
    times = {(1, 1): "", (0, 1): "?"}.get((n.low, n.high), f" * {n.low} .. {n.high}")
    return f"{edge}{'not ' if n.negative else ''}{body}{times}{f' as {n.name}' if n.name is not None else ''}"


def _chain(n: s.Chain) -> str:
    return " ".join(_step(step) for step in n.steps)


def _node(n: s.NodePattern) -> str:
    op = n.ops[0] if len(n.ops) == 1 else f"any({', '.join(n.ops)})"
    args = "" if n.args is None else f"({', '.join(map(_arg, n.args))})"
    return f"{op}{_conditions(n.conditions)}{args}"


def _arg(n: s.PatternArg) -> str:
    if isinstance(n, s.ArgPrevious):
        return "prev"
    if isinstance(n, s.ArgLiteral):
        return number(n.value) + (f" within {number(n.tolerance)}" if n.tolerance else "")
    if isinstance(n, s.ArgNested):
        return _node(n.node)
    if n.name == "_":
        return "const" if n.kind == "const" else "_"
    kind = "" if n.kind == "any" else f": {n.kind}"
    return f"{n.name}{kind}{'?' if n.optional else '...' if n.variadic else ''}"


# ---------------------------------------------------------------------------------------------- types and rule statements


def _modifier(n: s.Modifier) -> str:
    if n.name == "per_block":
        return f"per_block({n.axis}, {n.block})"
    if n.name == "fixed":
        return f"fixed({_settings(n.settings)})"
    return n.name if n.axis is None else f"{n.name}({n.axis})"


def _type(n: s.TypeForm | s.TypeReference | s.NoType) -> str:
    if isinstance(n, s.NoType):
        return "none"
    limits = f"[{n.limits[0]}..{n.limits[1]}]" if isinstance(n, s.TypeForm) and n.limits is not None else ""
    name = n.storage if isinstance(n, s.TypeForm) else n.name
    return " ".join((name + limits, *map(_modifier, n.modifiers)))


def _types(n: s.TypeList) -> str:
    return " | ".join(map(_type, n.types))


def _require(n: s.RequireStatement, column: int = 0) -> list[str]:
    """On one line if it fits, in its column if that fits too; a long reason stands below its condition."""
    if n.reason is not None:
        for width in (column, 0):
            flat = f"require {text(n.condition):<{width}} else {quoted(n.reason)}"
            if len(flat) <= WIDTH - 4:
                return [flat]
    reason = [f"{INDENT * 2}else {quoted(n.reason)}"] if n.reason is not None else []
    return [*_condition("require", n.condition), *reason]


def _quant(n: s.Quant) -> list[str]:
    return _listed("quant", [_assign(a) for a in n.assigns])


def _assign(n: s.QuantAssign) -> str:
    return f"{', '.join(map(_target, n.targets))}: {_choice(n.choice)}"


def _target(n: s.Target) -> str:
    return f"{n.name}{'...' if n.variadic else ''}"


def _choice(n: s.QuantChoice) -> str:
    written = _types(n.types)
    if n.derived is not None:
        written += f" = {text(n.derived)}"
    if n.condition is not None and n.otherwise is not None:
        written += f" when {text(n.condition)} else {_choice(n.otherwise)}"
    return written


def _emit(n: s.Emit) -> list[str]:
    width = max(len(b.name) for b in n.binds)
    lines = [f"{b.name:<{width}} = {_emitted(b.value)}" for b in n.binds]
    return [f"emit {lines[0]}", *(f"     {line}" for line in lines[1:])]


def _emitted(n: s.Expr | s.NodeCall) -> str:
    if not isinstance(n, s.NodeCall):
        return text(n)
    inner = [
        *([f"attrs of {n.copy_from}"] if n.copy_from is not None else []),
        *([_settings(n.attributes)] if n.attributes else []),
    ]
    return f"{n.op}[{', '.join(inner)}]({', '.join(map(text, n.args))})"


def _expect(n: s.Expect) -> str:
    names = ", ".join(n.names)
    match n.what:
        case "types":
            assert n.types is not None
            return f"expect {names}: {_types(n.types)}"
        case "rule":
            return f"expect rule {n.rule} covers {names}"
        case "error":
            return f"expect error {n.rule}"
        case _:
            return f"expect {n.what} {names}"


_STATEMENTS: dict[type, Callable[[Any], str | list[str]]] = {
    s.Use: _use,
    s.OpSet: _op_set,
    s.OpSignature: _signature,
    s.Predicate: _predicate,
    s.ExternPredicate: _extern,
    s.PatternDefinition: _pattern_definition,
    s.DeviceAlgebra: _device_algebra,
    s.PreferStatement: _prefer,
    s.Expect: _expect,
    s.OpsetRange: lambda n: f"opset {n.domain} {n.low} .. {n.high}",
    s.Interchange: lambda n: f"interchange {', '.join(n.types)}",
    s.Requantize: lambda n: "requantize",
    s.FeatureDefinition: _feature,
    s.SetFeature: lambda n: f"set {n.name} = {text(n.value)}",
    s.RemoveRule: lambda n: f"remove rule {n.name}",
    s.GraphPort: lambda n: f"graph {n.direction}: {_types(n.types)}",
    s.Accum: _accum,
    s.Pass: lambda n: _where(n, "pass"),
    s.SameScale: lambda n: _where(n, "same_scale"),
    s.Match: _match,
    s.Quant: _quant,
    s.Unify: lambda n: f"unify {', '.join(map(_target, n.targets))}",
    s.Keep: lambda n: f"keep {n.type} on {', '.join(n.names)}",
    s.Note: lambda n: f"note {quoted(n.text)}",
    s.Speedup: lambda n: f"speedup {number(n.value)}",
    s.Emit: _emit,
}
