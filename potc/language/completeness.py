"""What a rule file that people rely on should also say, asked for by ``--strict`` only: tests, and reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Severity
from potc.diagnostics.source import Span
from potc.language.program import Program, Rule
from potc.language.scope import Scope

_WORD = re.compile(r"\w+")


def find_missing(scope: Scope, programs: tuple[Program, ...], problems: Diagnostics) -> None:
    """Tells ``untested-rule`` and ``missing-reason``, each rule once however many devices inherit it."""
    told: set[Span] = set()
    devices = [p for program in programs for p in program.members]
    for program in devices:
        for rule in program.rules:
            if rule.span not in told and not any(_is_tested(rule, p, scope, programs) for p in devices):
                told.add(rule.span)
                _tell(problems, "untested-rule", f"no test reaches `{rule.name}`", rule.span, "add a `test` for it")
            for at, what, help_ in _unexplained(rule):
                _tell(problems, "missing-reason", f"{what} of `{rule.name}` gives no reason", at, help_)
        for prefer in program.prefers:
            if prefer.because is None:
                what = f"nothing says why `{prefer.winner}` is preferred over `{prefer.loser}`"
                _tell(problems, "missing-reason", what, prefer.span, 'add `because "..."`')


def _tell(problems: Diagnostics, code: str, message: str, at: Span, help_: str) -> None:
    problems.add(Diagnostic(code, message, Severity.WARNING, at=at, help=help_))


def _unexplained(rule: Rule) -> Iterator[tuple[Span, str, str]]:
    for require in rule.requires:
        if not require.reason:
            yield require.span, "a `require`", 'add `else "..."`: it is what people are told'
    if rule.is_float and not rule.notes and not rule.doc:
        yield rule.span, "the `float`", 'add `note "..."`, or `##` above it'


def _is_tested(rule: Rule, program: Program, scope: Scope, programs: tuple[Program, ...]) -> bool:
    """True if a test names the rule, or its graph for a device that has the rule holds an operator that the match begins at."""
    if all(r.span != rule.span for r in program.rules):
        return False
    default = programs[0].device if programs else ""
    meets = {m.device for m in programs if program in m.members}
    for test in scope.tests:
        named = {e.rule.split(".")[-1] for e in test.expects if e.what == "rule"}
        if not {program.device, *meets} & set(test.devices or (default,)):
            continue
        if rule.name in named or _anchors(rule) & set(_WORD.findall(test.graph)):
            return True
    return False


def _anchors(rule: Rule) -> frozenset[str]:
    return frozenset(op.rpartition("::")[2] for way in rule.pattern.ways for op in way.nodes[-1].ops)
