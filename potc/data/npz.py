"""Samples from .npz and .npy files, read one at a time: memory does not grow with their number."""

from __future__ import annotations

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from potc.data.dataset import InputSpec, check_dtype, check_names, choose, convert, sample_shape
from potc.diagnostics.diagnostic import Rejected, reject
from potc.limits import limits, with_raising


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One stored array, known from its header alone."""

    member: str | None  # name in the zip file, None for a plain .npy file
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool


@dataclass(frozen=True)
class StoredSamples:
    """A Dataset over one file. ``chosen``: indices of the samples that are used, ascending."""

    path: str
    specs: tuple[InputSpec, ...]
    arrays: Mapping[str, StoredArray]
    chosen: Sequence[int]
    files: tuple[str, ...]
    generated: bool = False

    def __len__(self) -> int:
        return len(self.chosen)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Reads all inputs in step. Raises Rejected for NaN, infinity, and a file that ends early."""
        shapes = {s.name: sample_shape(self.path, s, self.arrays[s.name].shape[1:]) for s in self.specs}
        wanted = set(self.chosen)
        with ExitStack() as stack:
            streams = [sample_stream(self.path, self.arrays[s.name], stack) for s in self.specs]
            for index in range(self.chosen[-1] + 1):
                rows = [next_sample(self.path, stream, index) for stream in streams]
                if index in wanted:
                    yield {
                        s.name: convert(self.path, s, index, row.reshape(shapes[s.name]))
                        for s, row in zip(self.specs, rows, strict=True)
                    }


def open_npz(path: str, specs: Sequence[InputSpec], limit: int | None = None, seed: int | None = None) -> StoredSamples:
    """Opens a file whose arrays are named like the model's inputs, first axis = samples.

    A .npy file feeds a model with one input. ``limit``: at most so many samples, evenly spread, or drawn by
    ``seed``. Headers are checked here,
    values while they are read. Raises Rejected with what was found and what the model takes.
    """
    arrays = read_headers(path, [s.name for s in specs])
    check_names(path, list(arrays), specs)
    counts = {name: array.shape[0] if array.shape else 0 for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise reject("wrong-data-shape", f"the arrays in {path} hold different numbers of samples ({listed})")
    count = next(iter(counts.values()), 0)
    if count == 0:
        raise reject("no-samples", f"{path} holds no samples", help="the first axis of each array counts samples")
    for spec in specs:
        array = arrays[spec.name]
        check_dtype(path, spec, array.dtype)
        sample_shape(path, spec, array.shape[1:])
        check_array(path, spec.name, array)
    return StoredSamples(path, tuple(specs), arrays, choose(count, limit, seed), (path,))


def check_array(path: str, name: str, array: StoredArray) -> None:
    """Raises Rejected unless it can be read sample by sample: too-large, invalid-data."""
    size = math.prod(array.shape[1:]) * array.dtype.itemsize
    if size > limits().sample_bytes:
        message = f"one sample of `{name}` in {path} has {size:,} bytes; the limit is {limits().sample_bytes:,}"
        raise reject("too-large", message, help=with_raising("", "sample-bytes", size))
    if array.fortran and len(array.shape) > 1:
        message = f"`{name}` in {path} is stored column by column and can't be read sample by sample"
        raise reject("invalid-data", message, help="store it with numpy.ascontiguousarray")


def read_headers(path: str, feeding: Sequence[str]) -> dict[str, StoredArray]:
    """The arrays of a file by name; the one of a .npy file is called like the input it feeds, if there is only one.

    Raises Rejected: missing-file (exit code 2), invalid-data, too-large.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise reject("invalid-data", f"{path} is a folder", help="give a .npz or .npy file")
        with file.open("rb") as stream:
            plain = stream.read(6) == npy.MAGIC_PREFIX
            stream.seek(0)
            if plain:
                name = feeding[0] if len(feeding) == 1 else file.stem
                return {name: _header(path, None, stream, file.stat().st_size)}
        with zipfile.ZipFile(file) as archive:
            members = [m for m in archive.namelist() if m.endswith(".npy")]
            if len(members) > limits().arrays:
                message = f"{path} holds {len(members):,} arrays; the limit is {limits().arrays:,}"
                raise reject("too-large", message, help=with_raising("", "arrays", len(members)))
            return {_stem(m): _open_header(path, archive, m) for m in members}
    except FileNotFoundError as error:
        raise reject("missing-file", f"there is no file {path}", exit_code=2) from error
    except OSError as error:
        raise reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
    ) as error:
        raise reject("invalid-data", f"{path} is neither a .npz nor a .npy file: {error}") from error


def _stem(member: str) -> str:
    return member[: -len(".npy")]


def _open_header(path: str, archive: zipfile.ZipFile, member: str) -> StoredArray:
    with archive.open(member) as stream:
        return _header(path, member, stream, archive.getinfo(member).file_size)


def _header(path: str, member: str | None, stream: IO[bytes], size: int) -> StoredArray:
    """Parses a header with numpy's own reader, which refuses overlong ones; pickled arrays are refused here.

    ``size``: bytes that are stored, header included. A header that claims more samples than that is refused.
    """
    try:
        version = npy.read_magic(stream)
        reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
    except (
        ValueError,
        struct.error,
        SyntaxError,
        tokenize.TokenError,
        TypeError,
        MemoryError,
        RecursionError,
    ) as error:
        raise reject("invalid-data", f"`{member or path}` in {path} has no readable header: {error}") from error
    if dtype.hasobject:
        raise reject("invalid-data", f"`{member or path}` in {path} holds Python objects; only numbers are read")
    if any(n < 0 for n in shape):
        raise reject("invalid-data", f"`{member or path}` in {path} claims a negative size")
    sample = math.prod(shape[1:]) * dtype.itemsize
    if shape and shape[0] and not sample:
        raise reject("invalid-data", f"the samples of `{member or path}` in {path} have no elements")
    # One sample above the limit has its own diagnostic; here it is their number that a loop would believe.
    if shape and sample <= limits().sample_bytes and shape[0] * sample > size:
        message = (
            f"`{member or path}` in {path} claims {shape[0]:,} samples of {sample:,} bytes and stores {size:,} bytes"
        )
        raise reject("invalid-data", message, help="the file is cut off or damaged: store it again")
    return StoredArray(member, shape, dtype, fortran)


def sample_stream(path: str, array: StoredArray, stack: ExitStack) -> Iterator[np.ndarray]:
    """The samples of one array, from the front; only one is held at a time."""
    if array.member is None:
        stream: IO[bytes] = stack.enter_context(Path(path).open("rb"))
        stored = Path(path).stat().st_size
    else:
        archive = stack.enter_context(zipfile.ZipFile(path))
        stream = stack.enter_context(archive.open(array.member))
        stored = archive.getinfo(array.member).file_size
    _header(path, array.member, stream, stored)
    shape = array.shape[1:]
    size = math.prod(shape) * array.dtype.itemsize
    while True:
        data = stream.read(size)
        if len(data) != size:
            return
        yield np.frombuffer(data, array.dtype).reshape(shape)


def next_sample(path: str, stream: Iterator[np.ndarray], index: int) -> np.ndarray:
    try:
        sample = next(stream, None)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise reject("invalid-data", f"{path} is damaged at sample {index}: {error}") from error
    except Rejected:
        raise
    if sample is None:
        raise reject("invalid-data", f"{path} ends before sample {index}: the file is cut off")
    return sample
