"""Patterns for readers: what begins a match, what is fused behind it, and listings of patterns of several operators."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count

from potc.language.program import (
    Arg,
    Capture,
    Kind,
    Literal,
    Pattern,
    PatternNode,
    Result,
    Rewrite,
    Rule,
    Signature,
    Step,
)
from potc.language.text import number, text
from potc.workbench.sentences import code, condition, listed


@dataclass(frozen=True, slots=True)
class Box:
    """One operator of a drawing. ``reads``: indices of boxes; ``inputs``: names of tensors and numbers from outside."""

    label: str
    reads: tuple[int, ...]
    inputs: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """``heads``: the operators of each node before the chain; ``fused``: each step of the chain in words.

    ``lines`` and ``boxes``: the pattern as text and as a drawing; empty for one operator with its chain. A pattern that
    begins in several ways has the ``lines`` of all of them, and the drawing of the first.
    """

    heads: tuple[tuple[str, ...], ...]
    fused: tuple[str, ...]
    lines: tuple[str, ...]
    boxes: tuple[Box, ...]


def shape(rule: Rule | Rewrite) -> Shape:
    """A rule's pattern."""
    ways = [(way, _Names.of(rule.pattern, way)) for way in rule.pattern.ways]
    several = any(len(way.nodes) > 1 for way, _ in ways)
    longest, names = max(ways, key=lambda w: len(w[0].nodes))
    if several:
        heads = tuple(tuple(sorted(n.ops)) for n in longest.nodes)
    else:
        heads = (tuple(sorted({op for way, _ in ways for n in way.nodes for op in n.ops})),)
    return Shape(
        heads=heads,
        fused=tuple(dict.fromkeys(n.step(s) for way, n in ways for s in way.tail)),
        lines=tuple(line for k, (way, n) in enumerate(ways) for line in _lines(way, n, k > 0)) if several else (),
        boxes=tuple(_boxes(longest, names)) if several else (),
    )


def readable(pattern: Pattern, words: str) -> str:
    """Words about a pattern, with the short names that its shape has."""
    shown = _Names.of(pattern, pattern).shown
    return re.sub(r"\w+", lambda found: shown.get(found.group(), found.group()), words)


def nodes_of(pattern: Pattern) -> Iterator[PatternNode]:
    """All nodes of all ways to match, those of the chain included."""
    for way in pattern.ways:
        yield from way.nodes
        for step in way.tail:
            yield from _step_nodes(step)


def _step_nodes(step: Step) -> Iterator[PatternNode]:
    for sequence in step.alternatives:
        for item in sequence:
            match item:
                case PatternNode():
                    yield item
                case Step():
                    yield from _step_nodes(item)
                case Pattern():
                    yield from nodes_of(item)


def tensors(pattern: Pattern, signatures: Mapping[str, Signature]) -> dict[str, str]:
    """Captured names and what they are to the operators that read them: input, weight or bias."""
    found: dict[str, str] = {}
    for node in nodes_of(pattern):
        for port, arg in enumerate(node.args):
            if not isinstance(arg, Capture):
                continue
            roles = {
                signatures[op].inputs[port].role if op in signatures and port < len(signatures[op].inputs) else ""
                for op in node.ops
            }
            if "bias" in roles:
                role = "bias"
            elif arg.kind is Kind.CONST or ("weight" in roles and arg.kind is not Kind.VALUE):
                role = "weight"
            else:
                role = "input"
            found.setdefault(arg.name, role)
    return found


# ---------------------------------------------------------------------------------------------- words


@dataclass(frozen=True, slots=True)
class _Names:
    """Short names for tensors: those of patterns that were used by name lose what makes them unique."""

    shown: Mapping[str, str]
    nodes: tuple[str, ...]

    @staticmethod
    def of(whole: Pattern, pattern: Pattern) -> _Names:
        """Names for one way to match ``whole``."""
        captured = [a.name for n in nodes_of(whole) for a in n.args if isinstance(a, Capture)]
        shown: dict[str, str] = {}
        made = (name for n in nodes_of(whole) for name in (n.name, *n.others) if name)
        for name in (*captured, *made):
            if name not in shown:
                shown[name] = _free(_short(name), shown)
        if pattern.result is not None:
            shown.setdefault(pattern.result, pattern.result)
        nodes: list[str] = []
        for k, node in enumerate(pattern.nodes):
            last = k == len(pattern.nodes) - 1 and not pattern.tail
            name = node.name or (pattern.result if last else None)
            nodes.append(shown[name] if name else _free("t", shown | {n: n for n in nodes}))
        return _Names(shown, tuple(nodes))

    def step(self, step: Step) -> str:
        """One step of a chain in words."""
        body = " or ".join(dict.fromkeys(", then ".join(map(self._part, s)) for s in step.alternatives))
        if step.negative:
            return f"not before {body}"
        times = {(1, 1): "", (0, 1): "optional"}.get((step.low, step.high), f"{step.low} to {step.high} times")
        remark = ", ".join(filter(None, (times, "" if step.exclusive else "others may read what is between")))
        return f"{body} ({remark})" if remark else body

    def _part(self, part: PatternNode | Step | Pattern) -> str:
        match part:
            case PatternNode():
                return self.node(part)
            case Step():
                return self.step(part)
            case Pattern(nodes, tail):
                return ", then ".join((*map(self.node, nodes), *map(self.step, tail)))

    def node(self, node: PatternNode) -> str:
        """An operator of a chain, with what it reads beside the step before."""
        read: list[str] = []
        for arg in node.args:
            if isinstance(arg, Literal):
                read.append(_literal(arg))
            elif isinstance(arg, Capture):
                name = self.shown[arg.name]
                parts = ("a constant" if arg.kind is Kind.CONST else "", "" if name == "_" else code(name))
                read.append(" ".join(filter(None, parts)))
        words = " or ".join(sorted(node.ops))
        read = [r for r in read if r]
        words += f" with {listed(read)}" if read else ""
        conditions = [condition(c) for c in node.conditions]
        conditions += [f"{condition(c)} ({op})" for op, c in node.refined]
        return words + (f" where {listed(conditions)}" if conditions else "")

    def arg(self, arg: Arg, before: str) -> str:
        """An argument as rule files write it."""
        match arg:
            case Literal():
                return _literal(arg)
            case Result(node, _, output):
                if node < 0:
                    return before
                return self.nodes[node] if output == 0 else f"{self.nodes[node]}.{output}"
            case Capture():
                name = self.shown[arg.name]
                if name == "_":
                    return "const" if arg.kind is Kind.CONST else "_"
                kind = "" if arg.kind is Kind.ANY else f": {arg.kind.value}"
                return f"{name}{kind}{'?' if arg.optional else '...' if arg.variadic else ''}"


def _short(name: str) -> str:
    """A name without what makes it unique; "_" for what has no name."""
    return name.rpartition("_")[2] or "_" if name.startswith("_") else name


def _free(name: str, taken: Mapping[str, str]) -> str:
    """The name, with a number behind it if it is another's already."""
    used = set(taken.values())
    further = (f"{name}{k}" for k in count(2))
    return name if name not in used or name == "_" else next(n for n in further if n not in used)


def _literal(arg: Literal) -> str:
    written = number(int(arg.value) if arg.value.is_integer() else arg.value)
    return written + (f" within {number(arg.tolerance)}" if arg.tolerance else "")


# ---------------------------------------------------------------------------------------------- listings and drawings


def _operator(node: PatternNode) -> str:
    ops = sorted(node.ops)
    conditions = f"[{', '.join(map(text, node.conditions))}]" if node.conditions else ""
    return (ops[0] if len(ops) == 1 else f"any({', '.join(ops)})") + conditions


def _lines(pattern: Pattern, names: _Names, another: bool) -> Iterator[str]:
    """The pattern one operator a line, in the order of the data."""
    if another:
        yield "or:"
    width = max(map(len, names.nodes), default=0)
    for node, name in zip(pattern.nodes, names.nodes, strict=True):
        args = ", ".join(names.arg(a, "_") for a in node.args)
        further = "".join(f", {names.shown[n]}" for n in node.others)
        yield f"{name + further:<{width}} = {_operator(node)}({args})"
    for step in pattern.tail:
        yield f"{' ' * width} {'->' if step.exclusive else '~>'} {names.step(step).replace('`', '')}"


def _boxes(pattern: Pattern, names: _Names) -> Iterator[Box]:
    for node in pattern.nodes:
        reads = tuple(a.node for a in node.args if isinstance(a, Result) and a.node >= 0)
        outside = tuple(re.split(":| within", names.arg(a, "_"))[0] for a in node.args if not isinstance(a, Result))
        yield Box(" or ".join(sorted(node.ops)), reads, tuple(o for o in outside if o not in ("_", "const")), False)
    for k, step in enumerate(pattern.tail, len(pattern.nodes)):
        words = names.step(step).replace("`", "").removesuffix(" (optional)")
        yield Box(words, (k - 1,), (), step.low == 0)
