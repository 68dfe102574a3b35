"""Records of metrics as JSON values, and back to the bit: what a journal can hold."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np


def encoded(record: Any) -> Any:
    """A JSON value. Numbers, texts, None, tuples, lists, mappings and arrays of numbers. Raises TypeError for anything else."""
    if record is None or isinstance(record, bool | int | float | str):
        return record
    if isinstance(record, np.generic | np.ndarray):
        array = np.asarray(record)
        if array.dtype.hasobject:
            raise TypeError("an array of objects")
        data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
        return {"array": data, "dtype": array.dtype.str, "shape": list(array.shape)}
    if isinstance(record, tuple):
        return {"tuple": [encoded(r) for r in record]}
    if isinstance(record, list):
        return [encoded(r) for r in record]
    if isinstance(record, Mapping):
        return {"mapping": [[encoded(k), encoded(v)] for k, v in record.items()]}
    raise TypeError(f"a record of type {type(record).__name__}")


def decoded(value: Any) -> Any:
    """The inverse of ``encoded``; numpy scalars become arrays without axes."""
    if isinstance(value, list):
        return [decoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "array" in value:
        flat = np.frombuffer(base64.b64decode(value["array"]), np.dtype(value["dtype"]))
        return flat.reshape(value["shape"])
    if "tuple" in value:
        return tuple(decoded(v) for v in value["tuple"])
    return {decoded(k): decoded(v) for k, v in value["mapping"]}
