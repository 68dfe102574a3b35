"""What a bit-exact device must compute from a quantized model: node by node in float64, by onnx's reference evaluator.

Codes of 8 bits times codes of 16 bits, summed up, are whole numbers below 2**53: float64 holds their products with two
scales to 2**-53. What is rounded is told by how far each stored value was from the middle between two codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from potc.execute.aside import array_of
from potc.graph.snapshot import DTYPES
from potc.language.program import LARGEST_FLOAT, storage_limits

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
TIES = 2.0**-21  # of the number of codes: what a float32 multiplier and a few roundings behind it can shift a value by

_SMALL: Mapping[int, str] = {
    onnx.TensorProto.INT4: "i4",
    onnx.TensorProto.UINT4: "u4",
    onnx.TensorProto.INT2: "i2",
    onnx.TensorProto.UINT2: "u2",
    onnx.TensorProto.FLOAT8E4M3FN: "f8e4m3",
    onnx.TensorProto.FLOAT8E5M2: "f8e5m2",
}


class NotComputable(Exception):
    """A model whose results can't be foretold; the message says why."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers of one QuantizeLinear or DequantizeLinear, ready to broadcast against the tensor: float64 scales, int64
    zero points, and the storage ("u8")."""

    scale: np.ndarray
    zero_point: np.ndarray
    storage: str

    @property
    def limits(self) -> tuple[int, int]:
        return storage_limits(self.storage)

    @property
    def tie_distance(self) -> float:
        """How near to the middle between two codes a value may be without deciding which one is right, in codes."""
        low, high = self.limits
        return (high - low + 1) * TIES


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How a device computes. The defaults are those of ONNX; a simulated device replaces one of them.

    ``quantize``: values float64 -> codes int64. ``dequantize``: codes -> float64. ``operator``: a node, its evaluator and
    its inputs (None: left out) -> its outputs.
    """

    quantize: Callable[[np.ndarray, Grid], np.ndarray] = field(
        default=lambda values, grid: round_to_codes(values, grid)
    )
    dequantize: Callable[[np.ndarray, Grid], np.ndarray] = field(
        default=lambda codes, grid: (codes - grid.zero_point) * grid.scale
    )
    operator: Callable[[NodeProto, Callable[..., Any], Sequence[np.ndarray | None]], Sequence[Any]] = field(
        default=lambda node, evaluate, inputs: evaluate(inputs)
    )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All tensors of one run: floats as float64, codes as int64. ``near_tie`` of each tensor of codes: where the value that
    was rounded lay so near to the middle between two codes that float32 arithmetic may give the other one."""

    values: Mapping[str, np.ndarray]
    near_tie: Mapping[str, np.ndarray]

    @property
    def finite(self) -> bool:
        return all(bool(np.isfinite(v).all()) for v in self.values.values() if v.dtype.kind == "f")


class Exact:
    """A quantized model, ready to be run on any number of inputs. Raises NotComputable for subgraphs."""

    def __init__(self, model: onnx.ModelProto, arithmetic: Arithmetic | None = None) -> None:
        self.arithmetic = arithmetic or Arithmetic()
        self.outputs = [o.name for o in model.graph.output]
        self._nodes = list(model.graph.node)
        self._constants: dict[str, np.ndarray] = {}
        self._grids: dict[int, Grid] = {}
        stored = {t.name: t for t in model.graph.initializer}
        for name, tensor in stored.items():
            self._constants[name] = _wide(array_of(tensor))
        self._evaluators: list[Callable[[Sequence[np.ndarray | None]], Sequence[Any]] | None] = []
        for k, node in enumerate(self._nodes):
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise NotComputable(f"{node.op_type} holds a graph")
            if node.op_type in (QUANTIZE, DEQUANTIZE):
                self._grids[k] = _grid(node, stored)
                self._evaluators.append(None)
            else:
                self._evaluators.append(_evaluator(node, model))

    def grid(self, node: int) -> Grid:
        """The numbers of a node that is a QuantizeLinear or DequantizeLinear, as they are stored."""
        return self._grids[node]

    def run(self, feed: Mapping[str, np.ndarray]) -> Evaluation:
        """``feed``: the model's inputs. Raises NotComputable where the reference evaluator can't go on."""
        values = dict(self._constants)
        values.update((name, _wide(array)) for name, array in feed.items())
        near: dict[str, np.ndarray] = {}
        for k, node in enumerate(self._nodes):
            evaluate = self._evaluators[k]
            if evaluate is not None:
                self._operator(node, evaluate, values)
                continue
            source = values[node.input[0]]
            grid = _against(self._grids[k], source, node)
            if node.op_type == DEQUANTIZE:
                values[node.output[0]] = self.arithmetic.dequantize(source, grid)
            else:
                with np.errstate(all="ignore"):
                    values[node.output[0]] = self.arithmetic.quantize(source, grid)
                    near[node.output[0]] = near_tie(source, grid)
        return Evaluation(values, near)

    def _operator(
        self, node: NodeProto, evaluate: Callable[[Sequence[np.ndarray | None]], Sequence[Any]], values: dict[str, Any]
    ) -> None:
        inputs = [values[name] if name else None for name in node.input]
        try:
            with np.errstate(all="ignore"):
                results = self.arithmetic.operator(node, evaluate, inputs)
        except Exception as error:  # whatever the reference evaluator, or numpy below it, raises
            raise NotComputable(f"onnx's reference evaluator can't run {node.op_type}: {error}") from error
        for name, result in zip(node.output, results, strict=False):
            if name:
                values[name] = _wide(np.asarray(result))


def round_to_codes(values: np.ndarray, grid: Grid) -> np.ndarray:
    """QuantizeLinear: divide, round half to even, add the zero point, saturate to the storage."""
    return _saturated(np.rint(values / grid.scale), grid)


def near_tie(values: np.ndarray, grid: Grid) -> np.ndarray:
    """bool: where a value is as near to the middle between two codes as ``Grid.tie_distance``, and not beyond both ends."""
    real = values / grid.scale
    low, high = (np.floor(real + 0.5 + d) for d in (-grid.tie_distance, grid.tie_distance))
    return _saturated(low, grid) != _saturated(high, grid)


def _saturated(whole: np.ndarray, grid: Grid) -> np.ndarray:
    low, high = grid.limits
    return np.clip(np.nan_to_num(whole) + grid.zero_point, low, high).astype(np.int64)


def _wide(array: np.ndarray) -> np.ndarray:
    """Floats as float64; whole numbers and truth values as they are, those of less than 8 bits as int64."""
    if array.dtype.kind == "f":
        return array.astype(np.float64)
    return array.astype(np.int64) if array.dtype.kind == "V" else array


def _grid(node: NodeProto, stored: Mapping[str, onnx.TensorProto]) -> Grid:
    names = list(node.input[1:])
    if any(name and name not in stored for name in names):
        raise NotComputable(f"a scale of {node.name} is not a constant")
    scale = array_of(stored[names[0]]).astype(np.float64)
    if len(names) < 2 or not names[1]:
        raise NotComputable(f"{node.name} has no zero point")
    zero = stored[names[1]]
    storage = _SMALL.get(zero.data_type) or DTYPES[zero.data_type]
    if storage in LARGEST_FLOAT:
        raise NotComputable("floats of 8 bits are rounded to a grid of their own")
    return Grid(scale, array_of(zero).astype(np.int64), storage)


def _against(grid: Grid, source: np.ndarray, node: NodeProto) -> Grid:
    """Scales along an axis, or in blocks, in the shape of what they stand for."""
    if grid.scale.ndim == 0 or grid.scale.size == 1:
        return Grid(grid.scale.reshape(()), grid.zero_point.reshape(()), grid.storage)
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis = int(given.get("axis", 1)) % max(1, source.ndim)
    block = int(given.get("block_size", 0))

    def spread(numbers: np.ndarray) -> np.ndarray:
        if block:
            return np.repeat(numbers, block, axis)[tuple(slice(0, d) for d in source.shape)]
        return numbers.reshape([-1 if a == axis else 1 for a in range(source.ndim)])

    return Grid(spread(grid.scale), spread(grid.zero_point), grid.storage)


def _evaluator(node: NodeProto, model: onnx.ModelProto) -> Callable[[Sequence[np.ndarray | None]], Sequence[Any]]:
    """One node as a model of its own, so that nothing but it decides what is computed."""
    names = [name for name in node.input if name]
    graph = helper.make_graph(
        [node],
        "node",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names)],
        [onnx.ValueInfoProto(name=name) for name in node.output if name],
    )
    alone = helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    try:
        evaluator = ReferenceEvaluator(alone)
    except Exception as error:  # it has no common base class either
        raise NotComputable(f"onnx's reference evaluator does not know {node.op_type}: {error}") from error
    wanted = [name for name in node.output if name]

    def evaluate(inputs: Sequence[np.ndarray | None]) -> Sequence[Any]:
        feed = {name: array for name, array in zip(node.input, inputs, strict=True) if name and array is not None}
        found = dict(zip(wanted, evaluator.run(wanted, feed), strict=True))
        return [found.get(name) for name in node.output]

    return evaluate
