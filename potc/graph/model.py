"""Model: an ONNX model in memory, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx


@dataclass(frozen=True, slots=True)
class Model:
    """A valid model with all weights inside (no external data), every node named, names unique.

    ``proto`` is not to be changed in place: a pass that changes something returns a new Model (see ``with_proto``).
    ``path`` is as the user gave it; ``files`` are all files that were read (the model, its external data).
    ``bfloat16``: inputs and outputs that are bfloat16 in the file, and float32 here (see ``potc.graph.widen``); None for a file
    that had none at all.
    """

    path: str
    proto: onnx.ModelProto
    files: tuple[str, ...]
    bfloat16: frozenset[str] | None = None

    def with_proto(self, proto: onnx.ModelProto) -> Model:
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
