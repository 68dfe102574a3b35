"""Files of the user that are read whole, none of them longer than it may be."""

from __future__ import annotations

from pathlib import Path

from potc.diagnostics.diagnostic import Rejected, reject
from potc.limits import limits, with_raising


def read_table(path: str) -> bytes:
    """The bytes of a JSON or CSV file, however large a device or a pipe of this name may be. Raises Rejected(too-large,
    missing-file)."""
    most = limits().table_bytes
    try:
        with Path(path).open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > most:
        help_ = with_raising("give a smaller file, or samples as .npz", "table-bytes")
        raise reject("too-large", f"{path} has more than {most:,} bytes", help=help_)
    return content


def unreadable(path: str, error: OSError) -> Rejected:
    """Exit code 2: a file that is named is not there, or can't be read."""
    if isinstance(error, FileNotFoundError):
        return reject("missing-file", f"there is no file {path}", exit_code=2)
    return reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2)
