"""Records of metrics as JSON values, and back to the bit: what a journal can hold. Reading one runs no code of anybody."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

import numpy as np

OWN = "potc."


def encoded(record: Any) -> Any:
    """A JSON value. Raises TypeError for what is no number, text, None, tuple, list, mapping, array of numbers, or one of potc's
    own dataclasses."""
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
    if is_dataclass(record) and not isinstance(record, type) and type(record).__module__.startswith(OWN):
        name = f"{type(record).__module__}:{type(record).__qualname__}"
        return {"class": name, "fields": {f.name: encoded(getattr(record, f.name)) for f in fields(record)}}
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
    if "class" in value:
        module, _, name = value["class"].partition(":")
        if not module.startswith(OWN):
            raise ValueError(f"{module} is no module of potc")
        kind = getattr(import_module(module), name)
        if not (isinstance(kind, type) and is_dataclass(kind)):
            raise ValueError(f"{name} is no record of potc")
        return kind(**{k: decoded(v) for k, v in value["fields"].items()})
    return {decoded(k): decoded(v) for k, v in value["mapping"]}
