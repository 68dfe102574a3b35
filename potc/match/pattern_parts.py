"""The parts of a pattern: its operators, the names that it binds, the path through one of its steps."""

from __future__ import annotations

from collections.abc import Iterator

from potc.language.program import Capture, Pattern, PatternNode, Result, Step

Dag = tuple[PatternNode, ...]
Part = PatternNode | Step | Pattern


def path_of(dag: Dag) -> tuple[int, ...]:
    """Indices from a node that reads the tensor before to the last one, each read by the next."""
    behind = {len(dag) - 1: -1}
    for index in range(len(dag) - 1, -1, -1):
        if index in behind:
            for arg in dag[index].args:
                if isinstance(arg, Result) and arg.node >= 0:
                    behind.setdefault(arg.node, index)
    path = [next(index for index, node in enumerate(dag) if index in behind and reads_previous(node))]
    while behind[path[-1]] >= 0:
        path.append(behind[path[-1]])
    return tuple(path)


def reads_previous(node: PatternNode) -> bool:
    return any(isinstance(arg, Result) and arg.node < 0 for arg in node.args)


def _parts(pattern: Pattern) -> Iterator[PatternNode]:
    """All operators of a pattern, those of optional steps and alternatives included."""
    waiting: list[Part] = [part for way in pattern.ways for part in (*way.nodes, *way.tail)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Step):
            waiting.extend(p for sequence in part.alternatives for p in sequence)
        elif isinstance(part, Pattern):
            waiting.extend(part.nodes)
        else:
            yield part


def operators_of(pattern: Pattern) -> frozenset[str]:
    """All operators that a pattern speaks of."""
    return frozenset(op for part in _parts(pattern) for op in part.ops)


def names_of(pattern: Pattern) -> Iterator[str]:
    """All names that a pattern can bind: those of optional steps that were not taken are absent, not unknown."""
    for part in _parts(pattern):
        if part.name is not None:
            yield from (part.name, *part.others)
        yield from (a.name for a in part.args if isinstance(a, Capture) and a.name != "_")
    yield from (name for way in pattern.ways for step in way.tail for name in _step_names(step))


def _step_names(step: Step) -> Iterator[str]:
    if step.name is not None:
        yield step.name
    for part in (p for sequence in step.alternatives for p in sequence):
        if isinstance(part, Step):
            yield from _step_names(part)
