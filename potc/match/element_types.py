"""Which inputs and outputs of an operator have one element type, by ONNX's own schemas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from onnx import defs

FLOATS = {"f16": np.float16, "f32": np.float32, "f64": np.float64}  # those that numpy computes with


def element_types(op: str, known: Sequence[str | None]) -> list[str | None]:
    """For each input the element type that another input fixes: both have one type by the operator's schema.

    ``known``: the types of the inputs, as ``f32``, None where unknown. Vendors' operators fix nothing.
    """
    inputs, _ = _types(op, len(known))
    found: list[str | None] = []
    for k, name in enumerate(inputs):
        others = (t for j, t in enumerate(known) if j != k and name and inputs[j] == name)
        found.append(next((t for t in others if t is not None), None))
    return found


def result_type(op: str, known: Sequence[str | None]) -> str | None:
    """The element type of the first output, where it has that of an input that is known."""
    inputs, output = _types(op, len(known))
    same = (t for name, t in zip(inputs, known, strict=True) if name and name == output and t is not None)
    return next(same, None)


@lru_cache(maxsize=256)
def _types(op: str, count: int) -> tuple[tuple[str, ...], str]:
    """Names of the type of each of ``count`` inputs and of the first output; "" where the schema says nothing."""
    domain, _, name = op.rpartition("::")
    if not defs.has(name, domain):
        return ("",) * count, ""
    schema = defs.get_schema(name, domain=domain)
    ports = [p.type_str for p in schema.inputs]
    inputs = tuple(ports[min(k, len(ports) - 1)] if ports else "" for k in range(count))
    return inputs, schema.outputs[0].type_str if schema.outputs else ""
