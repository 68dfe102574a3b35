"""How many of a model's multiplications onnxruntime runs on integers: one definition for every tool's model.

Counted are the nodes of the optimized graph whose operator is a convolution or a matrix product, fused or not (its name holds
Conv, Gemm or MatMul). Such a node runs on integers if it reads codes that an earlier node computed: integer weights alone do
not count, as MatMulNBits and DequantizeLinear turn them into floats. Nested graphs are not looked into.
"""

from __future__ import annotations

from dataclasses import dataclass

from potc.evaluate.kernels import integer_codes, load

PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Coverage:
    """``integer`` of ``products`` nodes run on integers."""

    integer: int
    products: int


def coverage(model: bytes) -> Coverage:
    """Of a model as onnxruntime's CPU provider executes it. Raises ValueError if it does not load."""
    loaded = load(model)
    if loaded is None:
        raise ValueError("onnxruntime does not load the model")
    optimized = loaded.graph
    codes = integer_codes(optimized)
    products = [node for node in optimized.graph.node if any(word in node.op_type for word in PRODUCTS)]
    return Coverage(sum(not codes.isdisjoint(node.input) for node in products), len(products))
