"""A plan for each graph of a model, the main one and every body, and one plan of them all.

A kernel lies in one graph: patterns end where a body begins. What a body reads from outside is an input to it, quantized
inside where a kernel of the body asks for that. Names are unique in the whole model, so plans can be joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from potc.graph.bodies import Body, Closed, deep
from potc.graph.control import is_known
from potc.graph.model import Model
from potc.graph.snapshot import Snapshot, take_snapshot
from potc.language.program import Program
from potc.quantize.plan import Left, Origin, Plan
from potc.quantize.solve import solve

NEVER_RUN = "no sample ran this body, so nothing is known of what its tensors hold"


@dataclass(frozen=True, slots=True)
class Part:
    """One graph with its own plan. ``key``: "" for the main graph, else ``node/attribute``; ``inner``: keys of its bodies."""

    key: str
    snapshot: Snapshot
    plan: Plan
    inner: tuple[str, ...] = ()


def snapshots_of(prepared: Model) -> dict[str, Snapshot]:
    """Of the main graph, under "", and of every body that can stand alone."""
    return {key: take_snapshot(model.proto) for key, model, _ in deep(prepared)}


def solve_parts(
    program: Program,
    prepared: Model,
    snapshots: Mapping[str, Snapshot],
    held: Mapping[str, Mapping[int, str]] | None = None,
) -> tuple[Part, ...]:
    """A plan for each graph, the main graph's first. ``held``: by key, nodes that stay in float and why.

    Raises Rejected as ``solve`` does.
    """
    held = held or {}
    inside = without_ends(program)
    parts: dict[str, Part] = {}
    for key, model, bodies in deep(prepared):
        snapshot = snapshots[key]
        plan = solve(inside if key else program, snapshot, held.get(key))
        nodes = {node.name: node for node in model.proto.graph.node}
        shut: list[Left] = []
        inner: list[str] = []
        place = {name: n for n, name in enumerate(snapshot.names)}
        for body in sorted(bodies, key=lambda b: (place[b.node], b.attribute)):
            operator = nodes[body.node].op_type
            if isinstance(body, Body) and is_known(nodes[body.node]):
                inner.append(body.key)
            else:
                reason = body.reason if isinstance(body, Closed) else f"how {operator} runs it is not known"
                shut.append(Left(body.key, operator, (Origin(program.device, "", reason),)))
        parts[key] = Part(key, snapshot, replace(plan, left=(*plan.left, *shut)), tuple(inner))
    return tuple(_in_order(parts, ""))


def _in_order(parts: Mapping[str, Part], key: str) -> Iterator[Part]:
    """A graph, then its bodies in canonical order of their nodes; without those of nodes that nobody knows how to run."""
    yield parts[key]
    for inner in parts[key].inner:
        yield from _in_order(parts, inner)


def without_ends(program: Program) -> Program:
    """For bodies: what a device says of the model's own inputs and outputs does not hold for theirs."""
    members = tuple(replace(p, graph_input=None, graph_output=None) for p in program.parts)
    return replace(program, graph_input=None, graph_output=None, parts=members)


def whole(parts: Sequence[Part]) -> Plan:
    """All plans as one, with quantizers and constants counted on. Layers in bodies that have no bias do without."""
    plans = [part.plan for part in parts]
    if len(plans) == 1:
        return plans[0]
    first = plans[0]
    quantizers, constants = list(first.quantizers), list(first.constants)
    insertions, corrections = list(first.insertions), list(first.corrections)
    products = list(first.products)
    for plan in plans[1:]:
        ids, places = len(quantizers), len(constants)
        offset = {"activation": ids, "constant": places}
        quantizers += [replace(q, id=q.id + ids) for q in plan.quantizers]
        insertions += [replace(i, quantizer=i.quantizer + ids) for i in plan.insertions]
        constants += [
            replace(c, factors=tuple((kind, index + offset[kind]) for kind, index in c.factors)) for c in plan.constants
        ]
        products += [
            replace(p, factors=tuple((kind, index + offset[kind]) for kind, index in p.factors)) for p in plan.products
        ]
        corrections += [replace(c, bias=c.bias + places, weight=c.weight + places) for c in plan.corrections]
    kernels = tuple(k for plan in plans for k in plan.kernels)
    left = tuple(node for plan in plans for node in plan.left)
    return Plan(
        first.device,
        tuple(quantizers),
        tuple(insertions),
        tuple(constants),
        kernels,
        left,
        tuple(corrections),
        first.absent,
        tuple(dict.fromkeys(t for plan in plans for t in plan.rectified)),
        tuple(products),
    )


def plan_of(program: Program, prepared: Model) -> Plan:
    """The plan of a prepared model, bodies included."""
    return whole(solve_parts(program, prepared, snapshots_of(prepared)))


def only_run(parts: Sequence[Part], runs: Mapping[str, int]) -> tuple[Part, ...]:
    """Bodies that no sample ran stay in float. ``runs``: how often each body ran, by key."""
    return tuple(
        part if not part.key or runs.get(part.key) or not part.plan.quantizers else _in_float(part) for part in parts
    )


def _in_float(part: Part) -> Part:
    snapshot, device = part.snapshot, part.plan.device
    left = tuple(
        Left(snapshot.names[n], snapshot.ops[n], (Origin(device, "", NEVER_RUN),))
        for n in range(len(snapshot.ops))
        if any(t >= 0 and snapshot.is_float(t) for t in snapshot.outputs[n])
    )
    return replace(part, plan=Plan(device, (), (), (), (), left))
