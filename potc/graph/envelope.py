"""What onnx-graphsurgeon would lose on the way in and out, kept here and put back. The only importer of it but lowering."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping

import onnx
import onnx_graphsurgeon as gs

from potc.graph.names import all_graphs, nested_graphs, rename
from potc.graph.order import reorder, sorted_positions
from potc.graph.snapshot import outer_reads

WRITABLE = ("tensor_type", "sequence_type", "sparse_tensor_type")
MODEL_FIELDS = ("producer_name", "producer_version", "domain", "model_version", "doc_string")


def through_graphsurgeon(
    proto: onnx.ModelProto, edit: Callable[[gs.Graph], Mapping[str, str] | None]
) -> onnx.ModelProto:
    """The model after ``edit`` changed its graphsurgeon graph; what the edit did not touch is as before.

    ``edit`` returns what nested graphs must read instead of a tensor; else they stay to the bit. Nodes come back in topological
    order, initializers in their old order with new ones behind.
    graphsurgeon prints to stdout: that is swallowed, stdout is for answers.
    """
    overridable = {i.name for i in proto.graph.input} & {t.name for t in proto.graph.initializer}
    with contextlib.redirect_stdout(io.StringIO()):
        graph = gs.import_onnx(proto)
        _forget_odd_types(graph)
        renamed = edit(graph) or {}
        exported = gs.export_onnx(graph, do_type_check=False)
    _restore_nested(proto.graph, exported.graph, renamed)
    reorder(exported.graph, sorted_positions(exported.graph))
    _restore(proto, exported, overridable)
    return exported


def _forget_odd_types(graph: gs.Graph) -> None:
    """graphsurgeon reads optionals and maps, and can't write them; what was declared comes back at the end."""
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Variable) and tensor.type not in WRITABLE:
            tensor.dtype = None


def _restore(before: onnx.ModelProto, after: onnx.ModelProto, overridable: set[str]) -> None:
    for name in MODEL_FIELDS:
        if before.HasField(name):
            setattr(after, name, getattr(before, name))
        else:
            after.ClearField(name)
    after.ir_version = before.ir_version
    del after.opset_import[:]
    after.opset_import.extend(before.opset_import)
    del after.metadata_props[:]
    after.metadata_props.extend(before.metadata_props)
    del after.functions[:]
    after.functions.extend(before.functions)
    after.training_info.extend(before.training_info)
    after.graph.name = before.graph.name
    _restore_text(before.graph, after.graph)
    del after.graph.metadata_props[:]
    after.graph.metadata_props.extend(before.graph.metadata_props)
    after.graph.quantization_annotation.extend(before.graph.quantization_annotation)
    old = {node.name: node for node in before.graph.node}
    for node in after.graph.node:
        source = old.get(node.name)
        if source is not None and source.op_type == node.op_type:
            _restore_text(source, node)
            del node.metadata_props[:]
            node.metadata_props.extend(source.metadata_props)
        elif not node.doc_string:
            node.ClearField("doc_string")  # graphsurgeon writes an empty one
    _restore_values(before.graph, after.graph, overridable)


def _restore_nested(before: onnx.GraphProto, after: onnx.GraphProto, renamed: Mapping[str, str]) -> None:
    old = {node.name: node for node in before.node}
    for node in after.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                attribute.CopyFrom(next(a for a in old[node.name].attribute if a.name == attribute.name))
        for nested in nested_graphs(node) if renamed else ():
            for inner in all_graphs(nested):
                rename(inner, renamed)


def _restore_text(before: onnx.NodeProto | onnx.GraphProto, after: onnx.NodeProto | onnx.GraphProto) -> None:
    if before.HasField("doc_string"):
        after.doc_string = before.doc_string
    else:
        after.ClearField("doc_string")


def _restore_values(before: onnx.GraphProto, after: onnx.GraphProto, overridable: set[str]) -> None:
    """Declarations exactly as they were: inputs that are also initializers, docs, symbolic dimensions, denotations."""
    del after.input[:]
    after.input.extend(before.input)
    stored = {t.name for t in after.initializer}
    # What nobody read before the edit is dropped by graphsurgeon; what lost its readers in the edit was meant to go.
    read = {name for node in before.node for name in (*node.input, *outer_reads(node))} | {
        o.name for o in before.output
    }
    inside = {name for node in before.node for name in outer_reads(node)}
    kept = overridable | inside
    lost = (t for t in before.initializer if t.name not in stored and (t.name in kept or t.name not in read))
    after.initializer.extend(lost)
    positions = {t.name: i for i, t in enumerate(before.initializer)}
    after.initializer.sort(key=lambda t: positions.get(t.name, len(positions)))  # in place: no weights are copied
    outputs = {o.name: o for o in before.output}
    for output in after.output:
        if output.name in outputs:
            output.CopyFrom(outputs[output.name])
    made = {name for node in after.node for name in node.output}
    declared_before = {v.name: v for v in before.value_info if v.name in made}
    added = [v for v in after.value_info if v.name not in declared_before]
    declared = {o.name for o in after.output} | {i.name for i in after.input} | {t.name for t in after.initializer}
    fresh = [v for v in added if v.name in made and v.name not in declared]
    del after.value_info[:]
    after.value_info.extend([*declared_before.values(), *fresh])
