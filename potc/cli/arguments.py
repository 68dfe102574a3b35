"""Response files: ``@FILE`` on the command line stands for the words in FILE."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from potc.diagnostics.diagnostic import reject
from potc.limits import Limits, limited, limits, stated, with_raising


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments with the words of each ``@FILE`` in its place, quoted as a shell does; ``#`` means nothing there.

    Response files may name others, relative to the current folder. What is allowed of them, ``--limit`` says before they are read,
    if it stands outside. Raises Rejected(missing-file), exit code 2.
    """
    with limited(_stated_outside(arguments)):
        return list(_expanded(arguments, ()))


def _stated_outside(arguments: Sequence[str]) -> Limits:
    """The limits that the command line itself states about response files. What is no limit, is told where options are read."""
    behind = zip(arguments, (*arguments, "")[1:], strict=True)
    words = [value if word == "--limit" else word for word, value in behind if word.split("=")[0] == "--limit"]
    pairs = [word.removeprefix("--limit=").partition("=") for word in words]
    try:
        return stated((name, value) for name, _, value in pairs if name.startswith("response-file"))
    except ValueError:
        return limits()


def _expanded(arguments: Sequence[str], within: tuple[str, ...]) -> Iterator[str]:
    for argument in arguments:
        if argument.startswith("@") and len(argument) > 1:
            yield from _expanded(_words(argument[1:], within), (*within, argument[1:]))
        else:
            yield argument


def _words(path: str, within: tuple[str, ...]) -> list[str]:
    deep, most = limits().response_files_deep, limits().response_file_bytes
    if path in within:
        message = f"response files name one another without end: {path}"
        raise reject("usage", message, help="take one of the names out", exit_code=2)
    if len(within) >= deep:
        message = f"response files name one another more than {deep} deep: {path}"
        raise reject("usage", message, help=with_raising("", "response-files-deep"), exit_code=2)
    try:
        size = Path(path).stat().st_size
        if size > most:
            message = f"the response file {path} is larger than {most:,} bytes"
            help_ = with_raising("put fewer words into it", "response-file-bytes", size)
            raise reject("too-large", message, help=help_, exit_code=2)
        return shlex.split(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:  # no file; no text, or an open quote
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        help_ = f"write ./@{path} for a file that is called @{path}"
        raise reject("missing-file", f"can't read the response file {path}: {why}", help=help_, exit_code=2) from error
