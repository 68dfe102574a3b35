"""What a rule asks of a graph, one by one: everything that a drawing can break on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from potc.diagnostics.source import Span
from potc.language.program import Capture, Kind, Literal, Pattern, PatternNode, Require, Result, Rewrite, Rule, Step
from potc.language.syntax import Boolean, Expr
from potc.language.text import text
from potc.language.variants import is_late
from potc.sketch.variants import newest, optional_port


@dataclass(frozen=True, slots=True)
class Constraint:
    """One thing that must hold. ``span``: the statement or the part of the pattern that states it.

    ``kind``: "require", "condition" (``[...]``), "constant", "computed", "given" (an input that may not be absent),
    "same" (one name, one tensor), "literal", "edge" (no other reader), "operator", or "excluded" (``not``).
    ``node``: the operator of the pattern that it is about, None for a ``require``; ``arg``: its argument, -1 for none.
    ``optional``: it belongs to a step that need not be taken, so that a smaller match may remain where it is broken.
    ``late``: known only once the kernels are chosen, so the matcher does not see it.
    """

    kind: str
    span: Span
    words: str
    node: PatternNode | None = None
    arg: int = -1
    step: Step | None = None
    condition: Expr | None = None
    require: Require | None = None
    optional: bool = False
    late: bool = False


def constraints(rule: Rule | Rewrite) -> tuple[Constraint, ...]:
    """Every constraint of a rule that can be broken, those of the pattern first, in the order of the file."""
    return (*_pattern(rule.pattern), *_requires(rule.requires))


def conjuncts(condition: Expr) -> tuple[Expr, ...]:
    """The parts that must all be true."""
    if isinstance(condition, Boolean) and condition.op == "and":
        return tuple(c for operand in condition.operands for c in conjuncts(operand))
    return (condition,)


def _requires(requires: tuple[Require, ...]) -> Iterator[Constraint]:
    for require in requires:
        for part in conjuncts(require.condition):
            yield Constraint(
                "require", part.span, f"`{text(part)}`", condition=part, require=require, late=is_late(require)
            )


def _pattern(pattern: Pattern) -> Iterator[Constraint]:
    for way in pattern.ways:
        seen: set[str] = set()
        yield from _dag(way, seen, False)
        yield from _steps(way.tail, seen, False)


def _dag(pattern: Pattern, seen: set[str], optional: bool) -> Iterator[Constraint]:
    """Several nodes that give one result; matches are looked for at the last one's operators."""
    for k, node in enumerate(pattern.nodes):
        if k < len(pattern.nodes) - 1:
            yield Constraint("operator", node.span, f"the operator is {_ops(node)}", node, optional=optional)
            words = f"only the pattern reads what {_ops(node)} makes"
            yield Constraint("edge", pattern.span, words, node, optional=optional)
        yield from _node(node, seen, optional)


def _node(node: PatternNode, seen: set[str], optional: bool) -> Iterator[Constraint]:
    for k, arg in enumerate(node.args):
        if isinstance(arg, Literal):
            words = f"input {k} of {_ops(node)} is {arg.value:g}"
            yield Constraint("literal", arg.span, words, node, k, optional=optional)
        elif isinstance(arg, Capture):
            shown = f"`{arg.name}`" if arg.name != "_" else f"input {k} of {_ops(node)}"
            if arg.kind is Kind.CONST:
                yield Constraint("constant", arg.span, f"{shown} is constant", node, k, optional=optional)
            elif arg.kind is Kind.VALUE:
                yield Constraint("computed", arg.span, f"{shown} is computed", node, k, optional=optional)
            if not arg.optional and not arg.variadic and any(_may_be_absent(op, k) for op in node.ops):
                yield Constraint("given", arg.span, f"{shown} is given", node, k, optional=optional)
            if arg.name != "_" and arg.name in seen and not arg.variadic:
                yield Constraint("same", arg.span, f"{shown} is the same tensor as before", node, k, optional=optional)
            seen.add(arg.name)
    if node.name is not None:
        seen.add(node.name)
    for condition in (*node.conditions, *(refined for _, refined in node.refined)):
        for part in conjuncts(condition):
            yield Constraint("condition", part.span, f"`{text(part)}`", node, condition=part, optional=optional)


def _may_be_absent(op: str, port: int) -> bool:
    schema = newest(op)
    return schema is not None and port < schema.max_input and optional_port(schema, port)


def _steps(steps: tuple[PatternNode | Step | Pattern, ...], seen: set[str], optional: bool) -> Iterator[Constraint]:
    for step in steps:
        if isinstance(step, Pattern):
            yield from _dag(step, seen, optional)
            continue
        if isinstance(step, PatternNode):
            yield Constraint("operator", step.span, f"the operator is {_ops(step)}", step, optional=optional)
            yield Constraint(
                "edge", step.span, f"only {_ops(step)} reads what comes before it", step, optional=optional
            )
            yield from _node(step, seen, optional)
            continue
        if step.negative:
            yield Constraint("excluded", step.span, f"{_named(step)} does not follow", step=step, optional=optional)
            continue
        spare = optional or step.low == 0
        yield Constraint("operator", step.span, f"{_named(step)} follows", step=step, optional=spare)
        if step.exclusive:
            yield Constraint(
                "edge", step.span, f"only {_named(step)} reads what comes before", step=step, optional=spare
            )
        for first, *rest in step.alternatives:
            chosen = spare or len(step.alternatives) > 1
            if isinstance(first, PatternNode):
                yield from _node(first, seen, chosen)
                yield from _steps(tuple(rest), seen, chosen)
            elif isinstance(first, Pattern):
                yield from _dag(first, seen, chosen)
                yield from _steps(tuple(rest), seen, chosen)
            else:
                yield from _steps((first, *rest), seen, chosen)


def reads_previous(node: PatternNode) -> bool:
    """True if a node of a chain reads the tensor before."""
    return not node.args or any(isinstance(a, Result) and a.node < 0 for a in node.args)


def _ops(node: PatternNode) -> str:
    return " | ".join(sorted(node.ops))


def _named(step: Step) -> str:
    """The operators that a step may begin with."""
    names: list[str] = []
    for first, *_ in step.alternatives:
        if isinstance(first, Step):
            names.append(_named(first))
        else:
            nodes = first.nodes if isinstance(first, Pattern) else (first,)
            names.append(_ops(next((n for n in nodes if reads_previous(n)), nodes[0])))
    return " | ".join(names)
