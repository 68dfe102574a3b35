"""``potc check``: are these rule files right?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from potc.cli.collector import uncollected
from potc.cli.options import color_option, report_format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Diagnostic, Rejected

if TYPE_CHECKING:
    from potc.language.program import Program, Rule


@click.command("check")
@click.argument("files", nargs=-1, required=True)
@click.option("--strict", is_flag=True, help="Ask for tests and reasons as well.")
@click.option(
    "--corpus", multiple=True, metavar="PATH", help="Models, or folders of them, in which each rule should match."
)
@click.option("--deny-warnings", is_flag=True, help="A warning ends with exit code 1, as an error does.")
@click.option("-W", "policy", type=click.Choice(["error"]), help="`-W error` is `--deny-warnings`.")
@report_format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(
    session: Session,
    files: tuple[str, ...],
    strict: bool,
    corpus: tuple[str, ...],
    deny_warnings: bool,
    policy: str | None,
    form: str,
    color: str,
    quiet: bool,
) -> int:
    """Parse and check rule files, with everything that they import. No model is needed.

    \b
    potc check rules/npu.rules
    potc check --strict --deny-warnings rules/*.rules
    potc check --format sarif rules/*.rules > rules.sarif
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json", form)
    with nullcontext() if corpus else uncollected():
        findings = _find(files, strict, corpus)
    terminal.show(findings.diagnostics)
    exit_code = findings.exit_code
    if exit_code == 0 and findings.count("warning") and (deny_warnings or policy == "error"):
        exit_code = 1
    summary = ", ".join([_counted(len(files), "file") + " checked", *findings.counts()])
    if exit_code:
        terminal.complain(summary)
    elif form == "text" and not quiet:
        terminal.answer(summary)
    return exit_code


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was said of all files; the same mistake in an imported file is told once."""

    diagnostics: tuple[Diagnostic, ...]
    exit_code: int

    def count(self, severity: str) -> int:
        return sum(d.severity.value == severity for d in self.diagnostics)

    def counts(self) -> list[str]:
        return [_counted(n, s) for s in ("error", "warning") if (n := self.count(s))]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _find(files: tuple[str, ...], strict: bool, corpus: tuple[str, ...]) -> _Findings:
    from potc.language.check import check_file

    found: dict[Diagnostic, None] = {}
    exit_code = 0
    witness = _Witness()
    for file in files:
        try:
            checked = check_file(file, witness, strict)
            found |= dict.fromkeys(checked.diagnostics)
            if corpus:
                from potc.workbench.proofs import find_never_fired

                found |= dict.fromkeys(find_never_fired(checked.programs, corpus))
        except Rejected as rejected:
            found |= dict.fromkeys(rejected.diagnostics)
            exit_code = max(exit_code, rejected.exit_code)
    return _Findings(tuple(found), exit_code)


@dataclass(slots=True)
class _Witness:
    """Looks for a model that two rules both match, once for each pair; only then is anything of models imported."""

    known: dict[tuple[object, object], str | None] = field(default_factory=dict)

    def __call__(self, program: Program, a: Rule, b: Rule) -> str | None:
        from potc.workbench.proofs import find_common

        key = (a.span, b.span)
        if key not in self.known:
            self.known[key] = find_common(program, a, b)
        return self.known[key]
