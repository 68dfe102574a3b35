"""A stable topological order of nodes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from potc.graph.snapshot import outer_reads


def sorted_positions(graph: onnx.GraphProto) -> list[int]:
    """Positions of the nodes, each behind those it reads from, and moved only where it must be. Linear.

    A node that comes too late is put right before its first reader. Raises ValueError for a cycle.
    """
    made = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    order: list[int] = []
    placed = [False] * len(graph.node)
    entered = [False] * len(graph.node)
    for root in range(len(graph.node)):
        path = [root]
        while path:
            index = path[-1]
            if placed[index]:
                path.pop()
                continue
            node = graph.node[index]
            sources = (made[name] for name in (*node.input, *outer_reads(node)) if name in made)
            missing = [] if entered[index] else [s for s in sources if not placed[s]]
            entered[index] = True
            if any(entered[s] for s in missing):
                raise ValueError("the graph has a cycle: read_model refuses such models")
            if not missing:
                placed[index] = True
                order.append(index)
                path.pop()
            path.extend(reversed(missing))
    return order


def reorder(graph: onnx.GraphProto, order: Sequence[int]) -> None:
    """Puts the nodes in this order, in place and without copies."""
    ranks = [0] * len(order)
    for rank, index in enumerate(order):
        ranks[index] = rank
    rank_of_next = iter(ranks)
    graph.node.sort(key=lambda _: next(rank_of_next))
