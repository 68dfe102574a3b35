"""Layers that have no bias get one of zeros, for a correction to fill."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from potc.graph.model import Model
from potc.quantize.plan import Plan


def with_biases(model: Model, plan: Plan) -> tuple[Model, Plan]:
    """The prepared model with the biases that kernels of its main graph could take, all zeros, and the plan that has them as
    constants.

    Results stay as they were. Both are returned as they are where nothing is absent.
    """
    if not plan.absent:
        return model, plan
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    nodes = {node.name: node for node in proto.graph.node}
    for absent in plan.absent:
        constant = absent.constant
        ports = nodes[constant.node].input
        ports.extend([""] * (constant.port + 1 - len(ports)))
        ports[constant.port] = constant.tensor
        zeros = np.zeros(absent.length, np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(zeros, constant.tensor))
    return model.with_proto(proto), plan.filled()
