"""What a device that extends another allows beyond it: a limit that an override forgets is rarely meant.

Deliberate widening says why: an override has a ``note``, a set or qtype that replaces an inherited one has ``##`` above it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Related, Severity
from potc.diagnostics.source import Span
from potc.language import syntax
from potc.language.devices import Inherited, inherit
from potc.language.files import Library
from potc.language.lattice import allows, spell
from potc.language.numbers import all_types
from potc.language.precedence import Forest, implies
from potc.language.program import Program, QType, Rule
from potc.language.resolve import device_setting
from potc.language.rules import Setting, resolve_rule
from potc.language.scope import Scope, members
from potc.language.variants import nodes_of

_RULE_HELP = "repeat the parent's limit, or say in a `note` why this device can do more"
_DEFINITION_HELP = "keep to what the parent allows, or say above it by `##` why this device can do more"


def find_widened(library: Library, scope: Scope, programs: tuple[Program, ...], problems: Diagnostics) -> None:
    """Tells ``widened-limit`` of all devices of the main file that extend others."""
    by_name = {p.device: p for p in programs}
    for device in library.main.items:
        if isinstance(device, syntax.Device) and device.parents and device.name in by_name:
            parents = _parents(scope, device)
            setting = device_setting(library, scope, inherit(scope, device), {})
            for item in device.items:
                if isinstance(item, syntax.RuleDefinition) and item.override:
                    _rule(item, device.name, parents, setting, by_name[device.name], problems)
                elif isinstance(item, syntax.OpSet | syntax.QTypeDefinition) and not item.doc:
                    _definition(item, parents, setting, problems)


def _parents(scope: Scope, device: syntax.Device) -> list[Inherited]:
    found = (scope.devices.get(name) for name in device.parents)
    return [inherit(scope, parent) for parent in found if isinstance(parent, syntax.Device)]


def _tell(problems: Diagnostics, message: str, at: Span, label: str, other: Span, there: str, help_: str) -> None:
    related = (Related(other, there),)
    problems.add(
        Diagnostic("widened-limit", message, Severity.WARNING, at=at, label=label, related=related, help=help_)
    )


# ---------------------------------------------------------------------------------------------- rules


def _rule(
    item: syntax.RuleDefinition,
    device: str,
    parents: list[Inherited],
    setting: Setting,
    program: Program,
    problems: Diagnostics,
) -> None:
    entry = next((p.rules[item.name] for p in parents if item.name in p.rules), None)
    if entry is None or any(isinstance(i, syntax.Note) for i in item.items):
        return
    new, old = resolve_rule(setting, item, device), resolve_rule(setting, entry[0], entry[1])
    if new is None or old is None or new.is_float:
        return
    if old.is_float:
        message = f"`{new.name}` quantizes what `{old.qualified}` keeps in float"
        _tell(problems, message, new.span, "quantized here", old.span, "float here", _RULE_HELP)
        return
    for at, label, other, there in _wider(new, old, program):
        message = f"`{new.name}` allows more than `{old.qualified}`, which it replaces"
        _tell(problems, message, at, label, other, there, _RULE_HELP)


def _wider(new: Rule, old: Rule, program: Program) -> Iterator[tuple[Span, str, Span, str]]:
    """Places in the new rule and in the old one, with labels."""
    if not _implies(new, old, program):
        more = sorted(_operators(new) - _operators(old))
        missing = [r for r in old.requires if not _implies(new, replace(old, requires=(r,)), program)]
        if more:
            yield new.pattern.span, f"also {', '.join(more)}", old.pattern.span, "not here"
        elif _implies(new, replace(old, requires=()), program):
            for require in missing:
                yield new.span, "without this limit", require.span, "the limit of the parent"
        else:
            yield new.pattern.span, "matches more", old.pattern.span, "than this"
    before = {q.target: q for q in old.quants}
    for quant in new.quants:
        other = before.get(quant.target)
        if other is not None:
            wider = _beyond(tuple(all_types(quant.choice)), tuple(all_types(other.choice)))
            if wider:
                yield quant.span, f"also {wider}", other.span, _spelled(tuple(all_types(other.choice)))
    for group in old.unify:
        if not any(set(group) <= set(g) for g in new.unify):
            yield new.span, f"without `unify {', '.join(group)}`", old.span, "one scale here"


def _implies(a: Rule, b: Rule, program: Program) -> bool:
    return implies(a, b, Forest(replace(program, rules=(a, b), prefers=())))


def _operators(rule: Rule) -> set[str]:
    return {op for node in nodes_of(rule.pattern) for op in node.ops}


def _beyond(new: tuple[QType, ...], old: tuple[QType, ...]) -> str:
    return _spelled(tuple(t for t in new if not any(allows(o, t) for o in old))) if old else ""


def _spelled(types: tuple[QType, ...]) -> str:
    return " | ".join(dict.fromkeys(map(spell, types)))


# ---------------------------------------------------------------------------------------------- sets and qtypes


def _definition(
    item: syntax.OpSet | syntax.QTypeDefinition, parents: list[Inherited], setting: Setting, problems: Diagnostics
) -> None:
    for parent in parents:
        if isinstance(item, syntax.OpSet):
            old_set = parent.sets.get(item.name)
            wider = "" if old_set is None else ", ".join(sorted(_members(item, setting) - _members(old_set, setting)))
            other = None if old_set is None else old_set.span
        else:
            old_types = parent.qtypes.get(item.name)
            mine = setting.formats.alternatives(item.types).types
            theirs = () if old_types is None else setting.formats.alternatives(old_types.types).types
            wider, other = _beyond(mine, theirs), None if old_types is None else old_types.span
        if wider and other is not None:
            message = f"`{item.name}` allows more than the one that `{setting.device}` inherits"
            _tell(problems, message, item.span, f"also {wider}", other, "inherited from here", _DEFINITION_HELP)
            return


def _members(item: syntax.OpSet, setting: Setting) -> set[str]:
    term = syntax.OpTerm(item.name, (), item.span)
    return {m.op for m in members(setting.scope, term, {**setting.sets, item.name: item}, setting.opsets)}
