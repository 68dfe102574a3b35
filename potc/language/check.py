"""What `potc check` finds in one file, without any model: mistakes while it is resolved, then what can be proved of it."""

from __future__ import annotations

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics
from potc.language.conflicts import Confirm, find_conflicts
from potc.language.files import read_library
from potc.language.numbers import find_overflows
from potc.language.resolve import check_scope
from potc.language.scope import build_scope
from potc.language.termination import find_endless


def check_file(path_or_name: str, confirm: Confirm | None = None) -> tuple[Diagnostic, ...]:
    """Warnings of all devices of a file, which may also have none. Raises Rejected with all errors.

    ``confirm`` looks for a model that two rules both match; without it, overlaps are not told.
    """
    library = read_library(path_or_name)
    problems = Diagnostics()
    programs = check_scope(library, build_scope(library, problems))
    for program in programs:
        find_endless(program.rewrites, program.signatures, program.opset, problems)
        if not program.parts:
            find_conflicts(program, problems, confirm)
            find_overflows(program, problems)
    problems.stop()
    return tuple(problems)
