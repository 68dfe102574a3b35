"""``potc test``: do the rules of a file do what its tests say?"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from potc.cli.options import color_option, report_format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Rejected, reject

if TYPE_CHECKING:
    from potc.workbench.run_tests import FileRun, Outcome
    from potc.workbench.test_report import FileReport


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for beside running the tests. ``fuzz``: how many graphs, 0 for none."""

    coverage: bool
    fuzz: int
    seed: int
    update: bool
    externs: tuple[str, ...]
    junit: str | None
    pattern: str | None


@click.command("test")
@click.argument("files", nargs=-1, required=True)
@click.option("-k", "pattern", metavar="TEXT", help="Only tests with TEXT in their title; case means nothing.")
@click.option("--coverage", is_flag=True, help="List what no test reaches: rules, steps, answers of `require`.")
@click.option(
    "--fuzz", type=click.IntRange(min=1), metavar="N", help="Draw N graphs from the patterns; each must match."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws other graphs.")
@click.option("--update", is_flag=True, help="Write what was found in place of failed expectations.")
@click.option("--extern", "externs", metavar="FILE.py", multiple=True, help="Let an `extern pred` run this file.")
@click.option("--junit", metavar="FILE", help="Write the results as JUnit XML.")
@report_format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.option("-v", "--verbose", is_flag=True, help="List each test; show the traceback of a bug.")
@click.pass_obj
def command(
    session: Session,
    files: tuple[str, ...],
    pattern: str | None,
    coverage: bool,
    fuzz: int | None,
    seed: int,
    update: bool,
    externs: tuple[str, ...],
    junit: str | None,
    form: str,
    color: str,
    quiet: bool,
    verbose: bool,
) -> int:
    """Run the `test` blocks of rule files, and both sides of their rewrites.

    \b
    potc test rules/npu.rules
    potc test rules/npu.rules -k "second reader" -v
    potc test rules/*.rules --coverage --junit results.xml
    """
    session.terminal = terminal = Terminal(-1 if quiet else int(verbose), color, form == "json", form)
    options = Options(coverage, fuzz or 0, seed, update, externs, junit, pattern)
    _refuse(files, options)
    reports = _run(files, options)
    if pattern is not None and not any(r.run.outcomes for r in reports):
        raise click.UsageError(f"no test has {pattern!r} in its title")
    if terminal.as_json:
        from potc.workbench.test_report import report_json

        terminal.answer(json.dumps(report_json(reports), indent=2, ensure_ascii=False))
    elif terminal.form != "text":
        outcomes = [d for r in reports for o in r.run.outcomes for d in o.diagnostics]
        terminal.show(dict.fromkeys((*outcomes, *(d for r in reports for c in r.checks for d in c.findings))))
    else:
        for report in reports:
            _tell(report, options, terminal)
        _summary(reports, terminal)
    if junit is not None:
        from potc.graph.write import write_all
        from potc.workbench.junit import junit as to_junit

        write_all({junit: to_junit(reports)})
    if update and _update([r.run for r in reports], terminal):
        reports = _run(files, replace(options, coverage=False, fuzz=0))  # does all pass now?
    return 0 if all(r.passed for r in reports) else 1


def _refuse(files: tuple[str, ...], options: Options) -> None:
    if options.junit is not None:
        if os.path.realpath(options.junit) in {os.path.realpath(f) for f in (*files, *options.externs)}:
            raise click.UsageError(f"{options.junit} is an input, and would be overwritten")
        if not Path(options.junit).parent.is_dir():
            message = f"can't write {options.junit}: there is no folder {Path(options.junit).parent}"
            raise reject("unwritable-output", message, exit_code=2)


def _run(files: tuple[str, ...], options: Options) -> list[FileReport]:
    """All files, each once. Raises Rejected with what is wrong with those that can't be read."""
    from potc.workbench.run_tests import run_tests
    from potc.workbench.test_report import report_on

    wanted = (options.pattern or "").lower()
    problems, exit_code = Diagnostics(), 1
    reports: list[FileReport] = []
    for file in dict.fromkeys(files):
        try:
            run = run_tests(file, lambda title: wanted in title.lower(), options.externs)
            reports.append(report_on(run, options.pattern is None, options.coverage, options.fuzz, options.seed))
        except Rejected as rejected:
            exit_code = max(exit_code, rejected.exit_code)
            for diagnostic in rejected.diagnostics:
                problems.add(diagnostic)
    if problems.errors:
        raise Rejected(problems, exit_code)
    return reports


# ---------------------------------------------------------------------------------------------- for people


def _tell(report: FileReport, options: Options, terminal: Terminal) -> None:
    """Failures with their reasons, and what else was asked for, of one file."""
    from potc.workbench.coverage import coverage_lines

    told: dict[Diagnostic, None] = {}
    for outcome in report.run.outcomes:
        if terminal.verbose:
            terminal.answer(_line(outcome))
        fresh = [d for d in outcome.diagnostics if d not in told]
        told |= dict.fromkeys(fresh)
        terminal.show(fresh)
    if not report.run.count:
        terminal.say(f"{report.run.path} has no tests")
    for check in report.checks:
        terminal.show(check.findings)
        if check.kind == "fuzz" or terminal.verbose:
            terminal.say(f"{report.run.path}: {check.subject}: {check.note}")
    if report.coverage is not None:
        for line in coverage_lines(report.coverage):
            terminal.answer(line)


def _line(outcome: Outcome) -> str:
    from potc.diagnostics.render_text import escaped

    device = f" for {outcome.device}" if outcome.device else ""
    place = f"{outcome.test.span.source.path}:{outcome.test.span.line}"
    return f"{outcome.status:<6} {escaped(place)} {escaped(outcome.test.title)}{device}"


def _summary(reports: list[FileReport], terminal: Terminal) -> None:
    outcomes = [o for r in reports for o in r.run.outcomes]
    if not outcomes and all(r.passed for r in reports):
        return
    passed = sum(o.status == "passed" for o in outcomes)
    failed = sum(o.status == "failed" for o in outcomes)
    errors = sum(o.status == "error" for o in outcomes)
    findings = sum(len(r.errors) for r in reports)
    parts = [f"{passed} passed"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{errors} could not be run"] if errors else []
    parts += [f"{findings} more finding{'s' if findings != 1 else ''}"] if findings else []
    if failed or errors or findings:
        terminal.complain(", ".join(parts))
    elif not terminal.quiet:
        terminal.answer(", ".join(parts))


def _update(runs: list[FileRun], terminal: Terminal) -> bool:
    """Rewrites the files whose expectations failed, all or none; False if there is none."""
    from potc.graph.write import write_all
    from potc.workbench.update import updated

    files: dict[str, bytes] = {}
    for run in runs:
        place = os.path.realpath(run.place)
        data = Path(place).read_bytes()
        after = updated(data, run.outcomes)
        if after != data:
            shipped = Path(run.path) != Path(run.place)
            if shipped or not os.access(place, os.W_OK):
                why = "it is part of potc" if shipped else "it is read-only"
                raise reject("unwritable-output", f"can't write {run.path}: {why}", exit_code=2)
            files[place] = after
    write_all(files)
    for run in runs:
        if os.path.realpath(run.place) in files:
            terminal.say(f"updated {run.path}")
    return bool(files)
