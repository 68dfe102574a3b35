"""Devices: what they inherit, override, remove and set; the statements in force."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from potc.diagnostics.diagnostic import Diagnostic
from potc.language import operators, syntax
from potc.language.arithmetic import kind
from potc.language.expression import ExpressionError, evaluate
from potc.language.formats import Constants, FeatureValue
from potc.language.scope import Scope

_TYPES: Mapping[str, type] = {"bool": bool, "int": int, "float": float}


@dataclass(slots=True)
class Inherited:
    """All statements in force for one device, parents first. ``rules``: name -> (statement, device that states it)."""

    name: str
    doc: str = ""
    rules: dict[str, tuple[syntax.RuleDefinition, str]] = field(default_factory=dict)
    sets: dict[str, syntax.OpSet] = field(default_factory=dict)
    qtypes: dict[str, syntax.QTypeDefinition] = field(default_factory=dict)
    features: dict[str, syntax.FeatureDefinition] = field(default_factory=dict)
    values: dict[str, syntax.SetFeature] = field(default_factory=dict)
    accums: list[syntax.Accum] = field(default_factory=list)
    opset: syntax.OpsetRange | None = None
    domains: dict[str, syntax.OpsetRange] = field(default_factory=dict)
    passes: list[syntax.Pass] = field(default_factory=list)
    same_scale: list[syntax.SameScale] = field(default_factory=list)
    prefers: list[tuple[syntax.PreferStatement, str]] = field(default_factory=list)
    graph: dict[str, syntax.GraphPort] = field(default_factory=dict)
    interchange: set[str] = field(default_factory=set)
    requantize: bool = False


def inherit(scope: Scope, device: syntax.Device, trail: tuple[str, ...] = ()) -> Inherited:
    """A device with everything of its parents. Tells circles, conflicts, overrides of nothing."""
    result = Inherited(device.name, device.doc)
    for name in device.parents:
        parent = _parent(scope, device, name, (*trail, device.name))
        if parent is not None:
            _merge(scope, device, result, parent)
    _own(scope, device, result)
    return result


def _parent(scope: Scope, device: syntax.Device, name: str, trail: tuple[str, ...]) -> Inherited | None:
    """What a device inherits from one parent; None after a mistake."""
    parent = scope.devices.get(name)
    if parent is None:
        scope.unknown("device", name, device.span, scope.devices)
        return None
    if name in trail or len(trail) > 32:
        message = f"device `{device.name}` extends itself"
        scope.error("recursive-definition", message, device.span, "devices have no circles")
        return None
    if isinstance(parent, syntax.Device):
        return inherit(scope, parent, trail)
    if isinstance(parent.value, syntax.DeviceCombination):
        message = f"`{name}` is a meet of devices: it has no rules of its own that `{device.name}` could inherit"
        scope.error("impossible-parent", message, device.span, "extend one of them", parent.span, "the meet")
        return None
    inner = _parent(scope, device, parent.value.name, (*trail, name))
    return None if inner is None else with_settings(inner, parent.value.settings, scope)


def _merge(scope: Scope, device: syntax.Device, result: Inherited, parent: Inherited) -> None:
    own = {i.name for i in device.items if isinstance(i, syntax.RuleDefinition | syntax.RemoveRule)}
    for name, entry in parent.rules.items():
        before = result.rules.get(name)
        if before is not None and before[0] is not entry[0] and name not in own:
            scope.error(
                "duplicate-name",
                f"`{device.name}` inherits two rules `{name}`",
                entry[0].span,
                "override or remove it",
                before[0].span,
                "the other one",
            )
        result.rules.setdefault(name, entry)
    result.sets |= parent.sets
    result.qtypes |= parent.qtypes
    result.features |= parent.features
    result.values |= parent.values
    result.graph |= parent.graph
    result.domains |= parent.domains
    result.interchange |= parent.interchange
    result.requantize |= parent.requantize
    for mine, theirs in (
        (result.accums, parent.accums),
        (result.passes, parent.passes),
        (result.same_scale, parent.same_scale),
        (result.prefers, parent.prefers),
    ):
        mine.extend(t for t in theirs if t not in mine)  # pyright: ignore[reportArgumentType]
    result.opset = parent.opset or result.opset


def _own(scope: Scope, device: syntax.Device, result: Inherited) -> None:
    accums = [i for i in device.items if isinstance(i, syntax.Accum)]
    if accums:
        result.accums = accums
    mine: dict[str, syntax.RuleDefinition] = {}
    for item in device.items:
        if isinstance(item, syntax.RuleDefinition):
            _rule(scope, device, result, mine, item)
        elif isinstance(item, syntax.OpSet):
            _define(scope, device, result.sets, item.name, item)
        elif isinstance(item, syntax.QTypeDefinition):
            _define(scope, device, result.qtypes, item.name, item)
        elif isinstance(item, syntax.FeatureDefinition):
            _define(scope, device, result.features, item.name, item)
        elif isinstance(item, syntax.GraphPort):
            _define(scope, device, result.graph, item.direction, item)
        else:
            _add(scope, device, result, item)


def _add(scope: Scope, device: syntax.Device, result: Inherited, item: syntax.DeviceItem) -> None:
    """Statements that have no name of their own."""
    match item:
        case syntax.RemoveRule(name):
            if name not in result.rules:
                scope.unknown("inherited rule", name, item.span, result.rules)
            result.rules.pop(name, None)
        case syntax.SetFeature():
            _set(scope, result, item)
        case syntax.OpsetRange():
            _opset(scope, result, item)
        case syntax.Pass():
            result.passes.append(item)
        case syntax.SameScale():
            result.same_scale.append(item)
        case syntax.PreferStatement():
            result.prefers.append((item, device.name))
        case syntax.Interchange(types):
            result.interchange |= set(types)
        case syntax.Requantize():
            result.requantize = True
        case _:
            pass


def _rule(
    scope: Scope,
    device: syntax.Device,
    result: Inherited,
    mine: dict[str, syntax.RuleDefinition],
    item: syntax.RuleDefinition,
) -> None:
    name = item.name
    if name in mine:
        scope.error(
            "duplicate-name",
            f"rule `{name}` is defined twice in `{device.name}`",
            item.span,
            "rename one of them",
            mine[name].span,
        )
        return
    if item.override and name not in result.rules:
        scope.unknown("inherited rule", name, item.span, result.rules)
    if not item.override and name in result.rules:
        scope.error(
            "duplicate-name",
            f"`{device.name}` inherits a rule `{name}` already",
            item.span,
            "write `override rule`",
            result.rules[name][0].span,
            "inherited from here",
        )
    mine[name] = item
    result.rules[name] = (item, device.name)


def _define(scope: Scope, device: syntax.Device, table: dict, name: str, item: syntax.DeviceItem) -> None:
    """A definition of this device replaces an inherited one, never another of its own."""
    before = table.get(name)
    if before is not None and any(i is before for i in device.items):
        scope.error(
            "duplicate-name",
            f"`{name}` is defined twice in `{device.name}`",
            item.span,
            "rename one of them",
            before.span,
        )
        return
    table[name] = item


def _set(scope: Scope, result: Inherited, item: syntax.SetFeature) -> None:
    if item.name not in result.features:
        scope.unknown("feature", item.name, item.span, result.features)
    result.values[item.name] = item


def _opset(scope: Scope, result: Inherited, item: syntax.OpsetRange) -> None:
    if not 1 <= item.low <= item.high:
        scope.error(
            "impossible-opset",
            f"`{item.low} .. {item.high}` holds no opset",
            item.span,
            "write the lower one first, from 1",
        )
        return
    newest = operators.newest_of("" if item.domain == "ai.onnx" else item.domain)
    if newest is not None and item.low > newest:
        scope.error(
            "impossible-opset",
            f"opset {item.low} of `{item.domain}` is newer than {newest}, the newest that potc knows",
            item.span,
            "lower it, or update onnx",
        )
        return
    if item.domain == "ai.onnx":
        result.opset = item
    else:
        result.domains[item.domain] = item


# ---------------------------------------------------------------------------------------------- features


def feature_values(scope: Scope, inherited: Inherited, settings: Mapping[str, str]) -> dict[str, FeatureValue]:
    """Defaults, then ``set``, then the command line."""
    values: dict[str, FeatureValue] = {}
    for name, feature in inherited.features.items():
        wanted = _TYPES.get(feature.type)
        if wanted is None:
            scope.unknown("type of a feature", feature.type, feature.span, _TYPES)
            continue
        given = _constant(scope, feature.value, feature.type, name, values)
        changed = inherited.values.get(name)
        if changed is not None:
            given = _constant(scope, changed.value, feature.type, name, values)
        values[name] = given
    for name, word in settings.items():
        if name not in inherited.features:
            known = tuple(inherited.features)
            near = operators.suggest(name, known)
            help_ = (
                f"did you mean `{near}`?" if near else f"features of `{inherited.name}`: {', '.join(known) or 'none'}"
            )
            message = f"device `{inherited.name}` has no feature `{name}`"
            scope.problems.add(Diagnostic("unknown-name", message, help=help_))
        elif name in values:
            values[name] = _from_word(scope, name, word, inherited.features[name], values[name])
    return values


def _constant(
    scope: Scope, expr: syntax.Expr, type_: str, name: str, known: Mapping[str, FeatureValue]
) -> FeatureValue:
    default: FeatureValue = _TYPES[type_]()
    try:
        value = evaluate(expr, Constants(known))
    except ExpressionError as error:
        scope.error(
            "wrong-setting", f"feature `{name}` has no value: {error}", expr.span, f"give a value of type {type_}"
        )
        return default
    if type_ == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not _TYPES[type_]:
        scope.error(
            "wrong-setting",
            f"feature `{name}` is of type {type_}, found {kind(value)}",
            expr.span,
            f"give a value of type {type_}",
        )
        return default
    return value  # type: ignore[return-value]


def _from_word(
    scope: Scope, name: str, word: str, feature: syntax.FeatureDefinition, default: FeatureValue
) -> FeatureValue:
    try:
        if feature.type == "bool":
            return {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}[word.lower()]
        return int(word[:20]) if feature.type == "int" else float(word)
    except (KeyError, ValueError):
        scope.error(
            "wrong-setting",
            f"`{word}` is no {feature.type}, the type of feature `{name}`",
            feature.span,
            f"give a value of type {feature.type}",
        )
        return default


def with_settings(inherited: Inherited, settings: tuple[syntax.Setting, ...], scope: Scope) -> Inherited:
    """``device with (feature = value)``."""
    changed = replace(inherited, values=dict(inherited.values))
    for setting in settings:
        _set(scope, changed, syntax.SetFeature(setting.name, setting.value, setting.span))
    return changed
