"""Everything that `potc test` finds out about one file, as one value: tests, rewrites, coverage, drawn graphs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from potc.diagnostics.diagnostic import Diagnostic, Severity
from potc.diagnostics.render_json import render_json
from potc.language.program import Program
from potc.language.resolve import load_rewrites
from potc.language.syntax import RewriteDefinition
from potc.workbench.coverage import Coverage, coverage, coverage_json
from potc.workbench.run_tests import FileRun, Outcome

if TYPE_CHECKING:
    from potc.workbench.fuzz import Failure


@dataclass(frozen=True, slots=True)
class FileReport:
    """``findings``: what is wrong beside failed tests; ``notes``: what else was tried, in words."""

    run: FileRun
    coverage: Coverage | None
    findings: tuple[Diagnostic, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What fails the file beside its tests; warnings don't."""
        return tuple(d for d in self.findings if d.severity is Severity.ERROR)

    @property
    def passed(self) -> bool:
        return not self.errors and all(o.status == "passed" for o in self.run.outcomes)


def report_on(run: FileRun, with_coverage: bool, fuzz: int = 0, seed: int = 0) -> FileReport:
    """The tests that were run, and what else was asked for."""
    findings, notes = _fuzzed(run, fuzz, seed) if fuzz else ((), ())
    return FileReport(run, coverage(run) if with_coverage else None, findings, notes)


def _fuzzed(run: FileRun, count: int, seed: int) -> tuple[tuple[Diagnostic, ...], tuple[str, ...]]:
    """Drawn graphs for each device of a file, or for its rewrites; what is wrong with rules of other files is not told."""
    from potc.workbench.fuzz import fuzz

    findings: dict[Diagnostic, None] = {}
    notes: list[str] = []
    for device, program in _programs(run).items():
        if not any(r.span.source.path == run.path for part in program.members for r in (*part.rules, *part.rewrites)):
            continue
        found = fuzz(program, count, seed)
        told = {_drawn(f): None for f in found.failures if f.at.source.path == run.path}
        findings |= told
        notes.append(
            f"{run.path}: {device}: {found.matched} drawn graphs matched; of {found.broken} with a broken constraint, "
            f"{found.named} were told by it"
        )
    return tuple(findings), tuple(notes)


def _programs(run: FileRun) -> Mapping[str, Program]:
    """The devices of a file; where there is none, its rewrites as a device."""
    if run.programs or not any(isinstance(i, RewriteDefinition) for i in run.library.main.items):
        return run.programs
    return {"rewrites": load_rewrites(run.path)}


def _drawn(failure: Failure) -> Diagnostic:
    """A drawn graph that is not treated as the rule says; where none was found, nothing is proved."""
    severity = Severity.WARNING if failure.kind == "undrawn" else Severity.ERROR
    return Diagnostic(
        "failed-fuzz",
        f"`{failure.rule}`: {failure.message}",
        severity,
        at=failure.at,
        help="make a test of the graph, and correct the rule" if failure.graph else "test this by hand",
        example=failure.graph or None,
    )


def report_json(reports: Iterable[FileReport]) -> dict[str, object]:
    """The report as plain values: the same results give the same text."""
    reports = tuple(reports)
    outcomes = [o for r in reports for o in r.run.outcomes]
    return {
        "format": "potc test 1",
        "passed": all(r.passed for r in reports),
        "counts": {s: sum(o.status == s for o in outcomes) for s in ("passed", "failed", "error")},
        "files": [_file(r) for r in reports],
    }


def _file(report: FileReport) -> dict[str, object]:
    found: dict[str, object] = {
        "file": report.run.path,
        "tests": [_outcome(o) for o in report.run.outcomes],
        "findings": [json.loads(render_json(d)) for d in report.findings],
        "notes": list(report.notes),
    }
    return found | ({} if report.coverage is None else {"coverage": coverage_json(report.coverage)})


def _outcome(outcome: Outcome) -> dict[str, object]:
    told = {f.expect.span: f for f in outcome.failures}
    return {
        "title": outcome.test.title,
        "device": outcome.device,
        "line": outcome.test.span.line,
        "status": outcome.status,
        "failures": [
            {
                "line": span.line,
                "expected": f.expected,
                "found": f.found,
                "reasons": [{"rule": r.rule, "place": r.place, "reason": r.reason} for r in f.reasons],
                "instead": None if f.instead is None else list(f.instead),
            }
            for span, f in told.items()
        ],
        "diagnostics": [json.loads(render_json(d)) for d in outcome.diagnostics],
    }
