"""What every peer's script reads: calibration samples as feeds, and a model of an opset that all peers take.

    python PEER.py MODEL.onnx SAMPLES.npz OUT.onnx [SETTING ...]

A peer's script runs as a process of its own, in the interpreter of that peer, and may import only what is installed there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

LOWEST = 13  # per-channel DequantizeLinear came with opset 13
RAISED = 15


class Feeds:
    """A calibration data reader, as onnxruntime's quantizer and its descendants call it: one sample a call."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = feeds
        self.rewind()

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)

    def rewind(self) -> None:
        self._left: Iterator[dict[str, np.ndarray]] = iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)


def read_feeds(samples: str, model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    """One feed a sample, with a batch axis where the model has one more axis than the sample."""
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input}
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    count = len(next(iter(arrays.values())))
    rows = ({name: values[index] for name, values in arrays.items()} for index in range(count))
    return [{name: v[None] if v.ndim < ranks[name] else v for name, v in row.items()} for row in rows]


def raised(path: str, folder: str) -> str:
    """The model, or a copy with opset 15 if its opset is below 13: there most peers fall back to one scale a tensor."""
    model = onnx.load(path)
    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= LOWEST:
        return path
    target = str(Path(folder) / "raised.onnx")
    onnx.save(onnx.version_converter.convert_version(model, RAISED), target)
    return target


def begin() -> tuple[str, list[dict[str, np.ndarray]], str, set[str], str]:
    """Model, feeds, where to write, settings, and a scratch folder, which is the current one: some peers leave files there."""
    model, samples, out = (str(Path(word).absolute()) for word in sys.argv[1:4])
    folder = tempfile.mkdtemp(prefix="peer-", dir=Path(out).parent)
    os.chdir(folder)
    model = raised(model, folder)
    return model, read_feeds(samples, onnx.load(model)), out, set(sys.argv[4:]), folder
