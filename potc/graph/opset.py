"""Raising a model's opset, only where needed."""

from __future__ import annotations

import onnx
from onnx import version_converter

from potc.diagnostics.diagnostic import Rejected, reject
from potc.execute.aside import set_aside, without_numbers
from potc.graph.model import Model
from potc.graph.names import settle_names


def raise_opset_if_possible(model: Model, minimum: int) -> Model | None:
    """The same, None where some operator resists: for what is better with a newer opset, and right without."""
    try:
        return raise_opset(model, minimum)
    except Rejected as rejected:
        if all(d.code == "opset-not-raised" for d in rejected.diagnostics):
            return None
        raise


def raise_opset(model: Model, minimum: int) -> Model:
    """The same model at an opset of at least ``minimum``. Raises Rejected(opset-not-raised) with the operator that resists."""
    if model.opset >= minimum:
        return model
    try:
        raised = version_converter.convert_version(without_numbers(model.proto), minimum)
        _restore(model.proto, raised)
        _take_back(model.proto, raised)
        onnx.checker.check_model(without_numbers(raised))
    except Exception as error:  # the converter raises bare RuntimeError and the checker types of its own
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        message = f"{model.path} has opset {model.opset} and can't be raised to {minimum}: {reason}"
        raise reject("opset-not-raised", message, help=f"export the model with opset {minimum} or later") from error
    return model.with_proto(raised)


def _restore(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """What the converter drops or believes to know better: the envelope of the model, the declared types and shapes of its
    inputs and outputs, and names of nodes that it made."""
    for mine, theirs in ((after.graph.input, before.graph.input), (after.graph.output, before.graph.output)):
        declared = {v.name: v for v in theirs}
        for value in mine:
            if value.name in declared:
                value.CopyFrom(declared[value.name])
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    after.domain, after.model_version, after.doc_string = before.domain, before.model_version, before.doc_string
    after.graph.doc_string = before.graph.doc_string
    if not after.metadata_props:
        after.metadata_props.extend(before.metadata_props)
    if not after.functions:
        after.functions.extend(before.functions)
    if not after.graph.metadata_props:
        after.graph.metadata_props.extend(before.graph.metadata_props)
    if not after.graph.quantization_annotation:
        after.graph.quantization_annotation.extend(before.graph.quantization_annotation)
    known = {(o.domain or "ai.onnx") for o in after.opset_import}
    after.opset_import.extend(o for o in before.opset_import if (o.domain or "ai.onnx") not in known)
    lowest = {13: 7, 21: 10}  # the IR version that came with an opset
    after.ir_version = max(
        after.ir_version,
        before.ir_version,
        *(ir for opset, ir in lowest.items() if after.opset_import[0].version >= opset),
    )
    settle_names(after.graph)


def _take_back(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Makes inputs that stood for initializers initializers again, in their old places."""
    apart = set_aside(before)
    if not apart:
        return
    names = {t.name for t in apart}
    kept = [i for i in after.graph.input if i.name not in names]
    del after.graph.input[:]
    after.graph.input.extend(kept)
    after.graph.initializer.extend(apart)
    places = {t.name: i for i, t in enumerate(before.graph.initializer)}
    after.graph.initializer.sort(key=lambda t: places.get(t.name, len(places)))
