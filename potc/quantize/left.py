"""Why nodes stay in float: one reason per rule that came near."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from potc.graph.snapshot import Snapshot
from potc.language.program import Program
from potc.match.cover import Cover, Finder
from potc.match.joint import JointCover
from potc.match.pattern_parts import operators_of
from potc.quantize.plan import Left, Origin


def left_nodes(
    program: Program,
    snapshot: Snapshot,
    finders: Sequence[Finder],
    cover: JointCover,
    refused: Mapping[int, Origin],
    held: Mapping[int, Origin],
    through: frozenset[int],
    taken: frozenset[int],
    scoped: Container[int] = (),
) -> tuple[Left, ...]:
    """All nodes with a float output that no kernel covers, in canonical order.

    ``refused``: by id of the kernel; ``held``: by node, what is known of those that no kernel could cover.
    """
    left: list[Left] = []
    for node in range(len(snapshot.ops)):
        owner = cover.owner.get(node)
        if node in through or (owner is not None and id(owner) in taken):
            continue
        if any(t >= 0 and snapshot.is_float(t) for t in snapshot.outputs[node]):
            if node in scoped:
                reasons: tuple[Origin, ...] = (held[node],)
            elif owner is not None:
                reasons = (refused[id(owner)],)
            else:
                reasons = _reasons(program, snapshot, finders, cover, held, node)
            left.append(Left(snapshot.names[node], snapshot.ops[node], reasons))
    return tuple(left)


def _reasons(
    program: Program,
    snapshot: Snapshot,
    finders: Sequence[Finder],
    cover: JointCover,
    held: Mapping[int, Origin],
    node: int,
) -> tuple[Origin, ...]:
    """What each part says that does not take the node; where all take it, that they take it with different others."""
    found: list[Origin] = []
    willing: list[str] = []
    for part, finder, own in zip(program.members, finders, cover.covers, strict=True):
        kernel = own.owner.get(node)
        if kernel is not None and not kernel.rule.is_float:
            names = ", ".join(snapshot.names[n] for n in kernel.match.nodes)
            willing.append(f"{kernel.rule.qualified} covers {names}")
        else:
            found.extend(_reasons_of(part, snapshot, finder, own, held, node))
    if found:
        return tuple(dict.fromkeys(found))
    if node in held:
        return (held[node],)
    return (Origin(program.device, "", f"no kernel of the same nodes on all parts: {'; '.join(willing)}"),)


def _reasons_of(
    program: Program, snapshot: Snapshot, finder: Finder, cover: Cover, held: Mapping[int, Origin], node: int
) -> Iterator[Origin]:
    owner = cover.owner.get(node)
    if owner is not None:
        note = "; ".join(owner.rule.notes) or "the device keeps this in float"
        yield Origin(owner.rule.qualified, owner.rule.span.place, note)
        return
    reasons = [
        Origin(rule.qualified, (trail.at or rule.span).place, trail.reason or "no match")
        for rule, trail in finder.near_misses(node)
    ]
    reasons = reasons or list(_tail_reasons(snapshot, finder, cover, node))
    if reasons or node in held:
        yield from reasons or (held[node],)
        return
    for statement in program.passes:
        if snapshot.ops[node] in statement.ops:
            reason = (
                "the condition of `pass` does not hold" if statement.where is not None else "it passes no values on"
            )
            yield Origin(f"{program.device}.pass", statement.span.place, reason)
            return
    operator = snapshot.ops[node]
    for rule in program.rules:
        if not rule.is_float and operator in operators_of(rule.pattern):
            reason = f"no kernel that takes {operator} along ends in front of it"
            yield Origin(rule.qualified, rule.span.place, reason)
            return
    yield Origin(program.device, "", f"no rule of `{program.device}` speaks of {operator}")


def _tail_reasons(snapshot: Snapshot, finder: Finder, cover: Cover, node: int) -> Iterator[Origin]:
    """For a node that no rule starts with: why the kernel that makes one of its inputs did not take it along."""
    for tensor in snapshot.inputs[node]:
        maker = cover.owner.get(snapshot.producer[tensor]) if tensor >= 0 else None
        if maker is not None and not maker.rule.is_float and snapshot.ops[node] in operators_of(maker.rule.pattern):
            trail = finder.replay(maker)
            if trail.reason:
                place = (trail.at or maker.rule.span).place
                first = snapshot.names[maker.match.nodes[0]]
                yield Origin(maker.rule.qualified, place, f"not part of the kernel at {first}: {trail.reason}")
