"""Which of two rules wins where both match the same nodes: what ``prefer`` says, and what can be proved.

A rule that implies another (every graph that it matches is matched by the other on the same nodes) is the more specific
one and wins. Two rules that nothing orders must never match the same nodes; ``shared_form`` looks for a way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from potc.language import operators
from potc.language.program import Arg, Capture, Kind, Literal, Pattern, Program, Require, Result, Rule
from potc.language.satisfy import entails, satisfiable
from potc.language.syntax import Call, Compare, Expr, Name, Number
from potc.language.variants import Condition, Form, Forms, Placement, Spot, forms_of, placements, renamed


class Forest:
    """The forms of all rules of a program, made once."""

    def __init__(self, program: Program) -> None:
        self.opset = program.opset
        self.commutative = frozenset(op for op, s in program.signatures.items() if s.commutative)
        found = {r.qualified: _forms(r.pattern, r.requires, program.opset) for r in program.rules}
        self.forms: dict[str, Forms] = {name: forms for name, (forms, _) in found.items()}
        self.possible: dict[str, tuple[Form, ...]] = {name: possible for name, (_, possible) in found.items()}
        self.operators = {name: _operators(possible) for name, possible in self.possible.items()}


def _operators(forms: Iterable[Form]) -> frozenset[str]:
    return frozenset(op for form in forms for spot in form.spots for op in spot.ops)


@lru_cache(maxsize=1024)
def _forms(pattern: Pattern, requires: tuple[Require, ...], opsets: tuple[int, int]) -> tuple[Forms, tuple[Form, ...]]:
    """All forms, and those that a graph can have. Devices of one run share many rules."""
    forms = forms_of(pattern, requires, opsets)
    return forms, tuple(f for f in forms.forms if is_possible(f))


class Precedence:
    """The partial order of rules. ``rank``: how many rules are above one, by qualified name."""

    def __init__(self, program: Program, forest: Forest | None = None) -> None:
        forest = forest or Forest(program)
        names = {r.qualified: r for r in program.rules}
        self._losers: dict[str, set[str]] = {name: set() for name in names}
        for prefer in program.prefers:
            if prefer.winner in names and prefer.loser in names:
                self._losers[prefer.winner].add(prefer.loser)
        candidates = [(r, r.qualified, forest.operators[r.qualified]) for r in program.rules if not r.keep]
        for a, name, mine in candidates:
            for b, other, theirs in candidates:
                if a is b or not mine <= theirs or name in self._losers[other] or not implies(a, b, forest):
                    continue
                if not implies(b, a, forest):
                    self._losers[name].add(other)
        self._below = {name: self._reach(name) for name in names}
        self.rank = {name: sum(name in below for below in self._below.values()) for name in names}

    def _reach(self, name: str) -> set[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            for loser in self._losers[waiting.pop()]:
                if loser not in seen:
                    seen.add(loser)
                    waiting.append(loser)
        return seen

    def wins(self, a: Rule, b: Rule) -> bool:
        """True if ``a`` is taken where both match the same nodes."""
        return b.qualified in self._below[a.qualified]

    def ordered(self, a: Rule, b: Rule) -> bool:
        return self.wins(a, b) or self.wins(b, a)


def implies(a: Rule, b: Rule, forest: Forest) -> bool:
    """True if every graph that ``a`` matches is provably matched by ``b`` as well, on the same nodes."""
    possible = forest.possible[a.qualified]
    if not forest.operators[a.qualified] <= forest.operators[b.qualified]:
        return False
    if not forest.forms[a.qualified].complete or forest.forms[b.qualified].guarded or not possible:
        return False
    return all(any(form_implies(x, y, forest) for y in forest.possible[b.qualified]) for x in possible)


# ---------------------------------------------------------------------------------------------- what is known of tensors


@dataclass(slots=True)
class Tensors:
    """The tensors of one or two forms laid on each other: which terms are one tensor, and what is known of each."""

    parent: dict[str, str] = field(default_factory=dict)
    present: set[str] = field(default_factory=set)
    const: set[str] = field(default_factory=set)  # constant where present
    value: set[str] = field(default_factory=set)  # computed where present
    literals: dict[str, Literal] = field(default_factory=dict)
    clash: bool = False

    def find(self, term: str) -> str:
        while (above := self.parent.get(term, term)) != term:
            term = above
        return term

    def join(self, a: str, b: str) -> None:
        a, b = sorted((self.find(a), self.find(b)), reverse=True)  # outputs give the name
        self.parent[b] = a

    def add(self, term: str, arg: Arg) -> None:
        term = self.find(term)
        if isinstance(arg, Result):
            self.present.add(term)
            self.value.add(term)
        elif isinstance(arg, Literal):
            self.present.add(term)
            self.const.add(term)
            before = self.literals.setdefault(term, arg)
            reach = before.tolerance * abs(before.value) + arg.tolerance * abs(arg.value)
            self.clash |= abs(before.value - arg.value) > reach
        elif not arg.variadic:
            if not arg.optional:
                self.present.add(term)
            if arg.kind is Kind.CONST:
                self.const.add(term)
            if arg.kind is Kind.VALUE:
                self.value.add(term)

    @property
    def consistent(self) -> bool:
        return not self.clash and not self.present & self.const & self.value

    def facts(self) -> dict[str, bool]:
        """The truth of questions about presence and constants, by their text."""
        found: dict[str, bool] = {f"absent({t})": False for t in self.present}
        found |= {f"absent({t})": True for t in self.const & self.value}
        found |= {f"constant({t})": True for t in self.present & self.const}
        found |= {f"constant({t})": False for t in self.present & self.value}
        return found

    def named(self, conditions: Iterable[Condition]) -> list[Expr]:
        """Conditions that speak of tensors, not of terms."""
        return [self.expr(c.expr) for c in conditions]

    def expr(self, expr: Expr) -> Expr:
        return renamed(expr, lambda n: Name(self.find(n.name), n.span))


def tensors_of(form: Form, placement: Placement | None = None, into: Tensors | None = None) -> Tensors:
    """Joins what is one tensor, then collects what the arguments say; through a placement, in terms of the other form."""
    found = into or Tensors()
    move = placement.term if placement is not None else lambda t: t
    for a, b in form.same:
        found.join(move(a), move(b))
    return found


def fill(found: Tensors, form: Form, placement: Placement | None = None) -> None:
    """Adds what the arguments of a form say of its tensors, once all terms are joined."""
    move = placement.term if placement is not None else lambda t: t
    for k, spot in enumerate(form.spots):
        for port, arg in enumerate(spot.args):
            found.add(move(f"i{k}_{port}"), arg)


def readers(form: Form, found: Tensors) -> list[Expr]:
    """What the edges of a form say: who reads the tensors between its nodes."""
    conditions: list[Expr] = []
    for spot in form.spots:
        if spot.chain and spot.exclusive:
            for arg in spot.args:
                if isinstance(arg, Result):
                    tensor = Name(found.find(f"o{arg.node}"), spot.span)
                    users = Call("users", (tensor,), spot.span)
                    conditions.append(Compare("==", users, Number(1, spot.span), spot.span))
    return conditions


def is_possible(form: Form) -> bool:
    """False if no graph can have this form."""
    found = tensors_of(form)
    fill(found, form)
    return found.consistent and satisfiable([*readers(form, found), *found.named(form.conditions)], found.facts())


# ---------------------------------------------------------------------------------------------- two forms together


@dataclass(frozen=True, slots=True)
class Shared:
    """Two forms that may match the same nodes; ``operators`` of each node, in the order of the first form."""

    a: Form
    b: Form
    placement: Placement
    operators: tuple[frozenset[str], ...]

    @property
    def tensors(self) -> Tensors:
        """What both forms know of their tensors, in terms of the first one."""
        found = tensors_of(self.b, self.placement, tensors_of(self.a))
        fill(found, self.a)
        fill(found, self.b, self.placement)
        return found

    def conditions(self, found: Tensors) -> list[Expr]:
        """The conditions of both, but for those that ask what is stored."""
        mine = found.named(c for c in self.a.conditions if not c.late)
        theirs = (moved(c.expr, self.placement) for c in self.b.conditions if not c.late)
        return [*mine, *map(found.expr, theirs)]


def shared_form(a: Rule, b: Rule, forest: Forest) -> Iterator[Shared]:
    """Ways in which two rules may match the same nodes, smallest first. What is stored does not count: rules are chosen
    before that is known.
    """
    pairs = [(x, y) for x in forest.possible[a.qualified] for y in forest.possible[b.qualified]]
    for x, y in sorted(pairs, key=lambda p: len(p[0].spots)):
        for placement in placements(x, y, forest.commutative):
            back = {i: j for j, i in placement.spot.items()}
            operators_ = tuple(s.ops & y.spots[back[i]].ops for i, s in enumerate(x.spots))
            shared = Shared(x, y, placement, operators_)
            if _together(shared):
                yield shared
                break


def _together(shared: Shared) -> bool:
    found = shared.tensors
    if not found.consistent or any(_is_folded(found, spot, i) for i, spot in enumerate(shared.a.spots)):
        return False
    return satisfiable([*readers(shared.a, found), *shared.conditions(found)], found.facts())


def _is_folded(found: Tensors, spot: Spot, number: int) -> bool:
    """True for a node with nothing but constants: those are computed before anything is matched."""
    terms = [found.find(f"i{number}_{port}") for port in range(len(spot.args))]
    return len(terms) > 1 and found.const.issuperset(terms)


def moved(expr: Expr, placement: Placement) -> Expr:
    """A condition of form b in terms of form a."""
    return renamed(expr, lambda n: Name(placement.term(n.name), n.span) if _is_term(n.name) else n)


def _is_term(name: str) -> bool:
    return name[0] in "io" and name[1:].replace("_", "").isdigit()


# ---------------------------------------------------------------------------------------------- implication


def form_implies(a: Form, b: Form, forest: Forest, late: bool = True) -> bool:
    """True if whatever has form ``a`` has form ``b`` on the same nodes. ``late``: also what b asks of stored tensors."""
    return any(_implied(a, b, p, forest, late) for p in placements(a, b, forest.commutative))


def _implied(a: Form, b: Form, placement: Placement, forest: Forest, late: bool) -> bool:
    found = tensors_of(a)
    fill(found, a)
    for j, spot in enumerate(b.spots):
        i = placement.spot[j]
        mine = a.spots[i]
        if not mine.ops <= spot.ops or not _orders_fit(mine, spot, i in placement.swapped, forest):
            return False
        if not _edges_fit(a, b, i, j, placement, forest):
            return False
        for port, arg in enumerate(spot.args):
            if not _arg_fits(a, mine, i, placement.port(i, port), arg, placement, found, forest):
                return False
    for one, other in b.same:
        if found.find(placement.term(one)) != found.find(placement.term(other)):
            return False
    known = [*readers(a, found), *found.named(a.conditions)]
    facts = found.facts()
    wanted = (c for c in b.conditions if late or not c.late)
    return all(entails(known, found.expr(moved(c.expr, placement)), facts) for c in wanted)


def _orders_fit(mine: Spot, theirs: Spot, swapped: bool, forest: Forest) -> bool:
    """Two inputs of a commutative operator may come in either order; where b does not look for that, nothing is sure."""
    if swapped and not mine.ops <= forest.commutative:
        return False
    if len(mine.args) == 2 and len(theirs.args) != 2 and mine.ops & forest.commutative:
        return all(isinstance(t, Capture) and t.kind is Kind.ANY and t.name == "_" for t in theirs.args)
    return not swapped or len(theirs.args) == 2


def _edges_fit(a: Form, b: Form, i: int, j: int, placement: Placement, forest: Forest) -> bool:
    """Where b wants no other reader of a tensor between two nodes, a must want that too."""
    mine, theirs = a.spots[i], b.spots[j]
    if theirs.chain and not theirs.exclusive:
        return True
    for arg in theirs.args:
        if not isinstance(arg, Result):
            continue
        made = placement.spot[arg.node]
        if mine.chain:
            # Whoever reads the tensor at another port as well is another reader, the same node included.
            if not mine.exclusive or _reads(mine, made) != _reads(theirs, arg.node):
                return False
            continue
        users = [k for k, s in enumerate(a.spots) for t in s.args if isinstance(t, Result) and t.node == made]
        back = {x: y for y, x in placement.spot.items()}
        if theirs.chain:
            schema = [operators.operator(op, forest.opset) for op in mine.ops]
            if users != [i] or any(s is None or s.most != len(mine.args) for s in schema):
                return False
        elif any(b.spots[back[k]].chain for k in users):
            return False
    return True


def _reads(spot: Spot, node: int) -> int:
    return sum(isinstance(a, Result) and a.node == node for a in spot.args)


def _arg_fits(
    a: Form, mine: Spot, i: int, port: int, arg: Arg, placement: Placement, found: Tensors, forest: Forest
) -> bool:
    """True if what a says of a port is enough for an argument of b."""
    given = mine.arg(port)
    if isinstance(arg, Result):
        return isinstance(given, Result) and (given.node, given.output) == (placement.spot[arg.node], arg.output)
    term = found.find(f"i{i}_{port}")
    if isinstance(arg, Literal):
        before = found.literals.get(term)
        return before is not None and before.value == arg.value and before.tolerance <= arg.tolerance
    if arg.variadic:
        return arg.kind is Kind.ANY or (isinstance(given, Capture) and given.variadic and given.kind is arg.kind)
    if not arg.optional and term not in found.present:
        schemas = [operators.operator(op, forest.opset) for op in mine.ops]
        if any(s is None or s.fewest <= port for s in schemas):
            return False
    if arg.kind is Kind.ANY:
        return True
    return term in (found.const if arg.kind is Kind.CONST else found.value)
