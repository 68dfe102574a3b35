"""Dependency files as make and ninja read them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from potc.diagnostics.diagnostic import reject

ESCAPED = re.compile(r"(\\*)([ #:])")
# What ends a name in make whatever stands before it: no escape helps.
NO_NAME = re.compile(r"[\x00-\x1f\x7f;|]|[\\ ]$|\(.*\)$")


def depfile(target: str, inputs: Iterable[str]) -> str:
    """``target: input input ...``, one input a line, paths as given; the first one without ``=`` comes first.

    Raises Rejected for a path that make can't name.
    """
    if re.search("[=%]", target):
        raise _unnameable(target, "a target with `=` or `%` means something else to make")
    names = [escape(i) for i in dict.fromkeys(inputs)]
    # `target: a=b` sets a variable, unless another name stands before it.
    first = next((n for n in names if "=" not in n), None)
    if names and first is None:
        raise _unnameable(names[0], "make takes it for a variable, and no other file stands before it")
    names.sort(key=lambda n: n != first)
    lines = [f"{escape(target)}: \\", *(f"  {name} \\" for name in names[:-1]), *(f"  {name}" for name in names[-1:])]
    return "\n".join(lines) + "\n"


def escape(path: str) -> str:
    """A path in a rule of make or ninja: a backslash before spaces, ``#`` and ``:``, after twice those before it; ``$$``."""
    if NO_NAME.search(path):
        raise _unnameable(path, "make has no spelling for its characters")
    return ESCAPED.sub(lambda m: f"{m[1]}{m[1]}\\{m[2]}", path).replace("$", "$$")


def _unnameable(path: str, why: str) -> Exception:
    message = f"a dependency file can't name {path!r}: {why}"
    help_ = "rename the file, name another target, or leave --depfile out"
    return reject("unwritable-output", message, help=help_, exit_code=2)
