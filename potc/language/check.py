"""What `potc check` finds in one file, without any model: mistakes while it is resolved, then what can be proved of it."""

from __future__ import annotations

from dataclasses import dataclass

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics
from potc.language.agreements import find_disagreements
from potc.language.completeness import find_missing
from potc.language.conflicts import Confirm, find_conflicts
from potc.language.files import read_library
from potc.language.numbers import find_axes, find_different_lanes, find_overflows
from potc.language.program import Program
from potc.language.resolve import check_scope
from potc.language.scope import build_scope
from potc.language.termination import find_endless
from potc.language.widening import find_widened


@dataclass(frozen=True, slots=True)
class Checked:
    """A file without errors: its devices, and warnings."""

    programs: tuple[Program, ...]
    diagnostics: tuple[Diagnostic, ...]


def check_file(path_or_name: str, confirm: Confirm | None = None, strict: bool = False) -> Checked:
    """Checks all devices of a file, which may also have none. Raises Rejected with all errors and warnings.

    ``confirm`` looks for a model that two rules both match; without it, overlaps are not told. ``strict``: tests and
    reasons are asked for as well.
    """
    library = read_library(path_or_name)
    problems = Diagnostics()
    scope = build_scope(library, problems)
    programs = check_scope(library, scope)
    for program in programs:
        find_endless(program.rewrites, program.signatures, program.opset, problems)
        find_disagreements(program, problems)
        find_different_lanes(program, problems)
        if not program.parts:
            find_conflicts(program, problems, confirm)
            find_overflows(program, problems)
            find_axes(program, problems)
    find_widened(library, scope, programs, problems)
    if strict:
        find_missing(scope, programs, problems)
    problems.stop()
    return Checked(programs, tuple(problems))
