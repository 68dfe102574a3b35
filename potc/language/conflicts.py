"""Rules that contradict one another: overlaps without an order, rules and steps that can never win, rules written twice.

Everything but an overlap is proved from the text alone. An overlap is told only with a model that both rules match:
``confirm`` looks for one, and is asked only for pairs that the text does not keep apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related
from potc.diagnostics.source import Span
from potc.language.precedence import (
    Forest,
    Precedence,
    Shared,
    fill,
    form_implies,
    implies,
    readers,
    shared_form,
    tensors_of,
)
from potc.language.program import Choice, Program, Rule, Step
from potc.language.satisfy import contradiction
from potc.language.variants import Form, nodes_of, steps_of

# The smallest model found that both rules match with equal cover, as text; None if there is none.
Confirm = Callable[[Program, Rule, Rule], str | None]


def find_conflicts(program: Program, problems: Diagnostics, confirm: Confirm | None) -> None:
    """Tells ``overlapping-rules``, ``duplicate-rule``, ``unreachable-rule`` and ``float-never-wins`` of one device."""
    forest = Forest(program)
    order = Precedence(program, forest)
    rules = [r for r in program.rules if not r.keep]
    dead: set[str] = set()
    for rule in rules:
        if _impossible(rule, forest, problems):
            dead.add(rule.qualified)
        else:
            _steps(rule, forest, problems)
    alive = [r for r in rules if r.qualified not in dead]
    for rule in alive:
        winners = [w for w in alive if order.wins(w, rule)]
        if _shadowed(rule, winners, forest, problems):
            dead.add(rule.qualified)
    alive = [r for r in alive if r.qualified not in dead]
    for k, a in enumerate(alive):
        for b in alive[k + 1 :]:
            if not order.ordered(a, b):
                _pair(program, a, b, forest, problems, confirm)


# ---------------------------------------------------------------------------------------------- one rule


def _impossible(rule: Rule, forest: Forest, problems: Diagnostics) -> bool:
    """A rule no form of which can be in any graph."""
    forms = forest.forms[rule.qualified]
    if forest.possible[rule.qualified] or not forms.complete or not forms.forms:
        return False
    smallest = min(forms.forms, key=lambda f: len(f.spots))
    at, label, related, why = _reason(smallest, rule.span)
    message = f"{_what(rule)} can never match{why}"
    problems.add(
        Diagnostic(_code(rule), message, at=at, label=label, related=related, help="remove one of them, or the rule")
    )
    return True


def _code(rule: Rule) -> str:
    return "float-never-wins" if rule.is_float else "unreachable-rule"


def _what(rule: Rule) -> str:
    return f"`{'float ' if rule.is_float else ''}{rule.name}`"


def _reason(form: Form, otherwise: Span) -> tuple[Span, str, tuple[Related, ...], str]:
    """Where to point for a form that no graph has, the label, further places, and why in words."""
    found = tensors_of(form)
    fill(found, form)
    torn = found.present & found.const & found.value
    if torn:
        placed = [(f"i{k}_{port}", a.span) for k, spot in enumerate(form.spots) for port, a in enumerate(spot.args)]
        first, *rest = dict.fromkeys(span for term, span in placed if found.find(term) in torn)
        related = tuple(Related(s, "and here") for s in rest)
        return first, "one tensor here", related, ": one tensor would have to be constant and computed"
    edges = readers(form, found)
    conditions = (*edges, *found.named(form.conditions))
    spans = [*(e.span for e in edges), *(c.span for c in form.conditions)]
    core = list(dict.fromkeys(spans[k] for k in contradiction(conditions, found.facts())))
    if not core:
        return otherwise, "", (), ""
    first, *rest = core
    if not rest:
        return first, "never true here", (), ": its condition is never true"
    related = tuple(Related(s, "excludes the other one") for s in rest)
    return first, "this condition", related, ": its conditions exclude each other"


def _steps(rule: Rule, forest: Forest, problems: Diagnostics) -> None:
    """Optional steps that no match can take, and alternatives that an earlier one makes superfluous."""
    forms = forest.forms[rule.qualified]
    if not forms.complete:
        return
    possible = forest.possible[rule.qualified]
    taken = {choice for form in possible for choice in form.choices}
    for step in steps_of(rule.pattern):
        if step.negative:
            continue
        for index, sequence in enumerate(step.alternatives):
            at = sequence[0].span
            if (step.span, index) not in taken:
                never = [f for f in forms.forms if (step.span, index) in f.choices]
                if not never:
                    continue  # inside of a step that is never taken itself
                place, label, related, why = _reason(min(never, key=lambda f: len(f.spots)), at)
                more = () if place == at else (Related(place, label or "because of this"),)
                message = f"`{rule.name}` can never take this step{why}"
                problems.add(
                    Diagnostic(
                        "unreachable-rule",
                        message,
                        at=at,
                        label="never taken",
                        related=(*more, *related),
                        help="remove the step, or what excludes it",
                    )
                )
            else:
                _contained(rule, step, index, possible, forest, problems)


def _contained(
    rule: Rule, step: Step, index: int, possible: tuple[Form, ...], forest: Forest, problems: Diagnostics
) -> None:
    mine = [f for f in possible if (step.span, index) in f.choices]
    for earlier in range(index):
        others = [f for f in possible if (step.span, earlier) in f.choices and (step.span, index) not in f.choices]
        if mine and all(any(form_implies(f, o, forest) for o in others) for f in mine):
            at, first = step.alternatives[index][0].span, step.alternatives[earlier][0].span
            message = f"an alternative of `{rule.name}` never matches anything that an earlier one does not"
            problems.add(
                Diagnostic(
                    "unreachable-rule",
                    message,
                    at=at,
                    label="adds nothing",
                    related=(Related(first, "matches all of it"),),
                    help="remove it, or put it first if it binds other names",
                )
            )
            return


# ---------------------------------------------------------------------------------------------- two rules


def _shadowed(rule: Rule, winners: list[Rule], forest: Forest, problems: Diagnostics) -> bool:
    """A rule each match of which goes to a rule that wins over it."""
    possible = forest.possible[rule.qualified]
    if not forest.forms[rule.qualified].complete or not possible:
        return False
    used: dict[str, Rule] = {}
    for form in possible:
        winner = next((w for w in winners if _takes(form, w, forest)), None)
        if winner is None:
            return False
        used[winner.qualified] = winner
    names = " and ".join(f"`{w.name}`" for w in used.values())
    verb = "wins" if len(used) == 1 else "win"
    problems.add(
        Diagnostic(
            _code(rule),
            f"{_what(rule)} is never taken: {names} {verb} wherever it matches",
            at=rule.span,
            label="never taken",
            related=tuple(Related(w.span, "matches all of it, and is preferred") for w in used.values()),
            help="remove it, turn the `prefer` around, or let the other one match less",
        )
    )
    return True


def _takes(form: Form, winner: Rule, forest: Forest) -> bool:
    if forest.forms[winner.qualified].guarded:
        return False
    return any(form_implies(form, other, forest, late=False) for other in forest.possible[winner.qualified])


def _pair(program: Program, a: Rule, b: Rule, forest: Forest, problems: Diagnostics, confirm: Confirm | None) -> None:
    """Two rules that nothing orders."""
    shared = next(shared_form(a, b, forest), None)
    if shared is None:
        return
    if implies(a, b, forest) and implies(b, a, forest) and _says(a, shared.a) == _says(b, shared.b):
        first, second = sorted((a, b), key=lambda r: (r.span.source.path, r.span.start))
        problems.add(
            Diagnostic(
                "duplicate-rule",
                f"`{second.name}` is `{first.name}` once more",
                at=second.span,
                label="says the same",
                related=(Related(first.span, "said here"),),
                help="remove one of them",
            )
        )
        return
    example = confirm(program, a, b) if confirm is not None else None
    if example is not None:
        problems.add(
            Diagnostic(
                "overlapping-rules",
                f"`{a.name}` and `{b.name}` both match {_nodes(shared)}, and nothing says which one wins",
                at=a.span,
                label="this rule matches",
                related=(Related(b.span, "and so does this one"),),
                help=f'add `prefer {a.name} over {b.name} because "..."` (or the other way round), or narrow one of them',
                example=example,
            )
        )


def _nodes(shared: Shared) -> str:
    return " -> ".join(" | ".join(sorted(ops)[:3]) + (" | ..." if len(ops) > 3 else "") for ops in shared.operators)


def _says(rule: Rule, form: Form) -> object:
    """What a rule says of the tensors of a form, names replaced by places."""
    quants = {form.terms.get(q.target, q.target): tuple(_branches(q.choice, form)) for q in rule.quants}
    unified = frozenset(frozenset(form.terms.get(n, n) for n in group) for group in rule.unify)
    accumulators = frozenset((a.storage, a.lanes, a.along) for a in rule.accumulators)
    return rule.is_float, rule.speedup, quants, unified, accumulators


def _branches(choice: Choice | None, form: Form) -> Iterator[object]:
    while choice is not None:
        derived = tuple(form.terms.get(n, n) for n in choice.derived)
        yield choice.alternatives.types, choice.alternatives.none, choice.condition, derived
        choice = choice.otherwise


def operators_of(rule: Rule) -> frozenset[str]:
    """All operators that a rule speaks of."""
    return frozenset(op for node in nodes_of(rule.pattern) for op in node.ops)


def anchors(rule: Rule) -> frozenset[str]:
    """Operators of the node at which a match is found."""
    return frozenset(op for way in rule.pattern.ways for op in (way.nodes[-1].ops if way.nodes else ()))
