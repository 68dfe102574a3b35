"""Bytes of a model, and files that are either complete or untouched."""

from __future__ import annotations

import glob
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import onnx

from potc.diagnostics.diagnostic import Rejected, reject
from potc.graph.whole import Content, whole_bytes

LIMIT = 2**31 - 1  # protobuf's own


def serialize(proto: onnx.ModelProto) -> bytes:
    """The model in one piece, but for what it sets aside; equal models give equal bytes. Raises Rejected(too-large) above 2 GB."""
    if proto.ByteSize() > LIMIT:
        raise reject("too-large", f"the model would have {proto.ByteSize():,} bytes; one file holds at most {LIMIT:,}")
    return proto.SerializeToString(deterministic=True)


def one_file(model: bytes) -> Content:
    """A serialized model with all numbers inside. Raises Rejected(too-large) above 2 GB."""
    content = whole_bytes(model)
    if content.size > LIMIT:
        message = f"the model would have {content.size:,} bytes; one file holds at most {LIMIT:,}"
        raise reject("too-large", message, help="write its weights beside it: --external-data")
    return content


def write_atomic(path: str, data: bytes) -> bool:
    """Puts ``data`` at ``path`` as a whole; False if it was there already. Raises as ``write_all`` does."""
    return bool(write_all({path: data}))


def write_all(files: Mapping[str, bytes | Content]) -> tuple[str, ...]:
    """Puts all files in their places or none: each is written beside its place and synced, then all are renamed in order.

    A file that holds the same bytes keeps its time stamp, so that builds stop there; returns the others. Raises
    Rejected(unwritable-output), exit code 2; then nothing is left behind and existing files are as they were. Where the
    process itself is killed, each file is the old or the new one, whole, and those in front are the new ones; what it
    leaves is removed by the next run that writes the same file.
    """
    for path in files:
        _sweep(Path(path))
    with ExitStack() as stack:
        contents = {p: Content((d,)) if isinstance(d, bytes) else d for p, d in files.items()}
        staged = {path: _stage(path, data, stack) for path, data in contents.items() if not _holds(path, data)}
        copies, undo = stack.enter_context(ExitStack()), stack.enter_context(ExitStack())
        for path, temporary in staged.items():
            try:
                if len(staged) > 1:
                    _keep(path, copies, undo)
                temporary.replace(path)
                _sync_folder(Path(path).parent)
            except OSError as error:
                raise _unwritable(path, error) from error
        undo.pop_all()
    return tuple(staged)


def _keep(path: str, copies: ExitStack, undo: ExitStack) -> None:
    """Lets ``undo`` put back what is at ``path`` now, or nothing. A file system without hard links keeps a copy,
    which ``copies`` removes."""
    target = Path(path)
    if not target.exists():
        undo.callback(target.unlink, missing_ok=True)
        return
    kept = target.with_name(f".{target.name}.tmp-{os.getpid()}-old")
    kept.unlink(missing_ok=True)
    copies.callback(kept.unlink, missing_ok=True)
    try:
        os.link(target.resolve(), kept)
    except OSError:
        shutil.copy2(target, kept)
    undo.callback(kept.replace, target)


def _sweep(target: Path) -> None:
    """Removes what earlier runs that were killed have left beside ``target``."""
    prefix = f".{target.name}.tmp-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = left.name.removeprefix(prefix).removesuffix("-old")
        if owner.isdecimal() and not _runs(int(owner)):
            with suppress(OSError):  # a folder that can't be written is told where it is written to
                left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's: it runs; or no number of a process
        return True
    return True


def _holds(path: str, data: Content) -> bool:
    target = Path(path)
    try:
        if not target.is_file() or target.stat().st_size != data.size:
            return False
        with target.open("rb") as file:
            return all(file.read(len(block)) == block for block in data.blocks())
    except OSError:
        return False


def _stage(path: str, data: Content, stack: ExitStack) -> Path:
    """A synced temporary file beside ``path``; ``stack`` removes it unless it was renamed."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        if target.exists() and not target.is_file():  # renaming would replace a folder, a device or a pipe by a file
            raise OSError(0, "it is a folder" if target.is_dir() else "it is no ordinary file")
        with temporary.open("wb") as file:
            stack.callback(temporary.unlink, missing_ok=True)
            if target.exists():  # a file that is replaced keeps its mode
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            for block in data.blocks():
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error
    return temporary


def _unwritable(path: str, error: OSError) -> Rejected:
    message, help_ = f"can't write {path}: {error.strerror or error}", "choose another place, or free some space"
    return reject("unwritable-output", message, help=help_, exit_code=2)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
