"""One tensor: its quantizer, who asked for it and who shares it, who makes and reads it; or why it stays in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from potc.graph.snapshot import OUTER
from potc.quantize.plan import Kernel, Origin
from potc.workbench.explain_model import Examined, Reason
from potc.workbench.explain_nodes import axis_note, spelled


@dataclass(frozen=True, slots=True)
class Stored:
    """One way in which a tensor is stored. ``readers``: (node, port) that read it so; empty: everybody does."""

    types: tuple[str, ...]
    note: str
    shared: tuple[str, ...]
    readers: tuple[tuple[str, int], ...]
    asked: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class End:
    """A node that makes or reads the tensor, and the kernel that it is in (empty: it runs in float)."""

    node: str
    port: int
    rule: str
    kernel: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TensorAnswer:
    """``stored`` empty: the tensor stays in float, ``reason`` says why. ``body``: in which this is so (``node/attribute``), "" for
    the main graph; ``model_input`` and ``model_output`` are then inputs and outputs of the body."""

    tensor: str
    body: str
    dtype: str
    shape: tuple[int | None, ...] | None
    constant: bool
    stored: tuple[Stored, ...]
    reason: Reason | None
    made_by: End | None
    read_by: tuple[End, ...]
    model_input: bool
    model_output: bool


def explain_tensor(examined: Examined, name: str) -> TensorAnswer:
    snapshot = examined.snapshot
    tensor = snapshot.tensor_ids[name]
    producer = snapshot.producer[tensor]
    made_by = _end(examined, producer, snapshot.outputs[producer].index(tensor)) if producer >= 0 else None
    read_by = tuple(_end(examined, n, port) for n, port in dict.fromkeys(snapshot.consumers[tensor]))
    stored = tuple(_stored(examined, name))
    return TensorAnswer(
        name,
        examined.key,
        snapshot.dtypes[tensor] or "",
        snapshot.shapes[tensor],
        snapshot.is_constant(tensor),
        stored,
        None if stored else _why_float(examined, tensor, made_by, read_by),
        made_by,
        read_by,
        tensor in snapshot.graph_inputs,
        tensor in snapshot.graph_outputs,
    )


def _end(examined: Examined, node: int, port: int) -> End:
    name = examined.snapshot.names[node]
    kernel = examined.kernel_of.get(name)
    return End(name, port, kernel.rule if kernel is not None else "", kernel.nodes if kernel is not None else ())


def _stored(examined: Examined, tensor: str) -> Iterator[Stored]:
    plan = examined.plan
    for insertion in plan.insertions:
        if insertion.tensor == tensor:
            quantizer = plan.quantizers[insertion.quantizer]
            shared = tuple(t for t in quantizer.tensors if t != tensor)
            asked = _origins(quantizer.origins)
            yield Stored(spelled(quantizer), "", shared, insertion.consumers or (), asked)
    for constant in plan.constants:
        if constant.tensor == tensor:
            factors = " * ".join(_factor(examined, kind, index) for kind, index in constant.factors)
            note = ", ".join(filter(None, (axis_note(constant), f"scale = {factors}" if factors else "")))
            reader = ((constant.node, constant.port),)
            yield Stored(spelled(constant), note, (), reader, _origins(constant.origins))


def _factor(examined: Examined, kind: str, index: int) -> str:
    plan = examined.plan
    name = plan.constants[index].tensor if kind == "constant" else plan.quantizers[index].tensors[0]
    return f"scale({name})"


def _origins(origins: tuple[Origin, ...]) -> tuple[Reason, ...]:
    return tuple(Reason(o.rule, o.place, o.reason) for o in origins)


def _why_float(examined: Examined, tensor: int, made_by: End | None, read_by: tuple[End, ...]) -> Reason:
    snapshot = examined.snapshot
    if not snapshot.is_float(tensor):
        kind = snapshot.dtypes[tensor] or "values of unknown type"
        return Reason("", "", f"it holds {kind}: only float tensors are quantized")
    kept = _kept(examined, tensor)
    if kept is not None:
        return kept
    owner = examined.kernel_of.get(made_by.node) if made_by is not None else None
    inside = owner is not None and bool(read_by) and all(end.node in owner.nodes for end in read_by)
    if owner is not None and inside and tensor not in snapshot.graph_outputs:
        return Reason(
            owner.rule, owner.place, f"it is inside of the kernel at {owner.nodes[0]}, which stores nothing between"
        )
    return _nobody(examined, tensor, owner, made_by, read_by)


def _kept(examined: Examined, tensor: int) -> Reason | None:
    for part in examined.parts:
        for candidate in part.cover.kept:
            for name in candidate.rule.keep:
                binding = candidate.match.bindings.get(name)
                for bound in binding if isinstance(binding, tuple) else (binding,):
                    if bound is not None and bound.tensor == tensor:
                        rule = candidate.rule
                        note = "; ".join(rule.notes) or f"the rule keeps `{name}` in float"
                        return Reason(rule.qualified, rule.span.place, note)
    return None


def _nobody(
    examined: Examined, tensor: int, owner: Kernel | None, made_by: End | None, read_by: tuple[End, ...]
) -> Reason:
    """No rule asks for it: the maker leaves it in float, and so do all readers."""
    floats = [end for end in read_by if not end.rule]
    words: list[str] = []
    if examined.snapshot.is_constant(tensor):
        words.append("it is a constant")
    elif owner is not None:
        words.append(f"the kernel at {owner.nodes[0]} may leave it in float")
    elif made_by is not None:
        words.append(f"{made_by.node} stays in float")
    else:
        words.append(f"it is an input of {'the body' if examined.key else 'the model'}")
    if not read_by:
        words.append("no node reads it")
    elif floats:
        names = ", ".join(dict.fromkeys(_reader(end) for end in floats[:4]))
        words.append(f"{names} {'reads' if len(floats) == 1 else 'read'} it in float")
    if len(read_by) > len(floats):
        words.append("the kernels that read it do not ask for integers")
    place = owner.place if owner is not None else ""
    return Reason(owner.rule if owner is not None else "", place, ", and ".join(words))


def _reader(end: End) -> str:
    return f"a nested graph of {end.node}" if end.port == OUTER else end.node
