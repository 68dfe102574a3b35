"""Types of what operators outside of ONNX return: onnxruntime is asked, since it runs them and onnx knows nothing of them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto, ValueInfoProto, helper

from potc.execute.session import SessionError, open_session
from potc.graph.model import Model

# onnxruntime's words for element types are those of ONNX in small letters.
ELEMENTS: Mapping[str, int] = {f"tensor({word.lower()})": kind for word, kind in TensorProto.DataType.items()}


def ask_types(model: Model) -> Model:
    """Adds the types and shapes that onnxruntime infers for tensors of which the model says nothing, if it holds operators of
    other domains. A model that onnxruntime does not take is returned as it is: whoever runs it will be told why."""
    graph = model.proto.graph
    if all(node.domain in ("", "ai.onnx") for node in graph.node):
        return model
    known = {v.name for v in (*graph.value_info, *graph.output, *graph.input) if v.type.WhichOneof("value")}
    unknown = [name for node in graph.node for name in node.output if name and name not in known]
    if not unknown:
        return model
    asking = onnx.ModelProto()
    asking.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in unknown)
    try:
        session = open_session(model.proto.SerializeToString() + asking.SerializeToString(), optimize=False)
    except SessionError:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    told = {value.name: value for value in session.get_outputs()}
    names = [name for name in unknown if told[name].type in ELEMENTS]
    proto.graph.value_info.extend(_declared(name, told[name].type, told[name].shape) for name in names)
    return model.with_proto(proto)


def _declared(name: str, word: str, shape: list[int | str | None]) -> ValueInfoProto:
    """onnxruntime tells an unknown rank as no axes at all: then nothing is said of the shape."""
    return helper.make_tensor_value_info(name, ELEMENTS[word], shape or None)
