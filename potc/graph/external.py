"""Weights beside the model: how they are read without leaving its folder, and how a compiled model is taken apart."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePath
from typing import IO

import onnx
from onnx import TensorProto

from potc.diagnostics.diagnostic import reject
from potc.execute.aside import PAGE, size_of
from potc.graph.whole import Content

LEAST = 1024  # bytes: what is smaller stays in the model, shapes and axes among it, which inference reads


def open_beneath(folder: Path, location: str) -> IO[bytes]:
    """Opens an ordinary file with one name below ``folder``: each part through the handle of the one before, no links.

    What is checked is what was opened, so nothing can be swapped in between. Raises OSError.
    """
    parts = PurePath(location).parts
    if not parts or any(part in ("..", os.sep) for part in parts):
        raise OSError(0, "it is not below the folder")
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = below
        # Without O_NONBLOCK, opening a pipe would wait for somebody to write.
        file = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=handle)
    finally:
        os.close(handle)
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(file)
        raise OSError(0, "it is a hard link or no ordinary file")
    return os.fdopen(file, "rb")


def take_apart(model: bytes, path: str) -> tuple[bytes, str, Content]:
    """A model for ``path`` without its larger weights, the path of the file for them, and what belongs in there.

    The file is named after its content, so that an older model and its weights stay consistent until the new model is in
    place. Raises Rejected(unwritable-output) where the name of the model can't be written in it.
    """
    proto = onnx.ModelProto.FromString(model)
    moved = [t for t in proto.graph.initializer if size_of(t) >= LEAST]
    pieces: list[bytes | TensorProto] = []
    offsets: list[tuple[int, int]] = []
    end = 0
    for tensor in moved:
        held = TensorProto()
        held.CopyFrom(tensor)
        pieces += (bytes(-end % PAGE), held)
        offset, length = end + -end % PAGE, size_of(tensor)
        offsets.append((offset, length))
        end = offset + length
    data = Content(tuple(pieces))
    digest = hashlib.sha256()
    for block in data.blocks():
        digest.update(block)
    target = Path(path)
    name = f"{target.stem}.{digest.hexdigest()[:12]}.data"
    try:
        name.encode()
    except UnicodeEncodeError as error:
        message = f"a model can't name {name!r}: it is not UTF-8 text"
        raise reject("unwritable-output", message, help="choose another name", exit_code=2) from error
    for tensor, (offset, length) in zip(moved, offsets, strict=True):
        tensor.ClearField("raw_data")
        del tensor.external_data[:]
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", name), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
    return proto.SerializeToString(deterministic=True), str(target.with_name(name)), data
