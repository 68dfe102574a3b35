"""The bytes of a model with all numbers inside, piece by piece: what protobuf would write of a model that it could hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from potc.execute.aside import blocks_of, is_aside, may_lack_numbers, set_aside, size_of

Message = onnx.ModelProto | onnx.GraphProto | TensorProto
GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
RAW = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
ELSEWHERE = frozenset(TensorProto.DESCRIPTOR.fields_by_name[n].number for n in ("external_data", "data_location"))


@dataclass(frozen=True, slots=True)
class Content:
    """What a file shall hold: bytes, and tensors that stand for their raw bytes."""

    pieces: tuple[bytes | TensorProto, ...]

    @property
    def size(self) -> int:
        return sum(len(p) if isinstance(p, bytes) else size_of(p) for p in self.pieces)

    def blocks(self) -> Iterator[bytes | bytearray]:
        """All bytes in order; never more than a few megabytes at once of what is set aside."""
        for piece in self.pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from blocks_of(piece)


def whole_model(proto: onnx.ModelProto) -> Content:
    """The deterministic serialization, fields in the order of their numbers, with numbers that are set aside in their places."""
    if not set_aside(proto):
        return Content((proto.SerializeToString(deterministic=True),))
    graph: list[bytes | TensorProto] = [_fields(proto.graph, lambda n: n < INITIALIZER)]
    for tensor in proto.graph.initializer:
        graph += _nested(INITIALIZER, _tensor(tensor))
    graph.append(_fields(proto.graph, lambda n: n > INITIALIZER))
    before, after = _fields(proto, lambda n: n < GRAPH), _fields(proto, lambda n: n > GRAPH)
    return Content((before, *_nested(GRAPH, graph), after))


def whole_bytes(model: bytes) -> Content:
    """The same of a model that is serialized, and may have numbers set aside."""
    return whole_model(onnx.ModelProto.FromString(model)) if may_lack_numbers(model) else Content((model,))


def _tensor(tensor: TensorProto) -> list[bytes | TensorProto]:
    if not is_aside(tensor):
        return [tensor.SerializeToString(deterministic=True)]
    start = _fields(tensor, lambda n: n < RAW) + _key(RAW) + _varint(size_of(tensor))
    return [start, tensor, _fields(tensor, lambda n: n > RAW and n not in ELSEWHERE)]


def _fields(message: Message, wanted: Callable[[int], bool]) -> bytes:
    part = type(message)()
    part.CopyFrom(message)  # pyright: ignore[reportArgumentType]
    part.DiscardUnknownFields()
    for field, _ in message.ListFields():
        if not wanted(field.number):
            part.ClearField(field.name)  # pyright: ignore[reportArgumentType]
    return part.SerializeToString(deterministic=True)


def _nested(number: int, pieces: list[bytes | TensorProto]) -> list[bytes | TensorProto]:
    """A field that holds a message (https://protobuf.dev/programming-guides/encoding, length-delimited records)."""
    return [_key(number) + _varint(Content(tuple(pieces)).size), *pieces]


def _key(number: int) -> bytes:
    return _varint(number << 3 | 2)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))
