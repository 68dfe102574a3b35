"""Everything that is wrong in a rule file, whichever of its devices will be used."""

from __future__ import annotations

from potc.diagnostics.diagnostic import Diagnostic, Diagnostics, Rejected
from potc.language import syntax
from potc.language.files import Library, read_library
from potc.language.resolve import load_rules
from potc.language.scope import build_scope


def check_file(path_or_name: str) -> tuple[Diagnostic, ...]:
    """Checks each device of a file; of a library without devices only names and definitions. Returns what is no error.

    Raises Rejected with everything that was found, warnings included, if any of it is an error.
    """
    library = read_library(path_or_name)
    found = Diagnostics()
    devices = _devices(library)
    if not devices:
        build_scope(library, found)
    for device in devices:
        try:
            said = load_rules(path_or_name, device=device).warnings
        except Rejected as rejected:
            said = rejected.diagnostics
        for diagnostic in said:
            found.add(diagnostic)
    found.stop()
    return tuple(found)


def _devices(library: Library) -> list[str]:
    """The devices that the file itself defines and that can be compiled for."""
    own = (i for i in library.main.items if isinstance(i, syntax.Device | syntax.DeviceAlgebra))
    return [d.name for d in own if not (isinstance(d, syntax.Device) and d.abstract)]
