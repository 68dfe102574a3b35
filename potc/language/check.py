"""What `potc check` finds in one file, without any model."""

from __future__ import annotations

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics
from potc.language.files import read_library
from potc.language.resolve import check_scope
from potc.language.scope import build_scope


def check_file(path_or_name: str) -> tuple[Diagnostic, ...]:
    """Warnings of all devices of a file, which may also have none. Raises Rejected with all errors."""
    library = read_library(path_or_name)
    return check_scope(library, build_scope(library, Diagnostics()))
