"""What differs between two models, compiled or not: how tensors are stored, with which scales, in which kernels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np

from potc.graph.read import read_model
from potc.workbench.stored_view import Format, Value, View, ViewedNode, view

# Kinds of differences in the order in which they are told, and how they are counted: of one, of several.
KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "interface": ("input or output differs", "inputs or outputs differ"),
        "node": ("node differs", "nodes differ"),
        "kernel": ("node in another kernel", "nodes in other kernels"),
        "stored": ("tensor quantized in", "tensors quantized in"),  # with the side that does
        "type": ("type differs", "types differ"),
        "scale": ("scale differs", "scales differ"),
        "readers": ("tensor with other readers in float", "tensors with other readers in float"),
        "weight": ("constant changed", "constants changed"),
    }
)
VERSION = 1


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs: ``a`` and ``b`` say what it is in each model (empty: it is not there), ``rule_a`` and
    ``rule_b`` which rule made it so, ``ratio`` by how much numbers differ (1 is not at all)."""

    kind: str
    name: str
    a: str
    b: str
    rule_a: str = ""
    rule_b: str = ""
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Diff:
    """``made_by``: what each model says of its making; it is told, and is no difference."""

    a: str
    b: str
    made_by: tuple[dict[str, str], dict[str, str]]
    differences: tuple[Difference, ...]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(d.kind for d in self.differences)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    def to_json(self) -> str:
        document = {"potc": "diff", "version": VERSION, "counts": self.counts, **asdict(self)}
        return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)


def diff_models(a: str, b: str) -> Diff:
    """Compares two model files. Raises Rejected for one that can't be read."""
    first, second = view(read_model(a).proto), view(read_model(b).proto)
    return Diff(a, b, (dict(first.made_by), dict(second.made_by)), diff_views(first, second))


def diff_views(a: View, b: View) -> tuple[Difference, ...]:
    """All differences, by kind, then in the order of the names. Equal views have none; swapped views swap the sides."""
    found = [*_interface(a, b), *_nodes(a, b), *_constants(a, b), *_tensors(a, b)]
    order = list(KINDS)
    return tuple(sorted(dict.fromkeys(found), key=lambda d: (order.index(d.kind), d.name, d.a, d.b)))


def _interface(a: View, b: View) -> Iterator[Difference]:
    for word, mine, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        for name in sorted({*mine, *theirs}):
            if mine.get(name) != theirs.get(name):
                yield Difference("interface", f"{word} {name}", mine.get(name, ""), theirs.get(name, ""))


# ---------------------------------------------------------------------------------------------- nodes


def _nodes(a: View, b: View) -> Iterator[Difference]:
    for key in sorted({*a.nodes, *b.nodes}):
        mine, theirs = a.nodes.get(key), b.nodes.get(key)
        if mine is None or theirs is None:
            yield Difference("node", key, _shown(mine), _shown(theirs), _maker(mine), _maker(theirs))
            continue
        changed = _changed(mine, theirs)
        if changed is not None:
            yield Difference("node", key, changed[0], changed[1], _maker(mine), _maker(theirs))
        if a.made_by and b.made_by and (mine.rule, mine.kernel) != (theirs.rule, theirs.kernel):
            yield Difference("kernel", key, _kernel(mine), _kernel(theirs), _origin(mine), _origin(theirs))


def _shown(node: ViewedNode | None) -> str:
    return "" if node is None else node.operator


def _origin(node: ViewedNode | None) -> str:
    return f"{node.rule} ({node.place})" if node is not None and node.rule else ""


def _maker(node: ViewedNode | None) -> str:
    """The rewrite that made a node, else the rule that covers it."""
    return (node.rewrite if node is not None else "") or _origin(node)


def _kernel(node: ViewedNode) -> str:
    return f"{node.rule} at {node.kernel}" if node.rule else "float"


def _changed(a: ViewedNode, b: ViewedNode) -> tuple[str, str] | None:
    """What is different about an operator, its attributes or what it reads; None if nothing."""
    if a.operator != b.operator:
        return a.operator, b.operator
    for name in sorted({*a.attributes, *b.attributes}):
        if a.attributes.get(name) != b.attributes.get(name):
            words = [f"{a.operator}, {name} {'differs' if name in n.attributes else 'is not given'}" for n in (a, b)]
            return words[0], words[1]
    if len(a.inputs) != len(b.inputs):
        return f"{a.operator} of {len(a.inputs)}", f"{b.operator} of {len(b.inputs)}"
    for port, (x, y) in enumerate(zip(a.inputs, b.inputs, strict=True)):
        read = _read(x), _read(y)
        if read[0] != read[1]:
            return f"{a.operator} reads {read[0]} at {port}", f"{b.operator} reads {read[1]} at {port}"
    return None


def _read(value: Value | None) -> str:
    return "nothing" if value is None else "a constant" if value.constant else f"`{value.tensor}`"


# ---------------------------------------------------------------------------------------------- constants


def _constants(a: View, b: View) -> Iterator[Difference]:
    for key in sorted({*a.nodes, *b.nodes}):
        mine, theirs = a.nodes.get(key), b.nodes.get(key)
        same = mine is not None and theirs is not None and mine.operator == theirs.operator
        ports = max(len(n.inputs) if n is not None else 0 for n in (mine, theirs))
        for port in range(ports):
            x, y = _constant(mine, port), _constant(theirs, port)
            if same:
                if x is not None and y is not None:
                    yield from _both(x, y)
                elif x is not None or y is not None:
                    yield from _single(x, y)
            else:
                yield from (*_single(x, None), *_single(None, y))


def _constant(node: ViewedNode | None, port: int) -> Value | None:
    value = node.inputs[port] if node is not None and port < len(node.inputs) else None
    return value if value is not None and value.constant else None


def _single(a: Value | None, b: Value | None) -> Iterator[Difference]:
    """A constant that only one model has there: it matters if it is stored as integers."""
    value = a or b
    if value is not None and value.format is not None:
        kind = value.format.kind
        mine, theirs = ((kind, value.rule), ("", "")) if a is not None else (("", ""), (kind, value.rule))
        yield Difference("stored", value.tensor, mine[0], theirs[0], mine[1], theirs[1])


def _both(a: Value, b: Value) -> Iterator[Difference]:
    same_kind = (a.format is None) is (b.format is None)
    name = min(a.tensor, b.tensor) if same_kind else a.tensor if a.format is None else b.tensor
    if a.format is None or b.format is None:
        if a.format is not b.format:
            yield Difference("stored", name, _kind(a), _kind(b), a.rule, b.rule)
        elif not _same_bytes(a, b):
            yield _changed_constant(name, a, b, "values")
        return
    yield from _formats(name, a, b)
    if a.format.kind == b.format.kind and not _same_bytes(a, b):
        yield _changed_constant(name, a, b, "codes")


def _kind(value: Value) -> str:
    return "float" if value.format is None else value.format.kind


def _same_bytes(a: Value, b: Value) -> bool:
    x, y = a.numbers, b.numbers
    return x.shape == y.shape and x.dtype == y.dtype and bool((x == y).all() or x.tobytes() == y.tobytes())


def _changed_constant(name: str, a: Value, b: Value, what: str) -> Difference:
    """How much of two constants differs: the same words for both sides, or what each is."""
    x, y = a.numbers, b.numbers
    if x.shape != y.shape or x.dtype != y.dtype:
        return Difference("weight", name, f"{x.dtype} {list(x.shape)}", f"{y.dtype} {list(y.shape)}", a.rule, b.rule)
    words = f"{int((x != y).sum())} of {x.size} {what} differ"
    return Difference("weight", name, words, words, a.rule, b.rule)


# ---------------------------------------------------------------------------------------------- formats


def _tensors(a: View, b: View) -> Iterator[Difference]:
    for name in sorted(a.tensors.keys() & b.tensors.keys()):
        mine, theirs = a.tensors[name], b.tensors[name]
        x, y = _stored(mine), _stored(theirs)
        if x is None or y is None:
            if x is not y:
                kinds = [_kind(v) if v is not None else "float" for v in (x, y)]
                rules = [v.rule if v is not None else "" for v in (x, y)]
                yield Difference("stored", name, kinds[0], kinds[1], rules[0], rules[1])
            continue
        yield from _formats(name, x, y)
        common = {r for r, _ in mine} & {r for r, _ in theirs}
        floats = [sorted(r for r, v in readers if v.format is None and r in common) for readers in (mine, theirs)]
        if floats[0] != floats[1]:
            words = [", ".join(side) or "none" for side in floats]
            yield Difference("readers", name, words[0], words[1], x.rule, y.rule)


def _stored(readers: tuple[tuple[str, Value], ...]) -> Value | None:
    """How most readers get a tensor as integers; None if none does."""
    values = [v for _, v in readers if v.format is not None]
    kinds = Counter(v.format.kind for v in values if v.format is not None)
    return max(values, key=lambda v: (kinds[_kind(v)], _kind(v)), default=None)


def _formats(name: str, a: Value, b: Value) -> Iterator[Difference]:
    x, y = a.format, b.format
    assert x is not None and y is not None
    if x.kind != y.kind:
        yield Difference("type", name, x.kind, y.kind, a.rule, b.rule)
    elif not x.same_numbers(y):
        yield Difference("scale", name, _numbers(x), _numbers(y), a.rule, b.rule, _ratio(x, y))


def _numbers(form: Format) -> str:
    """Scales and zero points in short: the only one, or the extremes."""
    if form.scale is None:
        return "computed scale"
    low, high = float(form.scale.min()), float(form.scale.max())
    scale = f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"
    zeros = form.zero_point
    if zeros is None or not zeros.any():
        return f"scale {scale}"
    least, most = int(zeros.min()), int(zeros.max())
    return f"scale {scale}, zero point {least if least == most else f'{least} .. {most}'}"


def _ratio(a: Format, b: Format) -> float | None:
    """The largest factor between scales of one channel; None where they can't be compared."""
    if a.scale is None or b.scale is None or a.scale.shape != b.scale.shape or not a.scale.size:
        return None
    with np.errstate(all="ignore"):
        ratio = np.maximum(a.scale / b.scale, b.scale / a.scale)
    return float(ratio.max()) if np.isfinite(ratio).all() else None
