"""Is matching linear? Generates residual networks of 10,000 and 100,000 nodes and times snapshot, match and solve.

    python benchmarks/match_speed.py [--rules cpu] [--sizes 10000 100000]

Prints one JSON line: seconds per size (best of the repeats), and the ratio of the largest to the smallest.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.graph.snapshot import take_snapshot
from potc.language.resolve import load_rules
from potc.quantize.solve import solve


def residual_network(nodes: int, channels: int = 8) -> onnx.ModelProto:
    """Blocks of Conv, Relu, Conv, Add, Relu with their own names and shared weights; every tensor has a shape."""
    shape = [1, channels, 8, 8]
    weight = numpy_helper.from_array(np.full((channels, channels, 3, 3), 0.01, np.float32), "w")
    made: list[onnx.NodeProto] = []
    values: list[onnx.ValueInfoProto] = []

    def add(op: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(made)}"
        made.append(helper.make_node(op, inputs, [name], name=f"n{len(made)}", **attributes))
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    x = add("Relu", ["x"])
    while len(made) < nodes:
        a = add("Relu", [add("Conv", [x, "w"], pads=[1, 1, 1, 1])])
        b = add("Conv", [a, "w"], pads=[1, 1, 1, 1])
        x = add("Relu", [add("Add", [b, x])])
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(made, "residual", inputs, outputs, [weight], value_info=values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    program = load_rules(options.rules)
    seconds: dict[int, dict[str, float]] = {}
    for size in options.sizes:
        model = residual_network(size)
        best = {"snapshot": float("inf"), "match and solve": float("inf")}
        for _ in range(options.repeats):
            start = time.perf_counter()
            snapshot = take_snapshot(model)
            middle = time.perf_counter()
            plan = solve(program, snapshot)
            end = time.perf_counter()
            best["snapshot"] = min(best["snapshot"], middle - start)
            best["match and solve"] = min(best["match and solve"], end - middle)
        seconds[size] = {**{k: round(v, 3) for k, v in best.items()}, "kernels": len(plan.kernels)}
    totals = {s: v["snapshot"] + v["match and solve"] for s, v in seconds.items()}
    ratio = totals[max(totals)] / totals[min(totals)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"rules": options.rules, "seconds": seconds, "ratio": round(ratio, 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
