"""Statements that must agree on number formats: within a rule, between kernels of a device, between devices of a meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related, Severity
from potc.diagnostics.source import Span
from potc.language.lattice import interchanged, listed, meet, ranked, spell
from potc.language.numbers import all_types
from potc.language.program import Capture, Choice, Kind, Program, QType, QuantStatement, Rule
from potc.language.satisfy import satisfiable
from potc.language.variants import nodes_of


def find_disagreements(program: Program, problems: Diagnostics) -> None:
    """Tells ``empty-meet`` and ``pass-and-quant`` of one device."""
    if program.parts:
        _parts(program, problems)
        return
    for rule in program.rules:
        if not rule.is_float:
            _unified(rule, problems)
            _same_scale(rule, program, problems)
            if not program.requantize:
                _unread(rule, program, problems)
    _pass_and_float(program, problems)
    for statement in (*program.passes, *program.same_scale):
        if statement.where is not None and not satisfiable([statement.where]):
            message = f"the condition on {', '.join(sorted(statement.ops))} is never true"
            at, help_ = statement.where.span, "correct the condition, or remove the statement"
            problems.add(Diagnostic("unreachable-rule", message, at=at, label="never true", help=help_))


# ---------------------------------------------------------------------------------------------- one device


def _unified(rule: Rule, problems: Diagnostics) -> None:
    quants = {q.target: q for q in rule.quants}
    for group in rule.unify:
        found = [quants[name] for name in group if name in quants]
        pair = _disjoint(found)
        if pair is not None:
            a, b = pair
            message = f"`{a.target}` and `{b.target}` of `{rule.name}` share one scale and have no type in common"
            _tell(message, b, a, "allow a common type on both, or take one out of `unify`", problems)


def _same_scale(rule: Rule, program: Program, problems: Diagnostics) -> None:
    """A kernel of one operator all tensors of which share a scale because of the device."""
    for statement in program.same_scale:
        if statement.where is None and any(n.ops <= statement.ops for n in rule.pattern.nodes):
            shared = [q for q in rule.quants if not _is_const(rule, q)]
            pair = _disjoint(shared) if len(rule.pattern.nodes) == 1 and not rule.pattern.tail else None
            if pair is not None:
                a, b = pair
                message = f"`{a.target}` and `{b.target}` of `{rule.name}` have no type in common, and `same_scale` joins them"
                more = (Related(statement.span, "joined here"),)
                _tell(message, b, a, "allow a common type on both", problems, more)


def _disjoint(quants: list[QuantStatement]) -> tuple[QuantStatement, QuantStatement] | None:
    for k, a in enumerate(quants):
        for b in quants[k + 1 :]:
            mine, theirs = tuple(all_types(a.choice)), tuple(all_types(b.choice))
            if mine and theirs and not _meets(mine, theirs):
                return a, b
    return None


def _unread(rule: Rule, program: Program, problems: Diagnostics) -> None:
    """A kernel that stores its result in formats that no kernel of the device reads."""
    made = next((q for q in rule.quants if q.target == rule.pattern.result), None)
    if made is None or _allows_float(made.choice):
        return
    mine = tuple(all_types(made.choice))
    readers = [q for r in program.rules if not r.is_float for q in r.quants if _is_read(r, q)]
    lists = [tuple(all_types(q.choice)) for q in readers]
    if program.graph_output is not None:
        lists.append(program.graph_output.types)
    if not mine or not readers or any(_meets(mine, other, program.interchange) for other in lists if other):
        return
    message = f"`{rule.name}` stores `{made.target}` in formats that no kernel of `{program.device}` reads"
    help_ = "let a kernel read one of them, add `| none` to it, or state `requantize` if the device can convert"
    _tell(message, made, readers[0], help_, problems, severity=Severity.WARNING)


def _is_read(rule: Rule, quant: QuantStatement) -> bool:
    return quant.target != rule.pattern.result and not _is_const(rule, quant)


def _is_const(rule: Rule, quant: QuantStatement) -> bool:
    captures = (a for n in nodes_of(rule.pattern) for a in n.args if isinstance(a, Capture))
    return any(a.name == quant.target and a.kind is Kind.CONST for a in captures)


def _allows_float(choice: Choice | None) -> bool:
    while choice is not None:
        if choice.alternatives.none:
            return True
        choice = choice.otherwise
    return False


def _pass_and_float(program: Program, problems: Diagnostics) -> None:
    """A `float` of a bare operator that is also passed through: the pass never comes to it."""
    for rule in program.rules:
        if not rule.is_float or rule.keep or rule.requires or rule.pattern.tail or len(rule.pattern.nodes) != 1:
            continue
        node = rule.pattern.nodes[0]
        if node.conditions or node.refined or any(isinstance(a, Capture) and a.kind is not Kind.ANY for a in node.args):
            continue
        for statement in program.passes:
            both = sorted(node.ops & statement.ops)
            if both and statement.where is None:
                message = f"{', '.join(both)} passes quantizers through and is kept in float by `{rule.name}`"
                related = (Related(statement.span, "passes through here"),)
                help_ = "take it out of one of the two"
                problems.add(Diagnostic("pass-and-quant", message, at=rule.span, related=related, help=help_))


def _meets(a: Iterable[QType], b: Iterable[QType], interchange: frozenset[str] = frozenset()) -> bool:
    mine = listed(interchanged(ranked(tuple(a)), interchange))
    return any(meet(x, y) is not None for x in mine for y in b)


def _tell(
    message: str,
    at: QuantStatement,
    other: QuantStatement,
    help_: str,
    problems: Diagnostics,
    more: tuple[Related, ...] = (),
    severity: Severity = Severity.ERROR,
) -> None:
    related = (Related(other.span, _spelled(all_types(other.choice))), *more)
    problems.add(
        Diagnostic(
            "empty-meet",
            message,
            severity,
            at=at.span,
            label=_spelled(all_types(at.choice)),
            related=related,
            help=help_,
        )
    )


def _spelled(types: Iterable[QType]) -> str:
    return " | ".join(dict.fromkeys(map(spell, types)))


# ---------------------------------------------------------------------------------------------- devices of a meet


@dataclass(frozen=True, slots=True)
class _Use:
    """What one rule of a device allows at a port of an operator. ``port`` -1: its result."""

    device: str
    op: str
    port: int
    types: tuple[QType, ...]
    none: bool
    span: Span


def _parts(program: Program, problems: Diagnostics) -> None:
    """For each operator that two devices have kernels for: a port at which no kernel of one agrees with any of the other."""
    told: set[tuple[Span, Span]] = set()
    for k, one in enumerate(program.parts):
        for other in program.parts[k + 1 :]:
            theirs = _by_port(other)
            for key, mine in sorted(_by_port(one).items()):
                uses = theirs.get(key, [])
                if not uses or any(u.none for u in (*mine, *uses)) or any(not u.types for u in (*mine, *uses)):
                    continue
                if any(_agree(a, b, one, other) for a in mine for b in uses):
                    continue
                a, b = mine[0], uses[0]
                if (a.span, b.span) not in told:
                    told.add((a.span, b.span))
                    problems.add(_no_agreement(program, a, b))


def _agree(a: _Use, b: _Use, one: Program, other: Program) -> bool:
    mine = listed(interchanged(ranked(a.types), one.interchange))
    theirs = listed(interchanged(ranked(b.types), other.interchange))
    return any(meet(x, y) is not None for x in mine for y in theirs)


def _no_agreement(program: Program, a: _Use, b: _Use) -> Diagnostic:
    port = "the result" if a.port < 0 else f"input {a.port}"
    message = (
        f"`{a.device}` and `{b.device}` agree on no type for {port} of {a.op}, so `{program.device}` keeps it in float"
    )
    return Diagnostic(
        "empty-meet",
        message,
        at=a.span,
        label=f"{a.device}: {_spelled(a.types)}",
        related=(Related(b.span, f"{b.device}: {_spelled(b.types)}"),),
        help="allow a common type, state `interchange` where a loader shifts zero points, or say `float` in one of them",
    )


def _by_port(program: Program) -> dict[tuple[str, int], list[_Use]]:
    found: dict[tuple[str, int], list[_Use]] = {}
    for rule in program.rules:
        if not rule.is_float:
            for use in _uses(rule):
                found.setdefault((use.op, use.port), []).append(use)
    return found


def _uses(rule: Rule) -> Iterator[_Use]:
    """Ports of the operator at which the pattern begins; the result where that operator alone is a match."""
    quants = {q.target: q for q in rule.quants}
    for way in rule.pattern.ways:
        head = way.nodes[-1]
        ends = all(s.low == 0 for s in way.tail)
        ports = [(p, a.name) for p, a in enumerate(head.args) if isinstance(a, Capture) and not a.optional]
        result = way.result if ends else None
        for port, name in (*ports, *([(-1, result)] if result is not None else [])):
            quant = quants.get(name)
            if quant is not None and not quant.derived:
                for op in sorted(head.ops):
                    types = tuple(dict.fromkeys(all_types(quant.choice)))
                    yield _Use(rule.device, op, port, types, _allows_float(quant.choice), quant.span)
