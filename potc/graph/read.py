"""File -> Model. Refuses what must be refused, with the thing named; gives every node a name, sorts where that is
needed; changes nothing else."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.aside import Scratch, Source, array_of, without_numbers
from potc.graph.external import open_beneath
from potc.graph.model import Aside, Model, is_large
from potc.graph.names import settle_names
from potc.graph.order import reorder, sorted_positions
from potc.graph.snapshot import DTYPES, FLOATS, outer_reads
from potc.graph.write import LIMIT
from potc.limits import limits, with_raising

SHARED = (
    2  # how often each byte of a data file may be used, on average, above 2 GB: a small file may stand for any number
)


def read_model(path: str, whole: int = LIMIT) -> Model:
    """Reads and checks a model. Only Rejected escapes, whatever the bytes are.

    External data is read from below the model's own folder only, never through links out of it. ``whole``: of a model with more
    bytes, the large initializers stay in their files (``Model.aside``), and are read when they are needed; those that are in the
    model itself go to a temporary file.
    """
    return accept_model(path, _parse(path, _bytes(path)), whole)


def accept_model(path: str, proto: onnx.ModelProto, whole: int = LIMIT) -> Model:
    """Checks a model in memory as ``read_model`` does, and takes it over: ``proto`` may be changed. ``path`` is what
    messages call it."""
    if not proto.HasField("graph") or not proto.graph.node:
        raise reject("empty-model", f"{path} holds no graph with nodes", help="export the model again")
    _refuse_unreadable_names(path, proto.graph)
    if not proto.graph.output:
        raise reject("empty-model", f"{path} returns nothing: its graph has no output", help="export the model again")
    _refuse_cycles(path, proto.graph)
    _refuse_dangling(path, proto.graph)
    order = sorted_positions(proto.graph)
    if order != list(range(len(order))):
        reorder(proto.graph, order)
    files, aside = _load_external(path, proto, whole)
    _check(path, proto)
    _refuse_nan(path, proto.graph)
    proto = _without_functions(path, proto)
    _settle_constants(proto)
    settle_names(proto.graph)
    _open_negative_dimensions(proto.graph)
    if aside is None and proto.ByteSize() > whole:
        return Model(path, proto, (path, *files), aside=Aside((), Scratch())).with_proto(proto)
    return Model(path, proto, (path, *files), aside=aside)


def _bytes(path: str) -> bytes:
    most = limits().model_bytes
    try:
        with Path(path).open("rb") as stream:  # which may be a pipe, or a device without end
            data = stream.read(most + 1)
    except FileNotFoundError as error:
        raise reject("missing-file", f"there is no model {path}", exit_code=2) from error
    except OSError as error:
        raise reject("missing-file", f"can't read {path}: {error.strerror or error}", exit_code=2) from error
    except ValueError as error:  # a path with a null character
        raise reject("missing-file", f"{path!r} is not a path: {error}", exit_code=2) from error
    if len(data) > most:
        help_ = with_raising("keep its weights in external data", "model-bytes")
        raise reject("too-large", f"{path} has more than {most:,} bytes", help=help_)
    if not data:
        raise reject("empty-model", f"{path} is an empty file", help="export or copy the model again")
    return data


def _parse(path: str, data: bytes) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError as error:
        help_ = "copy or export it again; potc reads binary ONNX files"
        raise reject("truncated-model", f"{path} is cut off, damaged, or no ONNX file", help=help_) from error


def _refuse_unreadable_names(path: str, graph: onnx.GraphProto) -> None:
    """protobuf hands out bytes, against its own types, for a text that is not UTF-8: no name of a sound model is one."""
    values: Iterable[Any] = (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)
    names: list[Any] = [v.name for v in values]
    for node in graph.node:
        names += (node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            names.append(attribute.name)
            for nested in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _refuse_unreadable_names(path, nested)
    for name in names:
        if isinstance(name, bytes):
            message = f"{path} is damaged: the name {name[:40]!r} is not UTF-8 text"
            raise reject("invalid-model", message, help="copy or export it again")


def _refuse_cycles(path: str, graph: onnx.GraphProto) -> None:
    """The checker calls a cycle "not topologically sorted"; here it is named, and so are two makers of one tensor."""
    made: dict[str, int] = {}
    for i, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in made:
                makers = " and ".join(_shown(graph.node[k].name or graph.node[k].op_type) for k in (made[name], i))
                raise reject(
                    "invalid-model",
                    f"`{_shown(name)}` in {path} is made by two nodes: {makers}",
                    node=node.name or None,
                )
            made[name] = i
    reads = [(*node.input, *outer_reads(node)) for node in graph.node]
    edges = [(made[name], i) for i, names in enumerate(reads) for name in names if name in made]
    if all(maker < reader for maker, reader in edges):
        return  # as nearly every model is: without the time that importing networkx takes
    import networkx as nx

    links: nx.DiGraph[int] = nx.DiGraph(edges)
    if nx.is_directed_acyclic_graph(links):
        return
    cycle = [graph.node[a] for a, _ in nx.find_cycle(links)]
    names = " -> ".join(_shown(node.name or node.op_type) for node in (*cycle[:6], cycle[0]))
    raise reject(
        "cyclic-graph",
        f"{path} has a cycle: {names}",
        node=cycle[0].name or None,
        help="a graph must run from inputs to outputs",
    )


def _refuse_dangling(path: str, graph: onnx.GraphProto) -> None:
    """The checker takes a tensor that nothing makes for a wrong order of nodes."""
    known = (
        {i.name for i in graph.input}
        | {t.name for t in graph.initializer}
        | {t.values.name for t in graph.sparse_initializer}
    )
    known.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        for name in (*node.input, *outer_reads(node)):
            if name and name not in known:
                reader = _shown(node.name or node.op_type)
                raise reject(
                    "invalid-model",
                    f"`{reader}` in {path} reads `{_shown(name)}`, which nothing makes",
                    node=node.name or None,
                )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the numbers of an external tensor are: ``location`` below the model's folder, as the model spells it, of ``size``
    bytes."""

    tensor: TensorProto
    location: str
    size: int
    offset: int
    length: int


def _load_external(path: str, proto: onnx.ModelProto, whole: int) -> tuple[tuple[str, ...], Aside | None]:
    """Puts external data into the model; returns the files it came from. Of more than ``whole`` bytes, large initializers are
    set aside instead, and keep their files open."""
    folder = Path(path).parent
    places = [_place(path, folder, t) for t in _tensors(proto) if t.data_location == TensorProto.EXTERNAL]
    total = proto.ByteSize() + sum(p.length for p in places)
    apart = _movable(proto) if total > whole else set[int]()
    if total > LIMIT and total > SHARED * sum({p.location: p.size for p in places}.values()):
        message = f"{path} makes weights of {total:,} bytes of files that have far fewer: tensors share them"
        raise reject("too-large", message, help="store shared weights once")
    total -= sum(p.length for p in places if id(p.tensor) in apart)
    if total > (most := limits().model_bytes):  # before it is read
        message = (
            f"{path} has {total:,} bytes beside the large initializers of its main graph; at most {most:,} are read"
        )
        raise reject("too-large", message, help=with_raising("compile it in parts", "model-bytes", total))
    sources: dict[str, Source] = {}
    for place in places:
        tensor, location = place.tensor, place.location
        try:
            if location not in sources:
                sources[location] = Source(open_beneath(folder, location))
            source = sources[location]
            if place.offset + place.length > source.size:
                raise OSError(0, "it has become shorter")
            if id(tensor) in apart:
                _refuse_wrong_length(path, place)
                source.refer(tensor, place.offset, place.length)
                continue
            tensor.raw_data = bytes(source.read(place.offset, place.length))
        except OSError as error:  # exchanged since it was looked at
            message = f"external data {_shown(location)!r} of `{_shown(tensor.name)}` in {path} can't be opened: {error.strerror}"
            raise reject("external-data-outside", message, node=tensor.name) from error
        del tensor.external_data[:]
        tensor.ClearField("data_location")
    files = tuple(os.path.join(os.path.dirname(path), location) for location in sources)
    return files, Aside(tuple(sources.values()), Scratch()) if apart else None


def _movable(proto: onnx.ModelProto) -> set[int]:
    """Identities of the initializers that may be set aside: large, of the main graph, and of no use as defaults of inputs."""
    fed = {i.name for i in proto.graph.input} if proto.ir_version >= 4 else set[str]()
    return {
        id(t)
        for t in proto.graph.initializer
        if t.data_location == TensorProto.EXTERNAL and is_large(t) and t.name not in fed and t.data_type in DTYPES
    }


def _place(path: str, folder: Path, tensor: TensorProto) -> _Place:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    size = _contained(path, folder, location, tensor.name).stat().st_size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except ValueError as error:
        message = f"`{_shown(tensor.name)}` has an external offset or length that is no number"
        raise reject("invalid-model", message, node=tensor.name) from error
    if offset < 0 or length < 0 or offset + length > size:
        message = (
            f"`{_shown(tensor.name)}` wants bytes {offset} to {offset + length} of {_shown(location)}, which has {size}"
        )
        raise reject("invalid-model", message, node=tensor.name)
    return _Place(tensor, location, size, offset, length)


def _refuse_wrong_length(path: str, place: _Place) -> None:
    """What the checker would say of a tensor whose numbers it sees."""
    tensor = place.tensor
    wanted = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if place.length != wanted:
        message = (
            f"`{_shown(tensor.name)}` in {path} has {place.length} bytes of external data; its shape asks for {wanted}"
        )
        raise reject("invalid-model", message, node=tensor.name)


def _contained(path: str, folder: Path, location: str, tensor: str) -> Path:
    """The file of an external tensor, if it is an ordinary file of its own below the model's folder."""
    file = folder / location
    try:
        problem = _problem(folder, file, location)
    except (OSError, RuntimeError, ValueError) as error:  # names that are too long, links in a circle, odd characters
        reason = error.strerror if isinstance(error, OSError) else None
        problem = f"can't be opened: {reason or 'not a usable path'}"
    if problem:
        message = f"external data {_shown(location)!r} of `{_shown(tensor)}` in {path} {problem}"
        raise reject("external-data-outside", message, node=tensor, help="put the data file beside the model")
    return file


def _problem(folder: Path, file: Path, location: str) -> str:
    """Why the file is not to be read; empty if nothing speaks against it."""
    if not location or os.path.isabs(location) or ".." in Path(location).parts or "\0" in location:
        return "is not a path below the model's folder"
    if not file.resolve().is_relative_to(folder.resolve()):
        return "leads out of the model's folder through a link"
    if not file.is_file():
        return "does not exist"
    if any(p.is_symlink() for p in (file, *file.parents) if p != folder and p.is_relative_to(folder)):
        return "is a link"
    if file.stat().st_nlink > 1 or not stat.S_ISREG(file.stat().st_mode):
        return "is a hard link or no ordinary file"
    return ""


def _tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """All stored tensors: of the main graph, nested graphs, functions and training steps, sparse ones too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)
    for training in proto.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *attribute.sparse_tensors,
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
            ):
                yield from (sparse.values, sparse.indices)
            for nested in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _graph_tensors(nested)


def _check(path: str, proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(without_numbers(proto), full_check=True)
    except Rejected:
        raise
    except Exception as error:  # the checker raises several unrelated types, protobuf's among them
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise reject("invalid-model", f"{path} is not a valid ONNX model: {_shown(reason)}") from error


def _without_functions(path: str, proto: onnx.ModelProto) -> onnx.ModelProto:
    """Local functions are a way to write a graph: what they are called for is put in their place."""
    if not proto.functions:
        return proto
    try:
        return onnx.inliner.inline_local_functions(proto, convert_version=True)
    except Exception as error:  # onnx raises bare RuntimeError, and errors of its version converter
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise reject("invalid-model", f"the local functions of {path} can't be inlined: {_shown(reason)}") from error


def _settle_constants(proto: onnx.ModelProto) -> None:
    """Before IR version 4 every initializer had to be declared as an input too, and no runtime let it be fed: a constant."""
    if proto.ir_version >= 4:
        return
    proto.ir_version = 4
    stored = {t.name for t in proto.graph.initializer}
    kept = [value for value in proto.graph.input if value.name not in stored]
    del proto.graph.input[:]
    proto.graph.input.extend(kept)


def _refuse_nan(path: str, graph: onnx.GraphProto) -> None:
    """Infinity may stay: attention masks hold it. A weight that is to be quantized must be finite, which is checked there."""
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        if DTYPES.get(tensor.data_type) not in FLOATS:
            continue
        try:
            values = array_of(tensor)
        except (ValueError, TypeError) as error:  # the checker does not count the elements of every type
            message = f"`{_shown(tensor.name)}` in {path} has other numbers than its shape asks for: {error}"
            raise reject("invalid-model", message, node=tensor.name) from error
        # One sum instead of one test per element: it is NaN if any is, and where infinities cancel, so then each is looked at.
        with np.errstate(all="ignore"):
            if np.isnan(values.sum(dtype=np.float64)) and bool(np.isnan(values.astype(np.float64)).any()):
                message = f"the weights `{_shown(tensor.name)}` in {path} hold NaN"
                raise reject("non-finite-weights", message, node=tensor.name, help="train or export the model again")


def _open_negative_dimensions(graph: onnx.GraphProto) -> None:
    """Some exporters write -1 for "any size"; ONNX says it with a dimension that has no value."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value < 0:
                dimension.ClearField("dim_value")


def _shown(text: str) -> str:
    """A name from a model, safe for a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)[:200]
