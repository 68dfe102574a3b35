"""Everything that `potc test` finds out about one file, as one value: tests, rewrites, coverage, drawn graphs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from potc.diagnostics.diagnostic import Diagnostic, Severity
from potc.diagnostics.render_json import render_json
from potc.diagnostics.source import Span
from potc.language.program import Program, Rewrite
from potc.language.resolve import load_rewrites
from potc.language.syntax import RewriteDefinition
from potc.workbench.coverage import Coverage, coverage, coverage_json
from potc.workbench.run_tests import FileRun, Outcome

if TYPE_CHECKING:
    from potc.workbench.fuzz import Failure


GRAPHS = 12  # drawn for each rewrite


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was tried beside the tests. ``subject``: what it was tried on; ``note``: what was seen, in words."""

    kind: str  # "rewrite" or "fuzz"
    subject: str
    findings: tuple[Diagnostic, ...]
    note: str

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What fails the file; warnings don't."""
        return tuple(d for d in self.findings if d.severity is Severity.ERROR)


@dataclass(frozen=True, slots=True)
class FileReport:
    """Tests and checks of one file, in its order; ``coverage`` None: not asked for."""

    run: FileRun
    checks: tuple[Check, ...]
    coverage: Coverage | None

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What fails the file beside its tests."""
        return tuple(d for check in self.checks for d in check.errors)

    @property
    def passed(self) -> bool:
        return not self.errors and all(o.status == "passed" for o in self.run.outcomes)


def report_on(run: FileRun, with_rewrites: bool, with_coverage: bool, fuzz: int = 0, seed: int = 0) -> FileReport:
    """The tests that were run, both sides of the file's rewrites, and what else was asked for. Raises Rejected."""
    programs = _programs(run) if with_rewrites or fuzz else {}
    rewrites = _rewrites(run, programs, seed) if with_rewrites else ()
    fuzzed = _fuzzed(run, programs, fuzz, seed) if fuzz else ()
    return FileReport(run, (*rewrites, *fuzzed), coverage(run) if with_coverage else None)


def _rewrites(run: FileRun, programs: Mapping[str, Program], seed: int) -> tuple[Check, ...]:
    """Both sides of each rewrite of the file, run on the same numbers; for the first device that has it."""
    found: dict[Span, tuple[Program, Rewrite]] = {}
    for program in programs.values():
        for rewrite in program.rewrites:
            if rewrite.span.source.path == run.path:
                found.setdefault(rewrite.span, (program, rewrite))
    return tuple(_rewrite(*found[span], seed) for span in sorted(found, key=lambda s: s.start))


def _rewrite(program: Program, rewrite: Rewrite, seed: int) -> Check:
    from potc.workbench.validate import validation

    seen = validation(program, rewrite, GRAPHS, seed)
    if seen.counterexample is not None:
        example = seen.counterexample.before
        return Check(
            "rewrite", rewrite.name, (replace(seen.counterexample.diagnostic, example=example),), "changes results"
        )
    note = f"both sides agree in {seen.compared} runs" if seen.compared else "no drawn graph could be rewritten"
    return Check("rewrite", rewrite.name, (), note)


def _fuzzed(run: FileRun, programs: Mapping[str, Program], count: int, seed: int) -> Iterator[Check]:
    """Drawn graphs for each device of a file, or for its rewrites; what is wrong with rules of other files is not told."""
    from potc.workbench.fuzz import fuzz

    told: set[Diagnostic] = set()
    for device, program in programs.items():
        if not any(r.span.source.path == run.path for part in program.members for r in (*part.rules, *part.rewrites)):
            continue
        seen = fuzz(program, count, seed)
        findings = dict.fromkeys(_drawn(f) for f in seen.failures if f.at.source.path == run.path)
        fresh = tuple(d for d in findings if d not in told)
        told.update(fresh)
        note = f"{seen.matched} drawn graphs matched; of {seen.broken} with a broken constraint, {seen.named} were told by it"
        yield Check("fuzz", device, fresh, note)


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
        "checks": [_check(c) for c in report.checks],
    }
    return found | ({} if report.coverage is None else {"coverage": coverage_json(report.coverage)})


def _check(check: Check) -> dict[str, object]:
    diagnostics = [json.loads(render_json(d)) for d in check.findings]
    return {"kind": check.kind, "subject": check.subject, "note": check.note, "diagnostics": diagnostics}


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
