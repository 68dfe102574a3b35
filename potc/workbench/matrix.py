"""Operators by devices: what each device does with each operator, limits as footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from potc.workbench.document import Device, Kernel, Limit, Tensor
from potc.workbench.sentences import code, listed, short

# A line of a cell: what happens, and the numbers of its footnotes.
Line = tuple[str, tuple[int, ...]]

LEGEND = (
    "Cells show inputs × weights → output. `/channel`: one scale for each channel. `moves`: values pass through, input and "
    "output share one quantizer. `float`: a rule keeps it in float. `–`: nothing is said of it, so it stays in "
    "float. Small numbers lead to the limits below the table."
)


@dataclass(frozen=True, slots=True)
class Row:
    """An operator, and one cell of lines for each device."""

    name: str
    cells: tuple[tuple[Line, ...], ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """``notes``: footnotes, number 1 first."""

    devices: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    legend: str = LEGEND


def matrix(devices: Sequence[Device]) -> Matrix:
    """All operators that any of the devices speaks of."""
    notes: dict[str, int] = {}
    names = sorted({name for d in devices for name in _named(d)}, key=lambda n: (" → " in n, n))
    rows = tuple(Row(name, tuple(_cell(d, name, notes) for d in devices)) for name in names)
    return Matrix(tuple(d.name for d in devices), rows, tuple(notes))


def _named(d: Device) -> Iterable[str]:
    for item in (*d.kernels, *d.floats):
        yield from _names_of(item.operators, len(item.shape.heads) > 1)
    for moved in (*d.passes, *d.same_scale):
        yield from moved.operators


def _names_of(operators: tuple[str, ...], several: bool) -> tuple[str, ...]:
    return (" → ".join(operators),) if several else operators


def _cell(d: Device, name: str, notes: dict[str, int]) -> tuple[Line, ...]:
    lines: dict[Line, None] = {}
    for kernel in d.kernels:
        if name in _names_of(kernel.operators, len(kernel.shape.heads) > 1):
            lines[_formats(kernel), _numbers(kernel.limits, notes)] = None
    for moved in d.passes:
        if name in moved.operators:
            lines["moves", _numbers([Limit(moved.where, "")] if moved.where else [], notes)] = None
    for moved in d.same_scale:
        if name in moved.operators:
            where = f"one scale for all its tensors{f', where {moved.where}' if moved.where else ''}"
            lines["one scale", _numbers([Limit(where, "")] if moved.where else [], notes)] = None
    for floating in d.floats:
        if name in _names_of(floating.operators, len(floating.shape.heads) > 1):
            followed = f"followed by {', then '.join(floating.shape.fused)}" if floating.shape.fused else ""
            about = f"only {listed(map(code, floating.keep))} in float" if floating.keep else ""
            told = ": ".join(filter(None, ("; ".join(filter(None, (followed, about))), "; ".join(floating.why))))
            limits = [*floating.limits, *([Limit(told, "")] if told else [])]
            lines["partly float" if floating.keep else "float", _numbers(limits, notes)] = None
    return tuple(lines) or (("–", ()),)


def _numbers(limits: Iterable[Limit], notes: dict[str, int]) -> tuple[int, ...]:
    """Footnotes of limits; equal ones have one number wherever they stand."""
    texts = (" ".join((x.condition + (f" ({x.reason})" if x.reason else "")).split()) for x in limits)
    return tuple(notes.setdefault(text, len(notes) + 1) for text in texts)


def _formats(kernel: Kernel) -> str:
    inputs, weights, outputs = (_shorts(kernel.of(role)) for role in ("input", "weight", "output"))
    left = " × ".join(filter(None, (inputs, weights))) or "any"
    return f"{left} → {outputs or 'any'}"


def _shorts(tensors: Iterable[Tensor]) -> str:
    found = dict.fromkeys(short(t) for tensor in tensors for t in tensor.types)
    floating = any(tensor.none for tensor in tensors)
    return " or ".join((*found, *(("float",) if floating else ()))) if found or floating else ""
