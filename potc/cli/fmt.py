"""``potc fmt``: rule files in the one style that there is."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from potc.cli.options import color_option
from potc.cli.terminal import Session, Terminal
from potc.diagnostics.diagnostic import Diagnostics, Rejected, reject
from potc.diagnostics.source import Source

STANDARD_INPUT = "-"


@dataclass(frozen=True, slots=True)
class Formatted:
    """One file before and after. ``place``: where it is, behind links; empty for standard input."""

    name: str
    place: str
    before: bytes
    after: bytes

    @property
    def changed(self) -> bool:
        return self.before != self.after


@click.command("fmt")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--check", is_flag=True, help="Write nothing; list files that are not formatted, exit code 1 if there are any."
)
@click.option("--diff", is_flag=True, help="Write nothing; print what would change.")
@color_option
@click.option("-q", "--quiet", is_flag=True, help="Say only what is wrong.")
@click.pass_obj
def command(session: Session, files: tuple[str, ...], check: bool, diff: bool, color: str, quiet: bool) -> int:
    """Write rule files in their canonical layout. There are no options of style. - formats standard input.

    \b
    potc fmt rules/npu.rules
    potc fmt --check rules/*.rules
    """
    session.terminal = terminal = Terminal(-1 if quiet else 0, color)
    if STANDARD_INPUT in files and len(files) > 1:
        raise click.UsageError("- is standard input, and stands alone")
    formatted = _format_all(files)
    changed = [f for f in formatted if f.changed]
    if diff:
        for file in changed:
            terminal.answer_bytes(_diff(file))
    if check and not diff:
        for file in changed:
            terminal.answer(file.name)
    if check or diff:
        return int(check and bool(changed))
    if files == (STANDARD_INPUT,):
        terminal.answer_bytes(formatted[0].after)
    else:
        _write({f.place: f.after for f in changed})
        for file in changed:
            terminal.say(f"formatted {file.name}")
    return 0


def _format_all(files: tuple[str, ...]) -> list[Formatted]:
    """All files, each once. Raises Rejected with the mistakes of all of them, so that nothing is written then."""
    from potc.language.format import format_file
    from potc.language.parse import parse

    problems = Diagnostics()
    exit_code = 1
    formatted: dict[str, Formatted] = {}
    for name in files:
        try:
            place = "" if name == STANDARD_INPUT else os.path.realpath(name)
            source, before = _read(name)
            after = format_file(parse(source)).encode()
            formatted.setdefault(place, Formatted(name, place, before, after))
        except Rejected as rejected:
            exit_code = max(exit_code, rejected.exit_code)
            for diagnostic in rejected.diagnostics:
                problems.add(diagnostic)
    if problems.errors:
        raise Rejected(problems, exit_code)
    return list(formatted.values())


def _read(name: str) -> tuple[Source, bytes]:
    from potc.language.files import read_source

    if name != STANDARD_INPUT:
        return read_source(name, Path(name)), Path(name).read_bytes()
    before = sys.stdin.buffer.read()
    try:
        text = before.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise reject("syntax-error", "standard input is not UTF-8 text") from None
    return Source("standard input", text.replace("\r\n", "\n")), before


def _diff(file: Formatted) -> bytes:
    before, after = (b.decode("utf-8", "replace").splitlines(keepends=True) for b in (file.before, file.after))
    lines = difflib.unified_diff(before, after, file.name, file.name)
    text = "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return text.encode()


def _write(files: Mapping[str, bytes]) -> None:
    """All files or none; each keeps its mode."""
    if not files:
        return
    from potc.graph.write import write_all

    for place in files:
        if not os.access(place, os.W_OK):
            raise reject("unwritable-output", f"can't write {place}: it is read-only", exit_code=2)
    write_all(files)
