"""One rule: where it fired, and where it came near."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from potc.workbench.explain_model import Examined, Part, Reason
from potc.workbench.near import lost, miss_at


@dataclass(frozen=True, slots=True)
class Near:
    """A node at which the rule could have been anchored, and why it is not there."""

    node: str
    words: str
    place: str


@dataclass(frozen=True, slots=True)
class RuleAnswer:
    """``fired``: the nodes of each kernel (what each rewrite matched, for a rewrite); ``near``: the rest of its anchors."""

    rule: str
    place: str
    fired: tuple[tuple[str, ...], ...]
    near: tuple[Near, ...]


def rule_names(examined: Examined) -> tuple[str, ...]:
    """All names that can be asked for: rules, also without their device, rewrites, and ``DEVICE.pass``."""
    rules = [r.qualified for part in examined.parts for r in part.program.rules]
    passing = [f"{examined.program.device}.pass"] if any(p.program.passes for p in examined.parts) else []
    names = [*rules, *passing, *(r.name for r in examined.program.rewrites)]
    return tuple(dict.fromkeys(names))


def explain_rule(examined: Examined, name: str) -> RuleAnswer:
    """``name``: one of ``rule_names``. Looks into all graphs."""
    answer = _in_graph(examined, name)
    if any(rewrite.name == name for rewrite in examined.program.rewrites):
        return answer
    others = [_in_graph(body, name) for body in examined.bodies]
    fired = tuple(nodes for a in (answer, *others) for nodes in a.fired)
    return replace(answer, fired=fired, near=tuple(near for a in (answer, *others) for near in a.near))


def _in_graph(examined: Examined, name: str) -> RuleAnswer:
    for part in examined.parts:
        for rule in part.program.rules:
            if rule.qualified == name:
                near = tuple(dict.fromkeys(_near(examined, part, name)))
                return RuleAnswer(name, rule.span.place, _fired(examined, part, name), near)
    rewrite = next((r for r in examined.program.rewrites if r.name == name), None)
    if rewrite is not None:
        fired = tuple(c.nodes for c in examined.changes if c.rewrite == name)
        return RuleAnswer(name, rewrite.span.place, fired, ())
    kernels = [k for k in examined.plan.kernels if name in k.rule.split(" & ")]
    places = dict.fromkeys(s.span.place for p in examined.parts for s in p.program.passes)
    near = tuple(_told(examined, name))
    return RuleAnswer(name, ", ".join(places), tuple(k.nodes for k in kernels), near)


def _fired(examined: Examined, part: Part, name: str) -> tuple[tuple[str, ...], ...]:
    """Of a ``float`` rule: the nodes that it holds in float, or reads with a tensor that it keeps."""
    names = examined.snapshot.names
    rule = next(r for r in part.program.rules if r.qualified == name)
    if rule.is_float or rule.keep:
        matches = [c.match for c in (*part.cover.taken, *part.cover.kept) if c.rule is rule]
        return tuple(tuple(names[n] for n in match.nodes) for match in matches)
    return tuple(k.nodes for k in examined.plan.kernels if name in k.rule.split(" & "))


def _near(examined: Examined, part: Part, name: str) -> Iterator[Near]:
    snapshot = examined.snapshot
    rule = next(r for r in part.program.rules if r.qualified == name)
    matcher = part.matchers[name]
    fired = {n for nodes in _fired(examined, part, name) for n in nodes}
    given_up = {near.node: near for near in _told(examined, name)}
    for node in sorted(n for op in matcher.anchor_ops for n in snapshot.by_op.get(op, ())):
        node_name = snapshot.names[node]
        if node_name in fired:
            continue
        if node_name in given_up:
            yield given_up[node_name]
            continue
        miss = miss_at(rule, matcher, node, node)
        if miss is not None:
            yield Near(node_name, miss.words, miss.span.place)
            continue
        kernel = examined.kernel_of.get(node_name)
        yield from (_as_near(node_name, r) for r in lost(examined, part, node, kernel) if r.rule == name)


def _as_near(node: str, reason: Reason) -> Near:
    return Near(node, reason.words, reason.place)


def _told(examined: Examined, name: str) -> Iterator[Near]:
    """Nodes of which the plan itself says that this rule did not take them."""
    for left in examined.plan.left:
        for reason in left.reasons:
            if reason.rule == name:
                yield Near(left.node, reason.reason, reason.place)
