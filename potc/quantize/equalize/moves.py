"""Channels through nodes that move, select or average elements, and through products with a matrix that is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from potc.graph.snapshot import Snapshot
from potc.quantize.equalize.channels import Found, narrowed
from potc.quantize.equalize.flow import FOREIGN, NOTHING, Axes, Flows


@dataclass(frozen=True, slots=True)
class Moves:
    """What a walk needs to go through such a node. All methods change ``found`` only."""

    snapshot: Snapshot
    found: Found
    flows: Flows

    def through(self, node: int, ports: Sequence[int], depth: int | None) -> bool:
        """Input ``ports`` and all outputs of a node get each other's channels. ``depth``: see ``Flows.of``. False where it can't
        be told where elements go: then nothing was changed."""
        outputs = self.snapshot.outputs[node]
        flows: dict[tuple[int, int], Axes] = {}
        for port in ports:
            for k, output in enumerate(outputs):
                flow = self.flows.of(node, port, k, depth) if output >= 0 else None
                if output >= 0 and not flow:
                    return False
                if flow:
                    flows[port, k] = flow
        if any(shape_of(self.snapshot, t) is None for t in outputs if t >= 0):
            return False
        for port in ports:
            self._enter(node, port, {k: f for (p, k), f in flows.items() if p == port})
        for k, output in enumerate(outputs):
            if output >= 0:
                self._leave(node, output, {p: f for (p, j), f in flows.items() if j == k})
        return True

    def _enter(self, node: int, port: int, flows: Mapping[int, Axes]) -> None:
        """The channels of an input, from those of outputs; elements that no output holds get channels of their own."""
        snapshot, maps = self.snapshot, self.found.maps
        tensor, outputs = snapshot.inputs[node][port], snapshot.outputs[node]
        shape = shape_of(snapshot, tensor)
        known = {k: maps[outputs[k]] for k in flows if outputs[k] in maps}
        if tensor in maps or not known or shape is None:
            return
        dims = tuple(1 if any(flow[a] is None for flow in flows.values()) else d for a, d in enumerate(shape))
        laid = np.full(dims, -1, np.int64)
        for k, index in known.items():
            whole = np.broadcast_to(self.found.roots(index), shape_of(snapshot, outputs[k]) or index.shape)
            own = _own(flows[k], whole.shape)
            at = _places(flows[k], own, dims)
            laid[at] = whole[own]
            self.found.join(laid[at], whole[own])  # elements that arrive at several places
        laid = narrowed(laid)
        missing = laid < 0
        laid[missing] = self.found.fresh((int(missing.sum()),))
        self.found.assign(tensor, laid)

    def _leave(self, node: int, output: int, flows: Mapping[int, Axes]) -> None:
        """The channels of an output, from those of its inputs. Inputs that were not seen before get some along the same axes."""
        maps, inputs = self.found.maps, self.snapshot.inputs[node]
        mapped = {p: maps[inputs[p]] for p in flows if inputs[p] in maps}
        wide = next(iter(mapped.values()))
        for port in flows:
            if port not in mapped:
                shape = shape_of(self.snapshot, inputs[port]) or ()
                same = wide.ndim == len(shape)
                dims = tuple(d if same and wide.shape[a] > 1 else 1 for a, d in enumerate(shape))
                mapped[port] = self.found.fresh(dims)
                self.found.assign(inputs[port], mapped[port])
        whole = np.full(shape_of(self.snapshot, output) or (), -1, np.int64)
        for port, index in mapped.items():
            # Elements that are summed or compared with each other have one scale.
            mixed = [a for a, flow in enumerate(flows[port]) if flow is None and index.shape[a] > 1]
            index = self.found.joined(index, mixed)
            own = _own(flows[port], whole.shape)
            whole[own] = index[_places(flows[port], own, index.shape)]
        if (whole < 0).any():  # zeros that were filled in have any scale: that of their row, where it has one
            whole = _filled(whole)
        missing = whole < 0
        whole[missing] = self.found.fresh((int(missing.sum()),))
        self.found.assign(output, narrowed(self.found.roots(whole)))


def shape_of(snapshot: Snapshot, tensor: int) -> tuple[int, ...] | None:
    """The shape of a tensor if all of it are numbers; None also for a port that is left out (-1)."""
    shape = snapshot.shapes[tensor] if tensor >= 0 else None
    return None if shape is None or None in shape else tuple(int(d or 0) for d in shape)


def _own(flows: Axes, shape: Sequence[int]) -> np.ndarray:
    """Which elements of a result come from this input."""
    own = np.ones(shape, bool)
    for flow in flows:
        if flow is not None:
            own &= (flow != FOREIGN) & (flow != NOTHING)
    return own


def _places(flows: Axes, own: np.ndarray, dims: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Where elements of a result come from, as an index of an array of ``dims`` (1 where nothing changes along an axis)."""
    zeros = np.zeros(int(own.sum()), np.int64)
    return tuple(zeros if flow is None or dims[a] == 1 else flow[own] for a, flow in enumerate(flows))


def _filled(whole: np.ndarray) -> np.ndarray:
    """With numbers in place of those below 0, axis by axis: where all others along an axis are equal, the same."""
    for axis in range(whole.ndim):
        top, low = (
            whole.max(axis=axis, keepdims=True),
            np.where(whole < 0, whole.max(), whole).min(axis=axis, keepdims=True),
        )
        whole = np.where((whole < 0) & (top == low), top, whole)
    return whole
