"""What ONNX says about its operators, in every opset of a range. The only place of this chapter that reads onnx.

``import onnx`` costs a quarter of a second (numpy, protobuf). The schemas live in its compiled part, which needs
neither: that part alone is loaded, under its own name, so that a later ``import onnx`` finds and uses it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Domains = tuple[tuple[str, int, int], ...]  # domain, oldest and newest opset: what a device states beside ONNX's own
VARIADIC = 1 << 20  # onnx gives variadic operators a very large number of inputs
_COMPILED = "onnx.onnx_cpp2py_export"


@lru_cache(maxsize=1)
def _schemas() -> Any:
    """The module that answers ``has_schema`` and ``get_schema``."""
    if "onnx" not in sys.modules and _COMPILED not in sys.modules:
        package = importlib.util.find_spec("onnx")
        folders = list(package.submodule_search_locations or ()) if package is not None else []
        spec = importlib.machinery.PathFinder.find_spec(_COMPILED, folders)
        if spec is not None and spec.loader is not None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[_COMPILED] = module
            try:
                spec.loader.exec_module(module)
            except ImportError:
                del sys.modules[_COMPILED]
    compiled = sys.modules.get(_COMPILED)
    if compiled is not None and hasattr(compiled, "defs"):
        return compiled.defs  # type: ignore[attr-defined]
    return importlib.import_module("onnx.defs")


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator over a range of opsets.

    ``inputs``: names in port order of the newest version. ``fewest``/``most``: how many inputs may be given in every
    opset (``most`` None: any number). ``attributes``: in every opset, name -> type (``INT``, ``FLOATS``, ...).
    ``sometimes``: attributes of some opsets only -> True where an input of that name takes their place.
    """

    name: str
    inputs: tuple[str, ...]
    fewest: int
    most: int | None
    outputs: tuple[str, ...]
    attributes: dict[str, str]
    sometimes: dict[str, bool]
    defaults: frozenset[str]


def split(op: str) -> tuple[str, str]:
    """Domain ("" for ONNX) and operator type of ``domain::Op``."""
    domain, _, name = op.rpartition("::")
    return ("" if domain == "ai.onnx" else domain), name


@lru_cache(maxsize=1)
def newest_opset() -> int:
    """The newest opset of the ONNX domain that the installed onnx knows."""
    versions = _schemas().schema_version_map()
    return int(versions[""][1])


def newest_of(domain: str) -> int | None:
    """The newest opset of another domain that the installed onnx knows; None for those of vendors."""
    versions = _schemas().schema_version_map()
    return int(versions[domain][1]) if domain in versions else None


def is_known_domain(op: str) -> bool:
    """False for operators of vendors, of which ONNX says nothing."""
    return split(op)[0] in _domains()


@lru_cache(maxsize=1)
def _domains() -> frozenset[str]:
    return frozenset(_schemas().schema_version_map())


@lru_cache(maxsize=4096)
def exists(op: str, opsets: tuple[int, int] | None = None, domains: Domains = ()) -> bool:
    """True if an operator is in every opset of the range (None: in any opset). Vendors' operators always are.

    ``opsets`` is about ONNX's own domain; ``domains`` holds the ranges of others, which need not be stated.
    """
    domain, name = split(op)
    if not is_known_domain(op):
        return True
    if opsets is None:
        return bool(_schemas().has_schema(name, domain))
    return len(_versions(op, opsets, domains)) > 0


def range_of(op: str, opsets: tuple[int, int], domains: Domains = ()) -> tuple[int, int] | None:
    """The opsets of an operator's own domain in which it must exist; None where a device does not state them."""
    domain, _ = split(op)
    stated = opsets if not domain else next(((low, high) for d, low, high in domains if d == domain), None)
    newest = newest_of(domain)
    if stated is None or newest is None:
        return None
    return max(1, min(stated[0], newest)), max(1, min(stated[1], newest))


@lru_cache(maxsize=4096)
def _versions(op: str, opsets: tuple[int, int], domains: Domains) -> tuple[Any, ...]:
    """The distinct schemas in force, oldest first; empty if any opset of the range has none."""
    domain, name = split(op)
    module = _schemas()
    stated = range_of(op, opsets, domains)
    if stated is None:
        return (module.get_schema(name, domain=domain),) if module.has_schema(name, domain) else ()
    found: dict[int, Any] = {}
    for opset in range(stated[0], stated[1] + 1):
        try:
            schema = module.get_schema(name, opset, domain)
        except module.SchemaError:
            return ()
        if schema.deprecated:
            return ()
        found.setdefault(schema.since_version, schema)
    return tuple(found.values())


@lru_cache(maxsize=4096)
def operator(op: str, opsets: tuple[int, int], domains: Domains = ()) -> Operator | None:
    """What is true of an operator in every opset of the range; None if it is unknown in one, or a vendor's."""
    versions = _versions(op, opsets, domains) if is_known_domain(op) else ()
    if not versions:
        return None
    newest = versions[-1]
    every = set.intersection(*(set(v.attributes) for v in versions))
    some = set.union(*(set(v.attributes) for v in versions)) - every
    inputs = {i.name for v in versions for i in v.inputs}
    most = min(v.max_input for v in versions)
    return Operator(
        name=op,
        inputs=tuple(i.name for i in newest.inputs),
        fewest=max(v.min_input for v in versions),
        most=None if most > VARIADIC else most,
        outputs=tuple(o.name for o in newest.outputs),
        attributes={name: newest.attributes[name].type.name for name in sorted(every)},
        sometimes={name: name in inputs for name in sorted(some)},
        defaults=frozenset(name for name in every if not newest.attributes[name].required),
    )


def port_names(op: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Names of inputs and outputs over all versions, in port order of the newest; None for vendors' operators."""
    found = operator(op, (newest_opset(), newest_opset()))
    return None if found is None else (found.inputs, found.outputs)


def first_opset(op: str, opsets: tuple[int, int], domains: Domains = ()) -> int | None:
    """The lowest opset of the range from which on an operator of ONNX's own domain exists; None where it is not in the newest."""
    low, high = opsets
    return next((n for n in range(low, high + 1) if exists(op, (n, high), domains)), None)


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All operators of the ONNX domain."""
    return tuple(sorted({s.name for s in _schemas().get_all_schemas_with_history() if s.domain == ""}))


@lru_cache(maxsize=1)
def all_attributes() -> frozenset[str]:
    """Names of all attributes of all operators, in any opset."""
    return frozenset(name for s in _schemas().get_all_schemas_with_history() for name in s.attributes)


def suggest(word: str, known: tuple[str, ...]) -> str | None:
    """The most similar known word, if any is similar at all."""
    exact = {k.lower(): k for k in known}
    if word.lower() in exact:
        return exact[word.lower()]
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return close[0] if close else None
