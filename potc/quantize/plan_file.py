"""The Plan as JSON, exactly and both ways; versioned."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from potc.diagnostics.diagnostic import reject
from potc.quantize.plan import Plan

VERSION = 4


def plan_to_json(plan: Plan) -> str:
    """Canonical text: keys in declaration order, one document, a final newline."""
    return json.dumps({"potc": "plan", "version": VERSION, **_encode(plan)}, indent=1, ensure_ascii=False) + "\n"


def plan_from_json(text: str, name: str = "plan") -> Plan:
    """The plan that was written. Raises Rejected(invalid-plan) with the path of the first thing that does not fit."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number with too many digits
        raise reject("invalid-plan", f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("potc") != "plan":
        raise reject("invalid-plan", f"{name} is not a plan")
    if document.get("version") != VERSION:
        raise reject("invalid-plan", f"{name} has version {document.get('version')}, this potc reads version {VERSION}")
    try:
        return _decode(Plan, {k: v for k, v in document.items() if k not in ("potc", "version")}, "$")
    except (TypeError, ValueError, KeyError) as error:
        raise reject("invalid-plan", f"{name}: {error}") from error


def _encode(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_encode(v) for v in value]
    return value


def _decode(kind: Any, value: Any, path: str) -> Any:
    """``value`` as ``kind`` says: a dataclass, an enum, a (homogeneous or fixed) tuple, an optional, or a plain value."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in get_args(kind):
            return None
        options = [k for k in get_args(kind) if k is not NoneType]
        plain = [k for k in options if isinstance(k, type) and isinstance(value, k)]
        return _decode((plain or options)[0], value, path)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{path} must be a list")
        kinds = get_args(kind)
        if len(kinds) == 2 and kinds[1] is Ellipsis:
            return tuple(_decode(kinds[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        return tuple(_decode(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise TypeError(f"{path} must be an object")
        hints = get_type_hints(kind)
        unknown = value.keys() - hints.keys()
        if unknown:
            raise ValueError(f"{path} has an unknown key {sorted(unknown)[0]!r}")
        missing = hints.keys() - value.keys()
        if missing:
            raise ValueError(f"{path} has no {sorted(missing)[0]!r}")
        return kind(**{name: _decode(hint, value[name], f"{path}.{name}") for name, hint in hints.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    single: Any = kind
    if not isinstance(value, single) or (isinstance(value, bool) and single is not bool):
        raise TypeError(f"{path} must be {single.__name__}, found {value!r}")
    return value
