"""Rules and rewrites: their statements checked against the pattern that they follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from potc.diagnostics.source import Span
from potc.language import operators, syntax
from potc.language.conditions import Names
from potc.language.expression import ExpressionError, evaluate
from potc.language.formats import Constants, FeatureValue, Formats
from potc.language.patterns import Lowered, Lowering
from potc.language.program import (
    Accumulator,
    Choice,
    EmitNode,
    EmitValue,
    Kind,
    Pattern,
    QuantStatement,
    Require,
    Rewrite,
    Rule,
)
from potc.language.scope import Scope, check_operator


@dataclass(frozen=True, slots=True)
class Setting:
    """What rules of one device share."""

    scope: Scope
    device: str
    opsets: tuple[int, int]
    sets: Mapping[str, syntax.OpSet]
    features: Mapping[str, FeatureValue]
    formats: Formats
    accumulators: tuple[Accumulator, ...]

    def lowering(self) -> Lowering:
        return Lowering(self.scope, self.opsets, self.sets, self.features)

    def names(self, low: Lowered) -> Names:
        return self.lowering().names(low)


def resolve_rule(setting: Setting, definition: syntax.RuleDefinition, device: str) -> Rule | None:
    """One rule, or None where it has no pattern. ``device``: where it is stated."""
    scope = setting.scope
    before = len(scope.problems)
    match = _only_match(scope, definition.items, definition.span, definition.name)
    if match is None:
        return None
    lowering = setting.lowering()
    pattern, low = lowering.pattern(match)
    names = setting.names(low)
    requires = (*low.requires, *_requires(names, definition.items))
    quants = _quants(setting, names, low, definition)
    unify = _unify(scope, names, low, definition)
    keep = _keep(scope, names, low, definition)
    own = tuple(
        a for a in (accumulator(setting, i) for i in definition.items if isinstance(i, syntax.Accum)) if a is not None
    )
    speedups = [i for i in definition.items if isinstance(i, syntax.Speedup)]
    if any(s.value <= 0 for s in speedups) or len(speedups) > 1:
        scope.error(
            "impossible-speedup",
            "`speedup` is one factor above 0",
            speedups[-1].span,
            "write how many times faster the kernel is than float",
        )
    if definition.is_float and quants:
        scope.error(
            "pass-and-quant",
            f"`float {definition.name}` keeps its operators in float and quantizes `{quants[0].target}`",
            quants[0].span,
            "remove `quant`, or write `rule`",
        )
    if not definition.is_float and len(scope.problems) == before:  # a float rule may name inputs for readers
        _unused(scope, low, lowering.used | names.used | {q.target for q in quants})
    return Rule(
        name=definition.name,
        device=device,
        pattern=pattern,
        requires=requires,
        quants=quants,
        unify=unify,
        keep=keep,
        accumulators=own or setting.accumulators,
        is_float=definition.is_float,
        speedup=float(speedups[0].value) if speedups else 1.0,
        doc=definition.doc,
        notes=tuple(i.text for i in definition.items if isinstance(i, syntax.Note)),
        span=definition.span,
    )


def _only_match(scope: Scope, items: Iterable[object], at: Span, name: str) -> syntax.Match | None:
    found = [i for i in items if isinstance(i, syntax.Match)]
    if not found:
        scope.error("missing-match", f"`{name}` matches nothing", at, "add `match`")
        return None
    if len(found) > 1:
        scope.error(
            "duplicate-name",
            f"`{name}` has two `match` statements",
            found[1].span,
            "make two rules, or one pattern with alternatives",
            found[0].span,
        )
    return found[0]


def _requires(names: Names, items: Iterable[object]) -> tuple[Require, ...]:
    found = (i for i in items if isinstance(i, syntax.RequireStatement))
    return tuple(Require(names.checked(i.condition), i.reason, i.span) for i in found)


def _tensor(scope: Scope, names: Names, low: Lowered, name: str, at: Span) -> bool:
    """True if a statement may speak of a tensor by this name."""
    known = {*low.captures, *low.makers}
    if name not in known:
        scope.unknown("captured tensor", name, at, (n for n in known if not n.startswith("_")), "unbound-name")
        return False
    names.used.add(name)
    return True


def _unused(scope: Scope, low: Lowered, used: set[str]) -> None:
    for name, capture in low.captures.items():
        if name in used or name.startswith("_"):
            continue
        scope.warning(
            "unused-capture",
            f"`{name}` is captured and never used",
            capture.span,
            f"write `_`, or `_{name}` if the name is for readers",
        )


def accumulator(setting: Setting, item: syntax.Accum) -> Accumulator | None:
    """The accumulator, or None where a feature switches it off."""
    scope = setting.scope
    if item.storage[0] not in "iu" or item.lanes < 1:
        scope.error(
            "impossible-type",
            "an accumulator is an integer type with at least one lane",
            item.span,
            "write `accum i32 lanes 1`",
        )
        return None
    known = scope.axis_names | {"kernel"}
    for axis in item.along:
        if axis not in known:
            scope.unknown_axis(axis, item.span, known)
    if item.unless is not None and feature_condition(setting.scope, setting.opsets, item.unless, setting.features):
        return None
    return Accumulator(item.storage, item.lanes, item.along, item.span)


def feature_condition(
    scope: Scope, opsets: tuple[int, int], expr: syntax.Expr, features: Mapping[str, FeatureValue]
) -> bool:
    """The truth of a condition over features only; False after a mistake."""
    before = len(scope.problems)
    plain = Names(scope, opsets, features).checked(expr)
    if len(scope.problems) > before:
        return False
    try:
        return bool(evaluate(plain, Constants(features)))
    except ExpressionError as error:
        scope.error(
            "unbound-name",
            f"this condition can't be decided for the device alone: {error}",
            expr.span,
            "ask about features only",
        )
        return False


# ---------------------------------------------------------------------------------------------- quant, unify, keep


def _quants(
    setting: Setting, names: Names, low: Lowered, definition: syntax.RuleDefinition
) -> tuple[QuantStatement, ...]:
    scope = setting.scope
    found: dict[str, QuantStatement] = {}
    assigns = [a for i in definition.items if isinstance(i, syntax.Quant) for a in i.assigns]
    for assign in assigns:
        choice = _choice(setting, names, low, assign.choice)
        for target in assign.targets:
            if not _tensor(scope, names, low, target.name, target.span):
                continue
            if target.name in found:
                scope.error(
                    "duplicate-name",
                    f"`{target.name}` is quantized twice in `{definition.name}`",
                    target.span,
                    "list all types in one place",
                    found[target.name].span,
                )
                continue
            statement = found[target.name] = QuantStatement(target.name, choice, target.span)
            capture = low.captures.get(target.name)
            if statement.derived and (capture is None or capture.kind is Kind.VALUE):
                message = f"`{target.name}` is computed: only the scale of a constant is derived from others"
                scope.error("impossible-type", message, target.span, "remove `= ...`: its scale is measured")
    return tuple(found.values())


def _choice(setting: Setting, names: Names, low: Lowered, choice: syntax.QuantChoice) -> Choice:
    alternatives = setting.formats.alternatives(choice.types)
    derived = _derived(setting.scope, names, low, choice.derived)
    if choice.condition is None:
        return Choice(alternatives, derived=derived)
    condition = names.checked(choice.condition)
    otherwise = None if choice.otherwise is None else _choice(setting, names, low, choice.otherwise)
    return Choice(alternatives, condition, otherwise, derived)


def _derived(scope: Scope, names: Names, low: Lowered, product: syntax.Expr | None) -> tuple[str, ...]:
    """The factors of ``= scale(x) * scale(w)``."""
    if product is None:
        return ()
    factors = _factors(product)
    if factors is None:
        message = "a derived scale is a product of scales"
        scope.error("impossible-type", message, product.span, "write `= scale(x) * scale(w)`")
        return ()
    return tuple(name for name in factors if _tensor(scope, names, low, name, product.span))


def _factors(expr: syntax.Expr) -> tuple[str, ...] | None:
    match expr:
        case syntax.Call("scale", (syntax.Name(name),)):
            return (name,)
        case syntax.Binary("*", left, right):
            first, second = _factors(left), _factors(right)
            return None if first is None or second is None else first + second
        case _:
            return None


def _unify(scope: Scope, names: Names, low: Lowered, definition: syntax.RuleDefinition) -> tuple[tuple[str, ...], ...]:
    groups: list[tuple[str, ...]] = []
    for item in definition.items:
        if isinstance(item, syntax.Unify):
            group = tuple(dict.fromkeys(t.name for t in item.targets if _tensor(scope, names, low, t.name, t.span)))
            groups.append(group)
    return tuple(groups)


def _keep(scope: Scope, names: Names, low: Lowered, definition: syntax.RuleDefinition) -> tuple[str, ...]:
    kept: dict[str, None] = {}
    for item in definition.items:
        if not isinstance(item, syntax.Keep):
            continue
        if not item.type.startswith("f"):
            scope.error(
                "impossible-type",
                f"`keep` holds tensors in float, and `{item.type}` is none",
                item.span,
                "write `keep f32 on ...`",
            )
        if not definition.is_float:
            scope.error(
                "missing-match",
                "`keep` belongs into a `float` statement",
                item.span,
                "write `float NAME { match ... keep f32 on ... }`",
            )
        kept.update((n, None) for n in item.names if _tensor(scope, names, low, n, item.span))
    return tuple(kept)


# ---------------------------------------------------------------------------------------------- rewrites


def resolve_rewrite(setting: Setting, definition: syntax.RewriteDefinition) -> Rewrite | None:
    """One graph edit, its right side split into nodes and values."""
    scope = setting.scope
    before = len(scope.problems)
    match = _only_match(scope, definition.items, definition.span, definition.name)
    if match is None:
        return None
    lowering = setting.lowering()
    pattern, low = lowering.pattern(match)
    names = setting.names(low)
    requires = (*low.requires, *_requires(names, definition.items))
    binds = [b for i in definition.items if isinstance(i, syntax.Emit) for b in i.binds]
    opset = _emitted_opset(scope, setting.opsets, binds)
    emits = _emits(replace(setting, opsets=(opset, setting.opsets[1])), names, low, binds)
    if pattern.result is None or pattern.result not in {b.name for b in binds}:
        wanted = pattern.result or "the result"
        help_ = (
            f"add `{wanted} = ...` to `emit`"
            if pattern.result
            else "name the last step with `as y`, and emit `y = ...`"
        )
        scope.error("missing-result", f"rewrite `{definition.name}` never emits `{wanted}`", definition.span, help_)
    elif binds[-1].name != pattern.result:
        scope.error(
            "missing-result", f"`{pattern.result}` must be emitted last", binds[-1].span, "move its line to the end"
        )
    if len(scope.problems) == before:
        _unused(scope, low, lowering.used | names.used)
    return Rewrite(definition.name, definition.once, opset, pattern, requires, emits, definition.span)


def _emitted_opset(scope: Scope, opsets: tuple[int, int], binds: list[syntax.EmitBind]) -> int:
    """The lowest opset of the range that has all operators of a right side; that of the device where some opset lacks one for
    good, which is told when its line is resolved."""
    nodes = [node for node in (_as_node(bind.value) for bind in binds) if node is not None]
    own = [node.op for node in nodes if not operators.split(node.op)[0]]
    return max((operators.first_opset(op, opsets, scope.domains) or opsets[0] for op in own), default=opsets[0])


def _emits(
    setting: Setting, names: Names, low: Lowered, binds: list[syntax.EmitBind]
) -> tuple[EmitNode | EmitValue, ...]:
    emits: list[EmitNode | EmitValue] = []
    emitted: set[str] = set()
    for bind in binds:
        if bind.name in emitted or bind.name in low.captures:
            setting.scope.error(
                "duplicate-name", f"`{bind.name}` is bound twice", bind.span, "give each line its own name"
            )
        node = _as_node(bind.value)
        if node is None:
            assert not isinstance(bind.value, syntax.NodeCall)
            emits.append(EmitValue(bind.name, names.checked(bind.value), bind.span))
        else:
            emits.append(_emit_node(setting, names, low, bind, node))
        emitted.add(bind.name)
        names.tensors |= {bind.name}
    return tuple(emits)


def _as_node(value: syntax.Expr | syntax.NodeCall) -> syntax.NodeCall | None:
    """A call of an operator makes a node; a call of a function computes a constant."""
    if isinstance(value, syntax.NodeCall):
        return value
    if isinstance(value, syntax.Call) and (value.name[:1].isupper() or "::" in value.name):
        return syntax.NodeCall(value.name, None, (), value.args, value.span)
    return None


def _emit_node(setting: Setting, names: Names, low: Lowered, bind: syntax.EmitBind, node: syntax.NodeCall) -> EmitNode:
    scope = setting.scope
    args = tuple(names.checked(a) for a in node.args)
    if check_operator(scope, node.op, node.span, setting.opsets):
        schema = operators.operator(node.op, setting.opsets, scope.domains)
        if schema is not None:
            if len(args) < schema.fewest or (schema.most is not None and len(args) > schema.most):
                wanted = f"{schema.fewest} .. {schema.most}" if schema.most is not None else f"at least {schema.fewest}"
                scope.error(
                    "wrong-arity",
                    f"{node.op} has {wanted} inputs, found {len(args)}",
                    node.span,
                    f"its inputs are {', '.join(schema.inputs)}",
                )
            for setting_ in node.attributes:
                _attribute(scope, schema, setting_, setting.opsets)
    attributes = tuple((a.name, names.checked(a.value)) for a in node.attributes)
    if node.copy_from is not None:
        if node.copy_from not in low.makers:
            scope.unknown(
                "matched node",
                node.copy_from,
                node.span,
                (n for n in low.makers if not n.startswith("_")),
                "unbound-name",
            )
        names.used.add(node.copy_from)
    return EmitNode(bind.name, node.op, args, attributes, node.copy_from, bind.span)


def _attribute(scope: Scope, schema: operators.Operator, setting: syntax.Setting, opsets: tuple[int, int]) -> None:
    if setting.name in schema.attributes:
        return
    if setting.name in schema.sometimes:
        scope.error(
            "attribute-became-input",
            f"`{setting.name}` of {schema.name} is no attribute in some opset of {opsets[0]} .. {opsets[1]}",
            setting.span,
            "give it as an input, or narrow the device's `opset`",
        )
        return
    scope.unknown(f"attribute of {schema.name}", setting.name, setting.span, schema.attributes, "unknown-attribute")


def first_ops(pattern: Pattern) -> frozenset[str]:
    """Operators of the nodes that a match can be anchored at."""
    return frozenset(op for way in pattern.ways if way.nodes for op in way.nodes[-1].ops)
