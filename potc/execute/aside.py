"""Numbers of tensors that stay in a file until somebody asks for them.

A stored tensor may be set aside: a name, a type, dimensions, and a place in a ``Source``, written in the fields that ONNX has for
external data. The location begins with a null character, which no path can hold: so nothing but this module can follow
it, whatever is done with the model, and nothing in a file that was read can name a place of ours.
"""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import IO, Any, overload

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.diagnostics.diagnostic import reject

MARK = "\0potc/"
BLOCK = 16 << 20  # bytes that are read at once where a whole tensor is not needed
PAGE = 4096  # ONNX (docs/ExternalData.md) advises offsets that are multiples of it, so that files can be mapped

PACKED = frozenset(
    kind for name, kind in TensorProto.DataType.items() if name.endswith(("INT4", "INT2", "FLOAT4E2M1"))
)  # several numbers share a byte

_numbers = count()
_sources: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()


class Source:
    """An open file that numbers are read from; whoever keeps tensors of it keeps it. Closed when nobody does."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.size = os.fstat(stream.fileno()).st_size
        self.location = f"{MARK}{next(_numbers)}"
        _sources[self.location] = self

    def read(self, offset: int, length: int) -> bytearray:
        """Raises Rejected(truncated-model) where the file has become shorter, or can't be read."""
        found = bytearray(length)
        view, done = memoryview(found), 0
        while done < length:
            try:
                got = os.preadv(self._stream.fileno(), [view[done : done + (1 << 30)]], offset + done)
                why = "it has become shorter"
            except OSError as error:
                got, why = 0, error.strerror or str(error)
            if got == 0:
                message = f"a file of weights can't be read at byte {offset + done:,}: {why}"
                raise reject("truncated-model", message, help="let nobody write it while potc reads it")
            done += got
        return found

    def refer(self, tensor: TensorProto, offset: int, length: int) -> None:
        """Lets the tensor stand for these bytes. Whatever it held is dropped."""
        kind, dims, name = tensor.data_type, list(tensor.dims), tensor.name
        doc = tensor.doc_string if tensor.HasField("doc_string") else None
        tensor.Clear()
        tensor.name, tensor.data_type, tensor.data_location = name, kind, TensorProto.EXTERNAL
        tensor.dims.extend(dims)
        if doc is not None:
            tensor.doc_string = doc
        for key, value in (("location", self.location), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)


class Scratch(Source):
    """A file of our own without a name, for what is computed: it is gone with the process. ``put`` only appends."""

    def __init__(self) -> None:
        super().__init__(tempfile.TemporaryFile(prefix="potc-"))

    def put(self, data: bytes | memoryview) -> int:
        """Where the bytes begin. Raises Rejected(unwritable-output) where the disk is full."""
        offset = -(-self.size // PAGE) * PAGE
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view):
                done += os.pwrite(self._stream.fileno(), view[done : done + (1 << 30)], offset + done)
        except OSError as error:
            message = f"can't write a temporary file in {tempfile.gettempdir()}: {error.strerror or error}"
            raise reject("unwritable-output", message, help="free some space, or set TMPDIR", exit_code=2) from error
        self.size = offset + len(view)
        return offset

    def take(self, tensor: TensorProto) -> None:
        """Sets the numbers of a tensor aside; texts stay where they are."""
        if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type == TensorProto.STRING:
            return
        raw = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        self.refer(tensor, self.put(raw), len(raw))

    def taken(self, tensor: TensorProto) -> TensorProto:
        """The same as a message of its own: what a message once held, protobuf frees only with the message."""
        self.take(tensor)
        fresh = TensorProto()
        fresh.CopyFrom(tensor)
        return fresh


class Shelf(Sequence[np.ndarray]):
    """A list of arrays in a scratch file: each is read when it is asked for."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._places: list[tuple[int, np.dtype[Any], tuple[int, ...]]] = []

    def append(self, array: np.ndarray) -> None:
        self._places.append(self._put(array))

    def __setitem__(self, index: int, array: np.ndarray) -> None:
        self._places[index] = self._put(array)

    def _put(self, array: np.ndarray) -> tuple[int, np.dtype[Any], tuple[int, ...]]:
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self._scratch.put(flat.data), array.dtype, array.shape

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        offset, dtype, shape = self._places[index]
        read = self._scratch.read(offset, math.prod(shape) * dtype.itemsize)
        return np.frombuffer(read, dtype).reshape(shape)

    def __len__(self) -> int:
        return len(self._places)


def is_aside(tensor: TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL and any(
        e.key == "location" and e.value.startswith(MARK) for e in tensor.external_data
    )


def place_of(tensor: TensorProto) -> tuple[Source, int, int]:
    """Source, offset and length of a tensor that was set aside. Raises ValueError where its source was closed."""
    entries = {e.key: e.value for e in tensor.external_data}
    source = _sources.get(entries["location"])
    if source is None:
        raise ValueError(f"the numbers of `{tensor.name}` are gone: the model that held them was given up")
    return source, int(entries["offset"]), int(entries["length"])


def size_of(tensor: TensorProto) -> int:
    """Bytes of the numbers of a tensor, wherever they are: without reading them. 0 where they are no raw bytes."""
    return place_of(tensor)[2] if is_aside(tensor) else len(tensor.raw_data)


def blocks_of(tensor: TensorProto) -> Iterator[bytes | bytearray]:
    """The raw bytes of a tensor, piece by piece."""
    if not is_aside(tensor):
        yield tensor.raw_data
        return
    source, offset, length = place_of(tensor)
    for done in range(0, length, BLOCK):
        yield source.read(offset + done, min(BLOCK, length - done))


def array_of(tensor: TensorProto) -> np.ndarray:
    """The numbers of a stored tensor. Those that were set aside are read now, and not kept."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    if not is_plain(tensor.data_type):
        return numpy_helper.to_array(inside(tensor))
    source, offset, length = place_of(tensor)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    return np.frombuffer(source.read(offset, length), dtype).reshape(tuple(tensor.dims))


class Unread(Mapping[str, np.ndarray]):
    """The arrays of stored tensors by name, each made when it is asked for, and passed through ``then``."""

    def __init__(
        self, tensors: Mapping[str, TensorProto], then: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> None:
        self._tensors, self._then = tensors, then

    def __getitem__(self, name: str) -> np.ndarray:
        array = array_of(self._tensors[name])
        return array if self._then is None else self._then(array)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def is_plain(kind: int) -> bool:
    """Whether numpy itself has this type: others come from a package, and may share bytes."""
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind)).kind in "fiub" and kind not in PACKED


def inside(tensor: TensorProto) -> TensorProto:
    """The same tensor with its numbers in it; itself if they are."""
    if not is_aside(tensor):
        return tensor
    whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    if tensor.HasField("doc_string"):
        whole.doc_string = tensor.doc_string
    whole.raw_data = b"".join(blocks_of(tensor))
    return whole


def may_lack_numbers(model: bytes) -> bool:
    """False if no tensor of a serialized model is set aside."""
    return len(_sources) > 0 and MARK.encode() in model


def set_aside(proto: onnx.ModelProto) -> list[TensorProto]:
    """The initializers of the main graph that are. No others are ever set aside."""
    return [t for t in proto.graph.initializer if is_aside(t)]


def without_numbers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which initializers that are set aside are inputs, for what needs their types alone; the model itself if there are
    none."""
    apart = set_aside(proto)
    if not apart:
        return proto
    lean = onnx.ModelProto()
    lean.CopyFrom(proto)
    del lean.graph.initializer[:]
    lean.graph.initializer.extend(t for t in proto.graph.initializer if not is_aside(t))
    declared = {i.name for i in proto.graph.input}
    lean.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in apart if t.name not in declared
    )
    return lean
