"""Dependency files as make and ninja read them."""

from __future__ import annotations

from collections.abc import Iterable

from potc.diagnostics.diagnostic import reject


def depfile(target: str, inputs: Iterable[str]) -> str:
    """``target: input input ...``, one input a line, paths as given.

    Raises Rejected for a path with a line break, which neither make nor ninja can name.
    """
    names = [escape(i) for i in dict.fromkeys(inputs)]
    lines = [f"{escape(target)}: \\", *(f"  {name} \\" for name in names[:-1]), *(f"  {name}" for name in names[-1:])]
    return "\n".join(lines) + "\n"


def escape(path: str) -> str:
    """A path in a rule of make or ninja."""
    if "\n" in path or "\r" in path:
        message = f"a dependency file can't name {path!r}: line breaks have no spelling there"
        raise reject("unwritable-output", message, help="rename the file, or leave --depfile out", exit_code=2)
    return path.replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ")
