"""Response files: ``@FILE`` on the command line stands for the words in FILE."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from potc.diagnostics.diagnostic import reject

DEPTH = 10  # response files that name one another
LARGEST = 16 << 20  # bytes of one response file


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments with the words of each ``@FILE`` in its place, quoted as a shell does; ``#`` means nothing there.

    Response files may name others, relative to the current folder. Raises Rejected(missing-file), exit code 2.
    """
    return list(_expanded(arguments, ()))


def _expanded(arguments: Sequence[str], within: tuple[str, ...]) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("@") and len(argument) > 1:
            yield from _expanded(_words(argument[1:], within), (*within, argument[1:]))
        else:
            yield argument


def _words(path: str, within: tuple[str, ...]) -> list[str]:
    if path in within or len(within) >= DEPTH:
        message = f"response files name one another without end: {path}"
        raise reject("usage", message, help="take one of the names out", exit_code=2)
    try:
        if Path(path).stat().st_size > LARGEST:
            message = f"the response file {path} is larger than {LARGEST:,} bytes"
            raise reject("too-large", message, help="put fewer words into it", exit_code=2)
        return shlex.split(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # no file; no text, or an open quote
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        help_ = f"write ./@{path} for a file that is called @{path}"
        raise reject("missing-file", f"can't read the response file {path}: {why}", help=help_, exit_code=2) from error
