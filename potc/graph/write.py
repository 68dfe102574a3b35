"""Bytes of a model, and files that are either complete or untouched."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from potc.diagnostics.diagnostic import reject

LIMIT = 2**31 - 1  # protobuf's own


def serialize(proto: onnx.ModelProto) -> bytes:
    """The model in one piece; equal models give equal bytes. Raises Rejected(too-large) above 2 GB."""
    if proto.ByteSize() > LIMIT:
        raise reject("too-large", f"the model would have {proto.ByteSize():,} bytes; one file holds at most {LIMIT:,}")
    return proto.SerializeToString(deterministic=True)


def write_atomic(path: str, data: bytes) -> bool:
    """Puts ``data`` at ``path`` as a whole: written beside it, synced, then renamed. False if it was there already.

    A file that holds the same bytes keeps its time stamp, so that builds stop there. Raises Rejected(unwritable-output),
    exit code 2; then nothing is left behind and an existing file is as it was.
    """
    target = Path(path)
    try:
        if target.is_file() and target.stat().st_size == len(data) and target.read_bytes() == data:
            return False
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder", path)
        temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        help_ = "choose another place with -o, or free some space"
        raise reject(
            "unwritable-output", f"can't write {path}: {error.strerror or error}", help=help_, exit_code=2
        ) from error
    return True


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
