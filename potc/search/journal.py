"""What a search has found out so far, on disk: after a crash nothing of it is done again.

One JSON document a line, synced before the search goes on: ``{"key": ..., "value": ..., "sum": ...}``, the first line names all
inputs by one hash. A line that a crash cut off does not match its checksum and is dropped with what follows. Values stay on disk
until they are asked for.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import IO, Any

from potc.diagnostics.diagnostic import reject
from potc.limits import limits

VERSION = 2


class Journal:
    """``get`` and ``put`` of JSON values by key; ``resumed``: how many were there already."""

    def __init__(self, path: str, identity: str) -> None:
        """Opens or makes a journal. ``identity``: of everything that values depend on; that of another one is written over.

        Raises Rejected(unwritable-output) where it can't be written, or another search writes it.
        """
        self.path = path
        try:
            self._file: IO[bytes] = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        except OSError as error:
            raise _unwritable(path, error.strerror or str(error)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise _unwritable(path, "another search is writing it") from error
        self._places: dict[str, int] = {}
        self._end = 0
        self._read(identity)
        self.resumed = len(self._places)

    def _read(self, identity: str) -> None:
        longest = (
            limits().journal_line_bytes
        )  # a longer line was not written here: it is dropped like one that was cut off
        for number, line in enumerate(iter(lambda: self._file.readline(longest), b"")):
            entry = _parsed(line)
            if entry is None or (number == 0 and entry != ("potc journal", {"version": VERSION, "of": identity})):
                break
            if number:
                self._places[entry[0]] = self._end
            self._end += len(line)
        self._file.truncate(self._end)
        if self._end == 0:
            self._append("potc journal", {"version": VERSION, "of": identity})

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Any:
        """Raises KeyError for what is not there."""
        self._file.seek(self._places[key])
        entry = _parsed(self._file.readline())
        assert entry is not None
        return entry[1]

    def put(self, key: str, value: Any) -> None:
        """On return the value is on disk. Raises Rejected(unwritable-output) for a full disk, say."""
        place = self._end
        self._append(key, value)
        self._places[key] = place

    def forget(self, key: str) -> None:
        """Nothing: values take no memory here, and a search that goes on asks for them again."""

    def _append(self, key: str, value: Any) -> None:
        line = _line(key, value)
        try:
            self._file.seek(self._end)
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error.strerror or str(error)) from error
        self._end += len(line)

    def close(self) -> None:
        self._file.close()


def forget_journal(path: str) -> None:
    """Removes it: the result is where it belongs, and nothing is left to resume."""
    Path(path).unlink(missing_ok=True)


def _line(key: str, value: Any) -> bytes:
    body = json.dumps([key, value])
    return json.dumps({"key": key, "value": value, "sum": zlib.crc32(body.encode())}).encode() + b"\n"


def _parsed(line: bytes) -> tuple[str, Any] | None:
    """Key and value; None for a line that is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
        key, value = entry["key"], entry["value"]
        return (key, value) if entry["sum"] == zlib.crc32(json.dumps([key, value]).encode()) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _unwritable(path: str, why: str) -> Exception:
    return reject("unwritable-output", f"can't write the journal {path}: {why}", exit_code=2)
