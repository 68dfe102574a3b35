"""How large things of the user may be: what claims more is a mistake or an attack, and is refused before it is read."""

from __future__ import annotations

from pathlib import Path

from potc.diagnostics.diagnostic import Rejected, reject

LARGEST_SAMPLE = 2 << 30  # bytes of one sample of one array
LARGEST_PICTURE = 100_000_000  # pixels
LARGEST_TABLE = 512 << 20  # bytes of a JSON or CSV file: parsed, it takes about ten times as much memory
LARGEST_HELD = 8 << 30  # bytes of samples that are held in memory because they can't be asked for by index
LARGEST_DOWNLOAD = 64 << 30  # bytes
MOST_ARRAYS = 1_000  # in one .npz file
MOST_SAMPLES = 10_000_000


def read_table(path: str) -> bytes:
    """The bytes of a JSON or CSV file, however large a device or a pipe of this name may be. Raises Rejected(too-large,
    missing-file)."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_TABLE + 1)
    except OSError as error:
        raise unreadable(path, error) from error
    if len(content) > LARGEST_TABLE:
        raise reject(
            "too-large", f"{path} has more than {LARGEST_TABLE:,} bytes", help="give a smaller file, or samples as .npz"
        )
    return content


def unreadable(path: str, error: OSError) -> Rejected:
    """Exit code 2: a file that is named is not there, or can't be read."""
    if isinstance(error, FileNotFoundError):
        return reject("missing-file", f"there is no file {path}", exit_code=2)
    return reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2)
