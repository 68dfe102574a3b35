"""Where rounding noise enters a model, and two models made to watch it: one that makes it, one that is disturbed by it.

A source is a kernel of the plan (its weights, its bias, and how its results are stored), or a stored tensor that no kernel
makes. Each quantizer and constant of the plan belongs to exactly one source, so the noise of all sources is all noise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto, helper

from potc.graph.snapshot import outer_reads
from potc.quantize.plan import Insertion, Kernel, Plan


@dataclass(frozen=True, slots=True)
class Point:
    """What some readers see of a tensor. ``readers``: (node, port); None: everybody that no other point of the tensor names.

    ``quantizer``: how it is stored for them; None: it is not, or rounding it again changes nothing (the value was passed
    through from where it is stored already).
    """

    tensor: str
    quantizer: int | None
    readers: tuple[tuple[str, int], ...] | None


@dataclass(frozen=True, slots=True)
class Source:
    """One kernel, or with ``kernel`` None a stored tensor. ``constants``: indices into ``Plan.constants``."""

    kernel: Kernel | None
    constants: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def silent(self) -> bool:
        """True if it adds no noise of its own: it has no stored constants, and only moves stored values."""
        return not self.constants and all(p.quantizer is None for p in self.points)


def sources_of(plan: Plan, proto: onnx.ModelProto) -> tuple[Source, ...]:
    """In the order of the graph: ``proto`` is the prepared float model that the plan speaks of. What happens in nested graphs
    has no source: only tensors of the main graph can be watched."""
    graph = _Readers(proto)
    position = {node.name: i for i, node in enumerate(proto.graph.node)}
    inserted: dict[str, list[Insertion]] = {}
    kernels = [k for k in plan.kernels if k.nodes[-1] in position]
    for insertion in plan.insertions:
        readers = insertion.consumers
        if graph.knows(insertion.tensor) if readers is None else readers[0][0] in position:
            inserted.setdefault(insertion.tensor, []).append(insertion)
    made = {name: kernel for kernel in kernels for node in kernel.nodes for name in graph.outputs(node)}
    found: list[tuple[int, Source]] = []
    for kernel in kernels:
        constants = tuple(i for i, c in enumerate(plan.constants) if c.node in kernel.nodes)
        results = [t for n in kernel.nodes for t in graph.outputs(n) if t in inserted or graph.leaves(t, kernel)]
        points = tuple(p for t in results for p in _points(plan, graph, t, inserted.get(t, []), rest=True))
        found.append((position[kernel.nodes[-1]], Source(kernel, constants, points)))
    for tensor, pairs in inserted.items():
        if tensor not in made:
            points = tuple(_points(plan, graph, tensor, pairs, rest=False))
            found.append((position.get(graph.maker.get(tensor, ""), -1), Source(None, (), points)))
    return tuple(source for _, source in sorted(found, key=lambda f: f[0]))


def _points(plan: Plan, graph: _Readers, tensor: str, pairs: list[Insertion], *, rest: bool) -> Iterator[Point]:
    """One for each pair, and with ``rest`` one for the readers that are left."""
    for pair in pairs:
        own = tensor in plan.quantizers[pair.quantizer].observed
        yield Point(tensor, pair.quantizer if own else None, pair.consumers)
    named = {reader for pair in pairs for reader in pair.consumers or ()}
    if rest and all(pair.consumers is not None for pair in pairs) and graph.is_read_beside(tensor, named):
        yield Point(tensor, None, None)


class _Readers:
    """Who makes and who reads each tensor of the main graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        nodes = proto.graph.node
        self._nodes = {node.name: node for node in nodes}
        self.maker = {name: node.name for node in nodes for name in node.output if name}
        self._given = {v.name for v in (*proto.graph.input, *proto.graph.initializer)}
        self._read: dict[str, set[tuple[str, int]]] = {}
        for node in nodes:
            for port, name in enumerate(node.input):
                self._read.setdefault(name, set()).add((node.name, port))
            for name in outer_reads(node):
                self._read.setdefault(name, set()).add((node.name, -1))
        for output in proto.graph.output:
            self._read.setdefault(output.name, set()).add(("", -1))

    def knows(self, tensor: str) -> bool:
        return tensor in self.maker or tensor in self._given

    def outputs(self, node: str) -> tuple[str, ...]:
        return tuple(name for name in self._nodes[node].output if name)

    def leaves(self, tensor: str, kernel: Kernel) -> bool:
        return any(reader not in kernel.nodes for reader, _ in self._read.get(tensor, ()))

    def is_read_beside(self, tensor: str, named: set[tuple[str, int]]) -> bool:
        return bool(self._read.get(tensor, set()) - named)


# ---------------------------------------------------------------------------------------------- models to watch it


@dataclass(frozen=True, slots=True)
class Watched:
    """A compiled model that also computes what each source would make of the same inputs without rounding.

    ``real``: the tensor that a point's readers read; ``exact``: the same with the source's own constants and results in float.
    """

    model: bytes
    real: Mapping[Point, str]
    exact: Mapping[Point, str]


def watched(compiled: bytes, prepared: onnx.ModelProto, plan: Plan, sources: tuple[Source, ...]) -> Watched:
    """Kernels with constants stand in the model twice: as they are, and with the constants of the ``prepared`` float model."""
    proto = onnx.ModelProto.FromString(compiled)
    nodes = {node.name: node for node in proto.graph.node}
    stored = {t.name: t for t in prepared.graph.initializer}
    maker = {name: (n.name, port) for n in prepared.graph.node for port, name in enumerate(n.output) if name}
    prefix = _free(proto, "exact")
    more = onnx.ModelProto()
    real: dict[Point, str] = {}
    exact: dict[Point, str] = {}
    for number, source in enumerate(sources):
        names: dict[str, str] = {}
        ports: dict[tuple[str, int], str] = {}
        for index in source.constants:
            constant = plan.constants[index]
            tensor = more.graph.initializer.add()
            tensor.CopyFrom(stored[constant.tensor])
            tensor.name = ports[constant.node, constant.port] = f"{prefix}/{number}/constant/{index}"
        copied = source.kernel.nodes if source.kernel and source.constants else ()
        for node in (node for node in proto.graph.node if node.name in copied):
            copy = more.graph.node.add()
            copy.CopyFrom(node)
            copy.name = f"{prefix}/{number}/{node.name}"
            copy.input[:] = [ports.get((node.name, p), names.get(t, t)) for p, t in enumerate(node.input)]
            names.update((t, f"{prefix}/{number}/{t}") for t in node.output if t)
            copy.output[:] = [names.get(t, "") for t in node.output]
        for point in source.points:
            node, port = maker.get(point.tensor, ("", 0))
            made = nodes[node].output[port] if node else point.tensor  # what the node makes before it is stored
            exact[point] = names.get(made, made)
            real[point] = point.tensor
            if point.readers:
                reader, port = point.readers[0]
                real[point] = nodes[reader].input[port]
    more.graph.output.extend(_exposed(proto, (*real.values(), *exact.values())))
    return Watched(compiled + more.SerializeToString(), real, exact)


def exposing(proto: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model, serialized, with these tensors of its graph as outputs, too."""
    more = onnx.ModelProto()
    more.graph.output.extend(_exposed(proto, names))
    return proto.SerializeToString() + more.SerializeToString()


def _exposed(proto: onnx.ModelProto, names: Iterable[str]) -> Iterator[onnx.ValueInfoProto]:
    """An output for each that is not an input or output of the model already."""
    known = {v.name for v in (*proto.graph.input, *proto.graph.output)}
    yield from (helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names) if name not in known)


@dataclass(frozen=True, slots=True)
class Disturbed:
    """A float model with one more input for each point, which is added to what its readers see; none if it is not fed."""

    model: bytes
    noise: Mapping[Point, str]


def disturbed(proto: onnx.ModelProto, kinds: Mapping[Point, int]) -> Disturbed:
    """``kinds``: the points, with the ONNX element types of their tensors."""
    prefix = _free(proto, "noise")
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    graph = model.graph
    nodes = {node.name: node for node in graph.node}
    inputs = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    everybody = {point.tensor for point in kinds if point.readers is None}
    source = {t: t if t in inputs or t not in everybody else f"{prefix}/before/{t}" for t in everybody}
    added: list[NodeProto] = []
    noise: dict[Point, str] = {}
    for number, point in enumerate(sorted(kinds, key=lambda p: p.readers is None)):  # named readers first
        name = noise[point] = f"{prefix}/{number}"
        graph.initializer.append(helper.make_tensor(name, kinds[point], [], [0.0]))
        graph.input.append(helper.make_tensor_value_info(name, kinds[point], None))
        beside = point.readers is not None or point.tensor in inputs
        target = f"{name}/sum" if beside else point.tensor
        before = source.get(point.tensor, point.tensor)
        added.append(helper.make_node("Add", [before, name], [target], name=f"{name}/add"))
        readers = point.readers
        if readers is None and beside:
            readers = tuple((n.name, p) for n in graph.node for p, t in enumerate(n.input) if t == point.tensor)
        for reader, port in readers or ():
            nodes[reader].input[port] = target
    for node in graph.node:
        node.output[:] = [source.get(t, t) for t in node.output]
    ordered = _sorted([*graph.node, *added], inputs | set(noise.values()))
    del graph.node[:]
    graph.node.extend(ordered)
    return Disturbed(model.SerializeToString(), noise)


def _sorted(nodes: list[NodeProto], known: set[str]) -> list[NodeProto]:
    """Copies in an order in which everything is made before it is read."""
    known = {*known, ""}
    maker = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    reads = [{*node.input, *outer_reads(node)} - known for node in nodes]
    waiting = [sum(1 for name in names if name in maker) for names in reads]
    readers: dict[str, list[int]] = {}
    for i, names in enumerate(reads):
        for name in names:
            readers.setdefault(name, []).append(i)
    ready = [i for i, count in enumerate(waiting) if count == 0]
    for i in ready:
        for name in nodes[i].output:
            for reader in readers.get(name, ()):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    ready.append(reader)
    return [NodeProto.FromString(nodes[i].SerializeToString()) for i in ready]


def _free(proto: onnx.ModelProto, word: str) -> str:
    graph = proto.graph
    names = {name for node in graph.node for name in (node.name, *node.output, *outer_reads(node))}
    names |= {i.name for i in graph.input} | {t.name for t in graph.initializer}
    while any(name.startswith(word) for name in names):
        word += "_"
    return word
