"""Model: an ONNX model in memory, and where it came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import onnx
from onnx import TensorProto

from potc.execute.aside import Scratch, Source

SMALL = 1024  # elements; what inference or a rule may need the numbers of (shapes, axes, pads) is smaller


@dataclass(frozen=True, slots=True)
class Aside:
    """Where the numbers of a model's large weights are, that are not in it: ``sources`` that were read, ``scratch`` for what is
    computed. It must live as long as the model."""

    sources: tuple[Source, ...]
    scratch: Scratch


@dataclass(frozen=True, slots=True)
class Model:
    """A valid model, every node named, names unique, with all weights inside; or, with ``aside``, without the numbers of the main
    graph's large initializers, see ``potc.execute.aside``. No other tensor has external data.

    ``proto`` is not to be changed in place: a pass that changes something returns a new Model (see ``with_proto``).
    ``path`` is as the user gave it; ``files`` are all files that were read (the model, its external data).
    ``bfloat16``: inputs and outputs that are bfloat16 in the file, and float32 here (see ``potc.graph.widen``); None for a file
    that had none at all.
    """

    path: str
    proto: onnx.ModelProto
    files: tuple[str, ...]
    bfloat16: frozenset[str] | None = None
    aside: Aside | None = None

    def with_proto(self, proto: onnx.ModelProto) -> Model:
        """Initializers that are new and large are set aside, if this model sets any aside."""
        if self.aside is not None:
            fed = {i.name for i in proto.graph.input}
            for tensor in proto.graph.initializer:
                if is_large(tensor) and tensor.name not in fed:
                    self.aside.scratch.take(tensor)
        return replace(self, proto=proto)

    @property
    def opset(self) -> int:
        """Version of the ONNX domain that the model imports; 0 if none."""
        return max((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), default=0)

    @property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The inputs that a caller must feed: graph inputs that are not initializers."""
        stored = {t.name for t in self.proto.graph.initializer}
        return tuple(i for i in self.proto.graph.input if i.name not in stored)


def is_large(tensor: TensorProto) -> bool:
    """Whether nobody but who computes with it needs its numbers."""
    return math.prod(tensor.dims) > SMALL
