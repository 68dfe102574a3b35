"""Which bodies calibration must run, and what the graph around them must tell for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from onnx import NodeProto

from potc.execute.aside import array_of
from potc.graph.bodies import Body, bodies_of
from potc.graph.control import is_known, needed_inputs, run_bodies
from potc.graph.model import Model
from potc.graph.names import all_nodes
from potc.quantize.plan import Plan

RunBody = Callable[[Body, Mapping[str, Any]], Sequence[Any]]


class InnerRuns:
    """The bodies of one graph that hold kernels of the plan, at whatever depth.

    ``reads``: the computed tensors of the graph, its inputs left out, without which they can't be run.
    """

    def __init__(self, model: Model, plan: Plan) -> None:
        covered = {name for kernel in plan.kernels for name in kernel.nodes}
        graph = model.proto.graph
        nodes = {node.name: node for node in graph.node}
        self._bodies = {
            (body.node, body.attribute): body
            for body in bodies_of(model)
            if isinstance(body, Body)
            and is_known(nodes[body.node])
            and any(node.name in covered for node in all_nodes(body.model.proto.graph))
        }
        self._holders: list[NodeProto] = [nodes[name] for name in dict.fromkeys(node for node, _ in self._bodies)]
        names = [name for node in self._holders for name in needed_inputs(node)]
        names += [name for body in self._bodies.values() for name in body.captured]
        given = {i.name for i in graph.input}
        wanted = set(names)
        self._stored = {t.name: array_of(t) for t in graph.initializer if t.name in wanted}
        self.reads = tuple(dict.fromkeys(n for n in names if n not in given and n not in self._stored))

    @property
    def bodies(self) -> tuple[Body, ...]:
        return tuple(self._bodies.values())

    def drive(self, values: Mapping[str, Any], run: RunBody) -> None:
        """Calls ``run(body, feed)`` for each time that a body with kernels runs; it returns the body's outputs. ``values``: of
        the graph's inputs and of ``reads``."""
        known = {**self._stored, **values}
        for node in self._holders:

            def one(attribute: str, given: Mapping[str, Any], name: str = node.name) -> Sequence[Any]:
                body = self._bodies.get((name, attribute))
                if body is None:
                    return ()
                return run(body, {**given, **{n: known[n] for n in body.captured}})

            run_bodies(node, known, one)
