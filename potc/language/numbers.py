"""Number formats against accumulators: can a sum of products leave the register that it is added up in?

A product of codes is at most the largest activation code times the largest weight code, both counted from where the kernel
has its 0. Constant weights of a symmetric type with a free scale are narrowed by the compiler until every group of
neighbours fits; anything else must fit as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related, Severity
from potc.diagnostics.source import Span
from potc.language.lattice import spell
from potc.language.program import Accumulator, Capture, Choice, Granularity, Kind, Program, QType, QuantStatement, Rule
from potc.language.variants import nodes_of

FEWEST = 2  # products that a sum must be able to hold: a register that can't add two is no accumulator


@dataclass(frozen=True, slots=True)
class Product:
    """A weight and an activation that a node multiplies, with their types and where those are stated. ``const``: the
    weight is a constant, which the compiler may narrow."""

    weight: QType
    activation: QType
    weight_span: Span
    activation_span: Span
    const: bool


def find_overflows(program: Program, problems: Diagnostics) -> None:
    """Tells ``saturating-accumulator`` and ``overflowing-accumulator`` of one device."""
    for rule in program.rules:
        if not rule.is_float:
            for accumulator in rule.accumulators:
                _check(rule, accumulator, tuple(_products(rule, program)), problems)


def _check(rule: Rule, accumulator: Accumulator, products: tuple[Product, ...], problems: Diagnostics) -> None:
    """Tells the worst product only: one sentence with numbers says more than ten."""
    limit = largest(accumulator.storage)
    if accumulator.lanes > 1:
        # The compiler passes over weight types that don't fit, so one that does is enough for each type of activations.
        fit = {(p.activation, p.activation_span) for p in products if _is_safe(p, accumulator, limit)}
        bad = [p for p in products if (p.activation, p.activation_span) not in fit]
        if bad:
            _saturates(rule, accumulator, max(bad, key=lambda p: _product(p, accumulator)), limit, problems)
    else:
        bad = [p for p in products if limit // max(1, _product(p, accumulator)) < FEWEST]
        if bad:
            _overflows(rule, accumulator, max(bad, key=lambda p: _product(p, accumulator)), limit, problems)


def find_different_lanes(program: Program, problems: Diagnostics) -> None:
    """Tells ``different-lanes``: one weight may be read by two kernels, of a meet's devices say, that pack it differently."""
    narrow = [
        (rule, accumulator, frozenset(op for node in nodes_of(rule.pattern) for op in node.ops))
        for member in program.members
        for rule in member.rules
        for accumulator in rule.accumulators
        if accumulator.lanes > 1 and not rule.is_float
    ]
    for k, (a, mine, ops) in enumerate(narrow):
        for b, other, others in narrow[:k]:
            together = a is b or (a.device != b.device and ops & others)
            if together and mine.along != other.along:
                told = " and ".join(f"({', '.join(x.along)})" for x in (other, mine))
                names = f"`{b.qualified}` and `{a.qualified}` add" if a is not b else f"`{a.qualified}` adds"
                diagnostic = Diagnostic(
                    "different-lanes",
                    f"{names} neighbours along {told}: no weight can be made safe for both",
                    at=mine.span,
                    related=(Related(other.span, "the other order"),),
                    help="state one order in both, or `lanes 1` in one of them",
                )
                problems.add(diagnostic)


def _is_safe(product: Product, accumulator: Accumulator, limit: int) -> bool:
    if _product(product, accumulator) * accumulator.lanes <= limit:
        return True
    return narrows(product) and span_of(product.activation) <= limit


def narrows(product: Product) -> bool:
    """True if the compiler can make the codes of the weights small enough: they shrink towards 0 with a larger scale."""
    weight = product.weight
    return product.const and weight.symmetric and not weight.zero_point and weight.scale is None


def _saturates(rule: Rule, accumulator: Accumulator, worst: Product, limit: int, problems: Diagnostics) -> None:
    total = _product(worst, accumulator) * accumulator.lanes
    sum_ = f"{accumulator.lanes} * {_factors(worst, accumulator)} = {total:,} > {limit:,}"
    if not worst.const:
        why, help_ = "both operands are computed, so neither can be narrowed", "state an `accum` of this rule's own"
    elif narrows(worst):
        why = "even weights of one code each would saturate"
        help_ = f"let activations have at most {limit:,} codes above their lowest, or correct `accum`"
    elif worst.weight.scale is not None:
        why, help_ = "a fixed scale can't be narrowed", "leave the scale free, or allow a narrower range of codes"
    else:
        why, help_ = "codes around a zero point can't be narrowed", "write `sym`, or allow a narrower range of codes"
    _tell(rule, "saturating-accumulator", f"{sum_}: {why}", accumulator, worst, help_, Severity.ERROR, problems)


def _overflows(rule: Rule, accumulator: Accumulator, worst: Product, limit: int, problems: Diagnostics) -> None:
    product = _product(worst, accumulator)
    holds = limit // max(1, product)
    count = "not even one product fits" if not holds else f"only {holds} product fits"
    severity = Severity.WARNING if holds else Severity.ERROR
    sum_ = f"{holds + 1} * {_factors(worst, accumulator)} = {product * (holds + 1):,} > {limit:,}"
    help_ = "allow narrower types, or state a wider accumulator"
    _tell(rule, "overflowing-accumulator", f"{sum_}: {count}", accumulator, worst, help_, severity, problems)


def _tell(
    rule: Rule,
    code: str,
    why: str,
    accumulator: Accumulator,
    worst: Product,
    help_: str,
    severity: Severity,
    problems: Diagnostics,
) -> None:
    count = "products" if accumulator.lanes == 1 else f"{accumulator.lanes} products"
    register = f"{accumulator.storage} accumulator of `{rule.name}`"
    related = [Related(accumulator.span, f"{count} are added into {accumulator.storage} here")]
    if worst.activation_span != worst.weight_span:
        related.insert(0, Related(worst.activation_span, spell(worst.activation)))
    problems.add(
        Diagnostic(
            code,
            f"sums don't fit into the {register}: {why}",
            severity,
            at=worst.weight_span,
            label=spell(worst.weight),
            related=tuple(related),
            help=help_,
        )
    )


# ---------------------------------------------------------------------------------------------- arithmetic


def largest(storage: str) -> int:
    """The largest sum that an accumulator holds."""
    bits = int(storage[1:])
    return (1 << bits - (storage[0] == "i")) - 1


def span_of(qtype: QType) -> int:
    return qtype.high - qtype.low


def magnitude(qtype: QType) -> int:
    """The farthest that a code can be from the zero point; where that is free, it may be at either end.

    The range of a symmetric type ends at the nearer end of its codes: -128 of an i8 stands for values outside.
    """
    if qtype.symmetric and not qtype.zero_point:
        return min(qtype.high, -qtype.low) if qtype.low < 0 else qtype.high
    if qtype.zero_point is not None:
        return max(qtype.high - qtype.zero_point, qtype.zero_point - qtype.low)
    return span_of(qtype)


def _reach(activation: QType, accumulator: Accumulator) -> int:
    """The largest activation code. Kernels with several lanes shift codes to start at 0 (one operand is unsigned there);
    with one lane they take off the zero point."""
    return span_of(activation) if accumulator.lanes > 1 else magnitude(activation)


def _product(product: Product, accumulator: Accumulator) -> int:
    return _reach(product.activation, accumulator) * magnitude(product.weight)


def _factors(product: Product, accumulator: Accumulator) -> str:
    return f"{_reach(product.activation, accumulator)} * {magnitude(product.weight)}"


# ---------------------------------------------------------------------------------------------- scales along axes


def find_axes(program: Program, problems: Diagnostics) -> None:
    """Tells ``impossible-type`` of scales along an axis that the tensor has not: computed tensors have one scale."""
    for rule in program.rules:
        if not rule.is_float:
            for quant in rule.quants:
                several = [t for t in all_types(quant.choice) if t.granularity is not Granularity.PER_TENSOR]
                if several:
                    _axis(rule, quant, several, program, problems)


def _axis(rule: Rule, quant: QuantStatement, several: list[QType], program: Program, problems: Diagnostics) -> None:
    places = [
        (op, port, arg)
        for node in nodes_of(rule.pattern)
        for port, arg in enumerate(node.args)
        if isinstance(arg, Capture) and arg.name == quant.target
        for op in sorted(node.ops)
    ]
    at, label = quant.span, spell(several[0])
    if not places or all(arg.kind is Kind.VALUE for _, _, arg in places):
        made = places[0][2].span if places else rule.pattern.span
        message = f"`{quant.target}` of `{rule.name}` is computed, and computed tensors have one scale"
        related = (Related(made, "computed"),)
        problems.add(
            Diagnostic("impossible-type", message, at=at, label=label, related=related, help="write `per_tensor`")
        )
        return
    for qtype in several:
        named = [_has_axis(op, port, qtype.axis, program) for op, port, _ in places]
        if named and not any(named) and isinstance(qtype.axis, str):
            op, port, arg = places[0]
            message = (
                f"input {port} of {op} has no axis `{qtype.axis}`, along which `{quant.target}` would have its scales"
            )
            related = (Related(arg.span, f"captured as input {port} of {op}"),)
            help_ = "give the axis by number, or name it in an `op` statement"
            problems.add(Diagnostic("impossible-type", message, at=at, label=label, related=related, help=help_))
            return


def _has_axis(op: str, port: int, axis: str | int | None, program: Program) -> bool:
    signature = program.signatures.get(op)
    ports = signature.inputs[port : port + 1] if signature is not None else ()
    return any(name == axis for p in ports for name, _ in p.axes)


# ---------------------------------------------------------------------------------------------- which tensors


def _products(rule: Rule, program: Program) -> Iterator[Product]:
    types = {q.target: (q.span, tuple(all_types(q.choice))) for q in rule.quants}
    for node in nodes_of(rule.pattern):
        for op in sorted(node.ops):
            signature = program.signatures.get(op)
            if signature is None:
                continue
            roles = [p.role for p in signature.inputs]
            captured = [(roles[k], a) for k, a in enumerate(node.args[: len(roles)]) if isinstance(a, Capture)]
            for _, weight in (c for c in captured if c[0] == "weight"):
                for _, activation in (c for c in captured if c[0] == "act"):
                    yield from _pairs(weight, activation, types)


def _pairs(
    weight: Capture, activation: Capture, types: Mapping[str, tuple[Span, tuple[QType, ...]]]
) -> Iterator[Product]:
    if weight.name not in types or activation.name not in types:
        return
    (weight_span, weights), (activation_span, activations) = types[weight.name], types[activation.name]
    for w in weights:
        for a in activations:
            if w.storage[0] in "iu" and a.storage[0] in "iu":
                yield Product(w, a, weight_span, activation_span, weight.kind is Kind.CONST)


def all_types(choice: Choice | None) -> Iterator[QType]:
    """The types of all branches."""
    while choice is not None:
        yield from choice.alternatives.types
        choice = choice.otherwise
