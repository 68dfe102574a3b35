"""Everything that `potc test` finds out about one file, as one value: tests, rewrites, coverage, drawn graphs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.render_json import render_json
from potc.workbench.coverage import Coverage, coverage, coverage_json
from potc.workbench.run_tests import FileRun, Outcome, run_tests


@dataclass(frozen=True, slots=True)
class FileReport:
    """``findings``: what is wrong beside failed tests; ``notes``: what else was tried, in words."""

    run: FileRun
    coverage: Coverage | None
    findings: tuple[Diagnostic, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.findings and all(o.status == "passed" for o in self.run.outcomes)


def report_on(
    path: str, selected: Callable[[str], bool], with_coverage: bool, fuzz: int = 0, seed: int = 0
) -> FileReport:
    """Runs what was asked for. Raises Rejected where the file can't be read."""
    run = run_tests(path, selected)
    return FileReport(run, coverage(run) if with_coverage else None, (), ())


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
