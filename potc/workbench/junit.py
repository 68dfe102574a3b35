"""Results of tests as JUnit XML, the form that CI systems read. No times in it: the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.render_text import render
from potc.workbench.run_tests import Outcome
from potc.workbench.test_report import FileReport


def junit(reports: Iterable[FileReport]) -> bytes:
    """One `testsuite` per file, one `testcase` per test and device, rewrite, or device that was fuzzed; `classname` is the
    device, or the kind of check."""
    root = ElementTree.Element("testsuites", name="potc test")
    counts: dict[str, int] = {"tests": 0, "failures": 0, "errors": 0}
    for report in reports:
        run = report.run
        suite = ElementTree.SubElement(root, "testsuite", name=_legal(run.path))
        mine = {
            "tests": len(run.outcomes) + len(report.checks),
            "failures": len(run.outcomes_of("failed")) + sum(bool(c.errors) for c in report.checks),
            "errors": len(run.outcomes_of("error")),
        }
        for name, count in mine.items():
            suite.set(name, str(count))
            counts[name] += count
        for outcome in run.outcomes:
            _case(suite, outcome)
        for check in report.checks:
            case = ElementTree.SubElement(suite, "testcase", name=_legal(check.subject), classname=check.kind)
            if check.errors:
                _told(case, "failure", check.errors)
    for name, count in counts.items():
        root.set(name, str(count))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _case(suite: ElementTree.Element, outcome: Outcome) -> None:
    test = outcome.test
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=_legal(test.title),
        classname=outcome.device,
        file=_legal(test.span.source.path),
        line=str(test.span.line),
    )
    if outcome.status != "passed":
        _told(case, "failure" if outcome.status == "failed" else "error", outcome.diagnostics)


def _told(case: ElementTree.Element, kind: str, diagnostics: Sequence[Diagnostic]) -> None:
    first = diagnostics[0]
    element = ElementTree.SubElement(case, kind, type=first.code, message=_legal(first.message))
    element.text = _legal("\n".join(render(d) for d in diagnostics))


def _legal(text: str) -> str:
    """XML can't hold control characters, not even escaped."""
    return "".join(
        c if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff" and not "\ud800" <= c <= "\udfff") else "?"
        for c in text
    )
