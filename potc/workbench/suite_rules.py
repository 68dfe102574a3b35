"""Rules changed for the sake of a case: without one constraint, with scales that are powers of two, with attributes set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx

from potc.diagnostics.source import Span
from potc.language.program import (
    Alternatives,
    Capture,
    Choice,
    Kind,
    OpStatement,
    Pattern,
    PatternNode,
    Program,
    QType,
    Require,
    Rule,
)
from potc.language.syntax import Boolean, Call, Compare, Expr, Field, Name, Number, TypeName
from potc.sketch.constraints import Constraint, conjuncts
from potc.sketch.variants import newest


def relaxed(rule: Rule, constraint: Constraint) -> Rule:
    """The rule without one constraint."""

    def without(condition: Expr) -> Expr | None:
        parts = tuple(p for p in conjuncts(condition) if p is not constraint.condition)
        if not parts:
            return None
        return parts[0] if len(parts) == 1 else Boolean("and", parts, condition.span)

    requires = tuple(replace(r, condition=left) for r in rule.requires if (left := without(r.condition)) is not None)

    def loose(node: PatternNode) -> PatternNode:
        conditions = tuple(left for c in node.conditions if (left := without(c)) is not None)
        refined = tuple((op, left) for op, c in node.refined if (left := without(c)) is not None)
        return replace(node, conditions=conditions, refined=refined)

    pattern = replace(rule.pattern, nodes=tuple(loose(n) for n in rule.pattern.nodes))
    return replace(rule, requires=requires, pattern=pattern)


def replace_rule(program: Program, part: Program, old: Rule, new: Rule) -> Program:
    """The device with one rule of one part exchanged."""
    changed = replace(part, rules=tuple(new if r is old else r for r in part.rules))
    if not program.parts:
        return changed
    return replace(program, parts=tuple(changed if p is part else p for p in program.parts))


def powers_of_two(program: Program) -> Program:
    """The same device with scales that are powers of two: what is legal for that is legal for it."""

    def changed(part: Program) -> Program:
        rules = tuple(
            replace(r, quants=tuple(replace(q, choice=_choice(q.choice)) for q in r.quants)) for r in part.rules
        )
        ends = (part.graph_input, part.graph_output)
        graph_input, graph_output = (None if end is None else _alternatives(end) for end in ends)
        return replace(part, rules=rules, graph_input=graph_input, graph_output=graph_output)

    if program.parts:
        return replace(program, parts=tuple(changed(p) for p in program.parts))
    return changed(program)


def _choice(choice: Choice) -> Choice:
    otherwise = None if choice.otherwise is None else _choice(choice.otherwise)
    return replace(choice, alternatives=_alternatives(choice.alternatives), otherwise=otherwise)


def _alternatives(stated: Alternatives) -> Alternatives:
    return replace(stated, types=tuple(_power_of_two(t) for t in stated.types))


def _power_of_two(qtype: QType) -> QType:
    return qtype if qtype.scale is not None or qtype.floating else replace(qtype, power_of_two=True)


def passing_rule(part: Program, statement: OpStatement, op: str) -> Rule:
    """An operator that passes codes through, as if it were a kernel that reads something stored."""
    span = statement.span
    schema = newest(op)
    several = schema is not None and schema.inputs[0].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    captured = Capture("x", Kind.VALUE, False, several, span)
    conditions = () if statement.where is None else (statement.where,)
    node = PatternNode(frozenset({op}), (captured,), conditions, "y", span)
    tensor = Name("x", span)
    floats = Compare("==", Field(tensor, "dtype", span), TypeName("f32", span), span)
    stored = Require(Call("stored", (tensor,), span), None, span)
    requires = (stored,) if several else (Require(floats, None, span), stored)  # several tensors have no one type
    name = f"pass {op}"
    pattern = Pattern((node,), (), "y", span)
    return Rule(name, part.device, pattern, requires, (), (), (), (), False, 1.0, "", (), span)


def forms_of_passing(rule: Rule, op: str) -> Iterator[Rule]:
    """A rule of ``passing_rule`` in other forms: numbers above 1 for attributes that must be given, as it is, and with as many
    elements behind as before (which schemas don't ask for)."""
    schema = newest(op)
    first = rule.pattern.nodes[0]
    for name, attribute in sorted(schema.attributes.items()) if schema is not None else ():
        if attribute.required and attribute.type == onnx.defs.OpSchema.AttrType.INTS:
            size = Call("all", (Compare("==", Name(name, first.span), Number(2, first.span), first.span),), first.span)
            pinned = replace(first, conditions=(*first.conditions, size))
            yield replace(rule, pattern=replace(rule.pattern, nodes=(pinned,)))
    yield rule
    made, read = (Field(Name(name, first.span), "size", first.span) for name in ("y", "x"))
    same = Require(Compare("==", made, read, first.span), None, first.span)
    yield replace(rule, requires=(*rule.requires, same))


def away_from_default(attribute: onnx.defs.OpSchema.Attribute, span: Span) -> Iterator[Expr]:
    """Conditions under which an attribute is not what it is when nobody sets it, the plainest number first."""
    kinds = onnx.defs.OpSchema.AttrType
    name = Name(attribute.name, span)
    if attribute.type == kinds.INTS and not attribute.required:
        for value in (2, 1):
            yield Call("all", (Compare("==", name, Number(value, span), span),), span)
    elif attribute.type == kinds.INT:
        default = attribute.default_value.i if attribute.default_value.name else 0
        for value in (int(default) + 1, int(default) - 1):
            yield Compare("==", name, Number(value, span), span)
    elif attribute.type == kinds.FLOAT:
        default = attribute.default_value.f if attribute.default_value.name else 1.0
        yield Compare("==", name, Number(0.5 if default != 0.5 else 0.25, span), span)
