"""From rule files to a ``Program``: the front door of this chapter."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import lru_cache

from potc.diagnostics.diagnostic import Diagnostics, Severity, reject
from potc.diagnostics.source import Span
from potc.language import operators, syntax
from potc.language.conditions import Names
from potc.language.devices import Inherited, feature_values, inherit, with_settings
from potc.language.extern import read_extern_files, with_externs
from potc.language.files import Library, read_library
from potc.language.formats import Formats
from potc.language.patterns import Lowering
from potc.language.program import OpStatement, Prefer, Program, Rewrite, Rule
from potc.language.rules import Setting, accumulator, first_ops, resolve_rewrite, resolve_rule
from potc.language.scope import Scope, build_scope, members

DEFAULT_OPSET = 13  # the first with per-channel DequantizeLinear, what compiled models need at least
NOT_IN_DIGEST = frozenset({"span", "doc", "notes", "reason", "because", "sources", "digest", "warnings", "function"})


def load_rules(
    path_or_name: str,
    *,
    device: str | None = None,
    settings: Mapping[str, str] | None = None,
    externs: Sequence[str] | None = (),
) -> Program:
    """Reads, checks and resolves one device.

    ``path_or_name``: a path, or a shipped file's name in any case (``cpu``). ``device``: one of the file or of the files
    that it uses; the file's first by default. ``settings``: feature values as words. ``externs``: Python files that may
    run, for ``extern pred``; None: nothing will be matched, so none is needed. Raises Rejected.
    """
    library = read_library(path_or_name)
    problems = Diagnostics()
    scope = build_scope(library, problems)
    files = read_extern_files(externs or ())
    program = _resolve(library, scope, choose_device(library, scope, device), settings or {})
    program = program if externs is None else with_externs(program, scope, files)
    _tests(scope)
    problems.stop()
    return _digested(program) if program.externs or files else program


def load_rewrites(path: str) -> Program:
    """The rewrites of a file without devices, as a device that does nothing else. Raises Rejected."""
    library = read_library(path)
    scope = build_scope(library, Diagnostics())
    opsets = (DEFAULT_OPSET, operators.newest_opset())
    rewrites = _rewrites(Setting(scope, "", opsets, {}, {}, Formats(scope, {}, {}), ()))
    scope.problems.stop()
    signatures = dict(sorted(scope.signatures.items()))
    return replace(_nothing("", opsets, library.sources), rewrites=rewrites, signatures=signatures)


def _nothing(name: str, opset: tuple[int, int], sources: tuple[str, ...]) -> Program:
    """A device without statements."""
    return Program(
        device=name,
        opset=opset,
        features={},
        rules=(),
        passes=(),
        same_scale=(),
        prefers=(),
        rewrites=(),
        signatures={},
        accumulators=(),
        graph_input=None,
        graph_output=None,
        interchange=frozenset(),
        requantize=False,
        doc="",
        sources=sources,
        digest="",
    )


def check_scope(library: Library, scope: Scope) -> tuple[Program, ...]:
    """All devices of the main file; a file without any gives one that holds its rewrites. Raises Rejected with all mistakes.

    They have no digest: only what compiles a model needs it."""
    own = [i for i in library.main.items if isinstance(i, syntax.Device | syntax.DeviceAlgebra)]
    concrete = [d for d in own if isinstance(d, syntax.DeviceAlgebra) or not d.abstract]
    programs = [_resolve(library, scope, device, {}, digested=False) for device in concrete]
    if not own:
        programs.append(_loose(library, scope))
    elif programs:  # what no device uses is checked as well
        names = {i.name for i in library.main.items if isinstance(i, syntax.OpSet | syntax.PatternDefinition)}
        _definitions(scope, programs[0].opset, names)
    _tests(scope)
    scope.problems.stop()
    return tuple(programs)


def _definitions(scope: Scope, opsets: tuple[int, int], names: Container[str]) -> None:
    for op_set in scope.op_sets.values():
        if op_set.name in names:
            for term in (*op_set.include, *op_set.exclude):
                members(scope, term, {}, opsets, (op_set.name,))
        if any(d.code == "recursive-definition" for d in scope.problems):
            break  # a circle is told once, not at each set of it
    for pattern in scope.patterns.values():
        if pattern.name in names:
            Lowering(scope, opsets, {}, {}).definition(pattern)


def _loose(library: Library, scope: Scope) -> Program:
    """Sets, patterns and rewrites of a file without devices, against the opsets that most devices declare."""
    opsets = (DEFAULT_OPSET, operators.newest_opset())
    bare = Setting(scope, "", opsets, {}, {}, Formats(scope, {}, {}), ())
    _definitions(scope, opsets, {*scope.op_sets, *scope.patterns})
    signatures = dict(sorted(scope.signatures.items()))
    return replace(_nothing("", opsets, library.sources), rewrites=_rewrites(bare), signatures=signatures)


def choose_device(library: Library, scope: Scope, name: str | None) -> syntax.Device | syntax.DeviceAlgebra:
    """The device to resolve, the file's first one if no name is given. Raises Rejected where there is none."""
    own = [i for i in library.main.items if isinstance(i, syntax.Device | syntax.DeviceAlgebra)]
    if name is None:
        concrete = [d for d in own if not (isinstance(d, syntax.Device) and d.abstract)]
        if not concrete:
            scope.problems.stop()
            raise reject(
                "missing-device",
                f"`{library.main.source.path}` defines no device",
                help="add `device NAME { ... }`, or give a file that has one",
            )
        return concrete[0]
    known = {n.lower(): n for n in scope.devices}
    if name.lower() not in known:
        scope.problems.stop()
        near = operators.suggest(name, tuple(scope.devices))
        help_ = f"did you mean `{near}`?" if near else f"devices: {', '.join(sorted(scope.devices)) or 'none'}"
        raise reject("unknown-name", f"there is no device `{name}`", help=help_)
    return scope.devices[known[name.lower()]]


# ---------------------------------------------------------------------------------------------- meets


def _resolve(
    library: Library,
    scope: Scope,
    device: syntax.Device | syntax.DeviceAlgebra,
    words: Mapping[str, str],
    digested: bool = True,
) -> Program:
    """A device, or a meet with its parts: each once, in an order that does not depend on how the meet is written."""
    if isinstance(device, syntax.Device):
        program = _program(library, scope, inherit(scope, device), words)
        return _digested(program) if digested else program
    stated = _members(scope, device.value, (), (device.name,))
    if isinstance(device.value, syntax.DeviceReference) and len(stated) == 1:
        renamed = replace(_program(library, scope, stated[0], words), device=device.name)  # a variant by another name
        return _digested(renamed) if digested else renamed
    known = {name for inherited in stated for name in inherited.features}
    parts: dict[tuple[str, str], Program] = {}
    for inherited in stated:
        # A word that no part knows is told once for each of them, with its features.
        mine = {n: w for n, w in words.items() if n in inherited.features or n not in known}
        part = _digested(_program(library, scope, inherited, mine))
        parts[part.device, part.digest] = part
    found = tuple(part for _, part in sorted(parts.items()))
    low, high = max((p.opset[0] for p in found), default=1), min((p.opset[1] for p in found), default=0)
    if found and low > high:
        ranges = ", ".join(f"{p.device} {p.opset[0]} .. {p.opset[1]}" for p in found)
        message = f"the devices of `{device.name}` have no opset in common: {ranges}"
        scope.error("impossible-opset", message, device.span, "widen one of the ranges")
    meet = replace(
        _nothing(device.name, (low, high), library.sources),
        features={f"{p.device}.{name}": value for p in found for name, value in p.features.items()},
        rewrites=found[0].rewrites if found else (),  # rewrites belong to files, not to devices
        signatures=found[0].signatures if found else {},
        doc=device.doc,
        warnings=tuple(d for d in scope.problems if d.severity is Severity.WARNING),
        parts=found,
    )
    return _digested(meet) if digested else meet


def _members(
    scope: Scope, expr: syntax.DeviceExpr, settings: tuple[syntax.Setting, ...], trail: tuple[str, ...]
) -> list[Inherited]:
    """The devices of a meet, with the settings that reach them from outside in force."""
    if isinstance(expr, syntax.DeviceCombination):
        return [m for side in (expr.left, expr.right) for m in _members(scope, side, settings, trail)]
    changes = (*expr.settings, *settings)
    device = scope.devices.get(expr.name)
    if device is None:
        scope.unknown("device", expr.name, expr.span, scope.devices)
        return []
    if isinstance(device, syntax.DeviceAlgebra):
        if device.name in trail:
            message = f"device `{device.name}` is computed from itself"
            scope.error("recursive-definition", message, device.span, "devices have no circles")
            return []
        inner = _members(scope, device.value, (), (*trail, device.name))
        known = {name for inherited in inner for name in inherited.features}
        return [
            with_settings(i, tuple(s for s in changes if s.name in i.features or s.name not in known), scope)
            for i in inner
        ]
    return [with_settings(inherit(scope, device), changes, scope)]


# ---------------------------------------------------------------------------------------------- assembly


def device_setting(library: Library, scope: Scope, inherited: Inherited, words: Mapping[str, str]) -> Setting:
    """What all rules of a device share. ``words``: feature values as given from outside."""
    scope.domains = tuple(sorted((name, item.low, item.high) for name, item in inherited.domains.items()))
    opsets = _opsets(library, scope, inherited)
    features = feature_values(scope, inherited, words)
    formats = Formats(scope, inherited.qtypes, features)
    bare = Setting(scope, inherited.name, opsets, inherited.sets, features, formats, ())
    accumulators = tuple(a for a in (accumulator(bare, item) for item in inherited.accums) if a is not None)
    return replace(bare, accumulators=accumulators)


def _program(library: Library, scope: Scope, inherited: Inherited, settings: Mapping[str, str]) -> Program:
    setting = device_setting(library, scope, inherited, settings)
    formats = setting.formats
    for definition in inherited.qtypes.values():
        formats.alternatives(definition.types)  # also those that no rule uses
    rules = _rules(setting, inherited)
    passes = tuple(s for item in inherited.passes for s in _op_statements(setting, item.terms, item.where, item.span))
    same_scale = tuple(
        s for item in inherited.same_scale for s in _op_statements(setting, item.terms, item.where, item.span)
    )
    _pass_and_quant(scope, rules, passes)
    graph = {direction: formats.alternatives(port.types) for direction, port in inherited.graph.items()}
    return Program(
        device=inherited.name,
        opset=setting.opsets,
        domains={name: (low, high) for name, low, high in scope.domains},
        features=setting.features,
        rules=rules,
        passes=passes,
        same_scale=same_scale,
        prefers=_prefers(scope, inherited, rules),
        rewrites=_rewrites(setting),
        signatures=dict(sorted(scope.signatures.items())),
        accumulators=setting.accumulators,
        graph_input=graph.get("input"),
        graph_output=graph.get("output"),
        interchange=frozenset(inherited.interchange),
        requantize=inherited.requantize,
        doc=inherited.doc,
        sources=library.sources,
        digest="",
        warnings=tuple(d for d in scope.problems if d.severity is Severity.WARNING),
    )


def _opsets(library: Library, scope: Scope, inherited: Inherited) -> tuple[int, int]:
    if inherited.opset is None:
        at = scope.devices[inherited.name].span if inherited.name in scope.devices else Span(library.main.source, 0, 0)
        scope.error(
            "impossible-opset", f"device `{inherited.name}` states no opset", at, "add `opset ai.onnx 13 .. 25`"
        )
        return (DEFAULT_OPSET, operators.newest_opset())
    return (inherited.opset.low, inherited.opset.high)


def _rules(setting: Setting, inherited: Inherited) -> tuple[Rule, ...]:
    found = (resolve_rule(setting, definition, device) for definition, device in inherited.rules.values())
    return tuple(sorted((r for r in found if r is not None), key=lambda r: r.qualified))


def _rewrites(setting: Setting) -> tuple[Rewrite, ...]:
    found = (resolve_rewrite(setting, d) for _, d in sorted(setting.scope.rewrites.items()))
    return tuple(r for r in found if r is not None)


def _op_statements(
    setting: Setting, terms: tuple[syntax.OpTerm, ...], where: syntax.Expr | None, span: Span
) -> tuple[OpStatement, ...]:
    """Operators with the same conditions make one statement."""
    scope = setting.scope
    groups: dict[tuple[syntax.Expr, ...], set[str]] = {}
    for term in terms:
        for member in members(scope, term, setting.sets, setting.opsets):
            conditions = (*member.conditions, *(() if where is None else (where,)))
            groups.setdefault(conditions, set()).add(member.op)
    statements: list[OpStatement] = []
    for conditions, ops in groups.items():
        names = Names(scope, setting.opsets, setting.features, attributes_of=frozenset(ops))
        checked = tuple(names.checked(c) for c in conditions)
        joined = None if not checked else checked[0] if len(checked) == 1 else syntax.Boolean("and", checked, span)
        statements.append(OpStatement(frozenset(ops), joined, span))
    return tuple(statements)


def _pass_and_quant(scope: Scope, rules: tuple[Rule, ...], passes: tuple[OpStatement, ...]) -> None:
    for statement in passes:
        if statement.where is not None:
            continue
        for rule in rules:
            both = sorted(first_ops(rule.pattern) & statement.ops)
            if both and not rule.is_float:
                scope.error(
                    "pass-and-quant",
                    f"{', '.join(both)} passes quantizers through and is also the kernel `{rule.name}`",
                    rule.span,
                    "take it out of `pass`, or narrow `pass` by `where`",
                    statement.span,
                    "passes through here",
                )


def _prefers(scope: Scope, inherited: Inherited, rules: tuple[Rule, ...]) -> tuple[Prefer, ...]:
    by_name = {r.name: r.qualified for r in rules} | {r.qualified: r.qualified for r in rules}
    by_name |= {f"{inherited.name}.{r.name}": r.qualified for r in rules}
    known = {n for n in by_name if "." not in n}
    found: list[Prefer] = []
    outer = [
        (p, None)
        for p in scope.prefers
        if all(n.split(".")[0] == inherited.name or "." not in n for n in (p.winner, p.loser))
    ]
    removed = _all_rule_names(scope) - known
    for statement, device in (*inherited.prefers, *outer):
        names = (statement.winner, statement.loser)
        missing = [n for n in names if n not in by_name]
        for name in missing:
            if device in (inherited.name, None) or name.split(".")[-1] not in removed:
                scope.unknown("rule", name, statement.span, known)
        if not missing:
            found.append(Prefer(by_name[statement.winner], by_name[statement.loser], statement.because, statement.span))
    _circles(scope, found)
    return tuple(sorted(set(found), key=lambda p: (p.winner, p.loser)))


def _all_rule_names(scope: Scope) -> set[str]:
    devices = (d for d in scope.devices.values() if isinstance(d, syntax.Device))
    return {i.name for d in devices for i in d.items if isinstance(i, syntax.RuleDefinition)}


def _circles(scope: Scope, prefers: list[Prefer]) -> None:
    """``prefer`` is an order: nothing may win over itself."""
    below: dict[str, set[str]] = {}
    for prefer in prefers:
        below.setdefault(prefer.winner, set()).add(prefer.loser)
    for prefer in prefers:
        seen, waiting = set[str](), [prefer.loser]
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting.extend(below.get(name, ()))
        if prefer.winner in seen:
            scope.error(
                "circular-prefer",
                f"`{prefer.winner}` would be preferred over itself",
                prefer.span,
                "remove one `prefer` of the circle",
            )
            return


def _tests(scope: Scope) -> None:
    """Tests are only checked for the devices that they name; running them is another command's work."""
    for test in scope.tests:
        for name in test.devices:
            if name not in scope.devices:
                scope.unknown("device", name, test.span, scope.devices)


# ---------------------------------------------------------------------------------------------- digest


def digest(program: Program) -> str:
    """sha256 over everything that can change a result: no comments, places, reasons or paths."""
    return hashlib.sha256(canonical(program).encode()).hexdigest()


def _digested(program: Program) -> Program:
    return replace(program, digest=digest(program))


def canonical(value: object) -> str:
    """A text that is the same for statements that mean the same: without comments, places, reasons and paths."""
    names = _counted(type(value))
    if names is not None:
        inner = ",".join([f"{name}={canonical(getattr(value, name))}" for name in names])
        return f"{type(value).__name__}({inner})"
    if isinstance(value, str | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{k}:{canonical(v)}" for k, v in sorted(value.items())) + "}"
    if isinstance(value, frozenset):
        return "{" + ",".join(sorted(canonical(v) for v in value)) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(canonical(v) for v in value) + "]"
    return str(value) if isinstance(value, Enum) else repr(value)


@lru_cache(maxsize=128)
def _counted(kind: type) -> tuple[str, ...] | None:
    """The fields that count, of a class that has fields."""
    return tuple(f.name for f in fields(kind) if f.name not in NOT_IN_DIGEST) if is_dataclass(kind) else None
