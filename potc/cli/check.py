"""``potc check``: are these rule files right?"""

from __future__ import annotations

from dataclasses import dataclass

import click

from potc.cli.options import color_option, format_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Diagnostic, Rejected


@click.command("check")
@click.argument("files", nargs=-1, required=True)
@format_option
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(session: Session, files: tuple[str, ...], form: str, color: str, quiet: bool) -> int:
    """Parse and check rule files, with everything that they import. No model is needed.

    \b
    potc check rules/npu.rules
    potc check --format json rules/*.rules
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color, form == "json")
    findings = _Findings.of(files)
    terminal.show(findings.diagnostics)
    count = f"{len(files)} file{'s' if len(files) != 1 else ''} checked"
    if findings.rejected:
        errors = sum(d.severity.value == "error" for d in findings.diagnostics)
        terminal.complain(f"{count}, {errors} error{'s' if errors != 1 else ''}")
    elif not terminal.as_json and not quiet:
        terminal.answer(count)
    return findings.exit_code


@dataclass(frozen=True, slots=True)
class _Findings:
    """What was said of all files; the same mistake in an imported file is told once."""

    diagnostics: tuple[Diagnostic, ...]
    exit_code: int

    @property
    def rejected(self) -> bool:
        return self.exit_code != 0

    @staticmethod
    def of(files: tuple[str, ...]) -> _Findings:
        from potc.language.check import check_file

        found: dict[Diagnostic, None] = {}
        exit_code = 0
        for file in files:
            try:
                found |= dict.fromkeys(check_file(file))
            except Rejected as rejected:
                found |= dict.fromkeys(rejected.diagnostics)
                exit_code = max(exit_code, rejected.exit_code)
        return _Findings(tuple(found), exit_code)
