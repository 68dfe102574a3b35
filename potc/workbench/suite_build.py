"""The model of a case: a scene, compiled with seeded samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from potc.compiler import opset_for, weights
from potc.diagnostics.diagnostic import Rejected
from potc.graph.opset import raise_opset
from potc.graph.write import serialize
from potc.language.lattice import spell
from potc.language.program import Program
from potc.quantize.calibrate import calibrate
from potc.quantize.lower import lower
from potc.quantize.params import Params, solve_params
from potc.quantize.plan import Plan
from potc.quantize.provenance import record_provenance
from potc.quantize.tuning import BiasSettings, RangeSettings, RoundingSettings, Tuning
from potc.sketch.oracle import random_inputs
from potc.workbench.scenes import Scene

RANGE = 4.0  # what calibration samples of a case that goes to the ends reach
FLOAT_TOLERANCE = 2.0**-14  # of the largest magnitude, for results that stay in float


@dataclass(frozen=True, slots=True)
class Samples:
    """A Dataset that is held in memory."""

    samples: tuple[Mapping[str, np.ndarray], ...]
    files: tuple[str, ...] = ()
    generated: bool = True

    @property
    def chosen(self) -> Sequence[int]:
        return range(len(self.samples))

    def __len__(self) -> int:
        return len(self.samples)

    def feeds(self) -> Iterator[Mapping[str, np.ndarray]]:
        return iter(self.samples)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A scene as the device gets it."""

    scene: Scene
    proto: onnx.ModelProto
    serialized: bytes
    params: Params

    @property
    def plan(self) -> Plan:
        return self.scene.plan


@dataclass(frozen=True, slots=True)
class Style:
    """How a scene is compiled. ``signs``: "normal", "positive" or "negative" samples; ``ends``: samples that are constant at
    both ends of the range are seen as well, so that nothing saturates but what must."""

    signs: str = "normal"
    preset: str = "mixed"
    ends: bool = False
    plain: bool = False  # codes are those of the nearest numbers, and biases stay as they are

    @property
    def tuning(self) -> Tuning:
        rounding = RoundingSettings("nearest" if self.plain else "leveled")
        return Tuning(
            ranges=RangeSettings(self.preset), rounding=rounding, bias=BiasSettings("none" if self.plain else "fast")
        )


class Unbuildable(Exception):
    """A case that can't be made; the message says why."""


# ---------------------------------------------------------------------------------------------- the model


def compile_scene(program: Program, scene: Scene, style: Style, seed: int) -> Compiled:
    """The scene, calibrated on seeded samples and lowered. Raises Unbuildable."""
    if any(_is_other_float(v) for v in scene.model.inputs):
        raise Unbuildable("its numbers are floats of another width, and scales are float32")
    failed = ""
    for signs in dict.fromkeys((style.signs, "positive")):  # logarithms and roots have no result below 0
        try:
            samples = Samples(tuple(_calibration(scene.model.proto, signs, style.ends, seed)))
            ranges = calibrate(scene.model, scene.plan, samples, lambda done, total: None)
            params = solve_params(scene.plan, ranges, weights(scene.model, scene.plan), style.tuning)
            lowered = lower(raise_opset(scene.model, opset_for(params)), scene.plan, params)
        except Rejected as rejected:
            failed = rejected.diagnostics[0].message
            continue
        # The place of a rule is told without its folder: equal rules give equal bytes wherever they lie.
        proto = record_provenance(lowered, program, scene.plan, ())
        return Compiled(scene, proto, serialize(proto), params)
    raise Unbuildable(f"it does not compile: {failed}")


def _is_other_float(value: onnx.ValueInfoProto) -> bool:
    others = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    return value.type.tensor_type.elem_type in others


def _calibration(model: onnx.ModelProto, signs: str, ends: bool, seed: int) -> Iterator[Mapping[str, np.ndarray]]:
    for k in range(4):
        yield random_inputs(model, seed * 64 + k, signs)
    if ends:
        for value in (RANGE, -RANGE):
            if (value > 0 or signs != "positive") and (value < 0 or signs != "negative"):
                yield {
                    n: np.full_like(a, value) if a.dtype.kind == "f" else a
                    for n, a in random_inputs(model, seed, whole=0).items()
                }


def extreme_constants(scene: Scene) -> onnx.ModelProto | None:
    """The float model with weights at their ends and large biases: one channel all positive, one all negative, further ones
    with signs in turn. None where nothing is multiplied by a weight."""
    weights_of = {c.tensor: c.axis or 0 for c in scene.plan.constants if c.role == "weight"}
    biases = {c.tensor for c in scene.plan.constants if c.factors}
    if not weights_of:
        return None
    found = onnx.ModelProto()
    found.CopyFrom(scene.model.proto)
    stored = {t.name: t for t in found.graph.initializer}
    terms = 1
    for name, axis in weights_of.items():
        array = numpy_helper.to_array(stored[name])
        rows = np.empty((array.shape[axis], array.size // max(1, array.shape[axis])), array.dtype)
        for k, row in enumerate(rows):
            row[:] = (1, -1, _in_turn(row.size), -_in_turn(row.size))[k % 4]
        terms = max(terms, rows.shape[1])
        others = [d for a, d in enumerate(array.shape) if a != axis]
        weight = np.moveaxis(rows.reshape([array.shape[axis], *others]), 0, axis) / 2
        stored[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), name))
    for name in biases:
        array = numpy_helper.to_array(stored[name])
        bias = _in_turn(array.size).reshape(array.shape) * (terms * RANGE / 4)
        stored[name].CopyFrom(numpy_helper.from_array(bias.astype(array.dtype), name))
    return found


def _in_turn(size: int) -> np.ndarray:
    return np.where(np.arange(size) % 2, -1.0, 1.0)


def formats(compiled: Compiled) -> dict[str, str]:
    """Of each stored tensor the number format, as rules spell it, by the tensor's name in the float model."""
    found: dict[str, str] = {}
    for quantizer, params in zip(compiled.plan.quantizers, compiled.params.activations, strict=True):
        found.update((t, spell(params.qtype)) for t in quantizer.tensors)
    for constant, params in zip(compiled.plan.constants, compiled.params.constants, strict=True):
        found[constant.tensor] = spell(params.qtype)
    return found
