"""Is matching linear? Generates residual networks of 10,000 and 100,000 nodes and times snapshot, match and solve.

    python benchmarks/match_speed.py [--rules cpu] [--sizes 10000 100000]
    python benchmarks/match_speed.py --many 150 --sizes 100000

``--many N`` makes a device of N rules: 40 of them begin at a convolution, 30 at a sum, the others elsewhere.
Prints one JSON line: seconds per size (best of the repeats), and the ratio of the largest to the smallest.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from potc.graph.snapshot import take_snapshot
from potc.language.resolve import load_rules
from potc.quantize.solve import solve

SIZES = (8, 7, 6, 5, 9, 10, 11, 12)  # of pictures: nodes of one operator have many looks


def residual_network(nodes: int, channels: int = 8) -> onnx.ModelProto:
    """Blocks of Conv, Relu, Conv, Add, Relu with their own names and shared weights; every tensor has a shape."""
    shape = [1, channels, 8, 8]
    weight = numpy_helper.from_array(np.full((channels, channels, 3, 3), 0.01, np.float32), "w")
    made: list[onnx.NodeProto] = []
    values: list[onnx.ValueInfoProto] = []

    def add(op: str, inputs: list[str], **attributes: object) -> str:
        name = f"t{len(made)}"
        made.append(helper.make_node(op, inputs, [name], name=f"n{len(made)}", **attributes))
        size = SIZES[len(made) // 1000 % len(SIZES)]
        values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, size, size]))
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


def many_rules(count: int) -> str:
    """A device whose rules differ in operators, attributes, limits and tails, as those of a large device do."""
    tails = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softsign", "Softplus", "Selu", "Abs")
    lines = ["potc 1", "use std", "device many {", "  opset ai.onnx 13 .. 25", "  qtype a8 = u8 asym per_tensor"]
    lines += ["  qtype w8 = i8[-127..127] sym per_channel(out)"]
    elsewhere = ("Gemm", "MatMul", "PRelu", "ConvTranspose", "Mul", "Sub", "Div", "Max")
    for k in range(count):
        tail = tails[k % len(tails)]
        if k < 40:
            lines += [
                f"  rule conv{k} {{",
                f"    match Conv[group == {k + 1}](x, w: const, b: const?) -> {tail}? as y",
                f'    require w.rank == 4 and x.shape[1] % {k + 1} == 0   else "only pictures"',
                "    quant x: a8, w: w8, b: i32 sym per_channel(out) = scale(x) * scale(w), y: a8",
                "  }",
            ]
        elif k < 70:
            lines += [
                f"  rule add{k} {{ match Add(a: value, b: value) -> {tail} as y",
                f'    require a.rank == {k % 3 + 3} and a.shape[1] != {k}   else "another rank"   quant a, b, y: a8 }}',
            ]
        else:
            op = elsewhere[k % len(elsewhere)]
            lines += [f"  rule other{k} {{ match {op}(x: value, w: const) -> {tail} as y quant x: a8, w: w8, y: a8 }}"]
    for k in range(40, 70):
        lines += [f'  prefer add{k} over add{j} because "first"' for j in range(k + 1, 70)]
    for k in range(70, count):
        lines += [f'  prefer other{k} over other{j} because "first"' for j in range(k + 1, count)]
    return "\n".join([*lines, "}", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--many", type=int, help="a made-up device with so many rules, instead of --rules")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.many:
            options.rules = str(Path(folder) / "many.rules")
            Path(options.rules).write_text(many_rules(options.many))
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
    told = f"{len(program.rules)} rules of {program.device}"
    print(json.dumps({"rules": told, "seconds": seconds, "ratio": round(ratio, 2), "peak_mb": round(peak)}))


if __name__ == "__main__":
    main()
