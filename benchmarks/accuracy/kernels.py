"""Real integer kernels against their simulation: can anything saturate, what else do they do, and how many are there?

    python benchmarks/accuracy/kernels.py --models TREE [--only MODEL,MODEL] [--out benchmarks/accuracy/kernels.md]

Compiles every model of TREE (see run.py) for ``cpu``, whose kernels add pairs of products in 16 saturating bits, and for
``cpu_vnni``, whose weights keep all 8 bits; onnxruntime's own static quantizer does the same model beside them. Told are:

- the pairs of weights that could leave 16 bits for some activations, counted in the written file by ``pairs_at_risk`` below,
  which shares no code with potc;
- whether onnxruntime executes the same kernels in both of potc's models, node by node;
- the nodes that read integers, of all that it executes and of the convolutions and matrix products;
- signal to noise between the outputs on integer kernels (all optimizations) and simulated (none), over all evaluation samples.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import onnx
import scoring
from coverage import PRODUCTS
from host import described, machine
from onnx import NodeProto, numpy_helper
from run import calibration
from tools import PEERS

from potc.evaluate.kernels import integer_codes, load

HERE = Path(__file__).parent
LARGEST = 255  # of the codes of an activation, counted from the smallest
REGISTER = (-(1 << 15), (1 << 15) - 1)
TYPE_CHANGES = ("QuantizeLinear", "DequantizeLinear", "Cast")


@dataclass(frozen=True)
class Risk:
    """``layers`` add ``pairs`` of products in 16 bits; ``unsafe`` pairs leave them for some activations."""

    layers: int
    pairs: int
    unsafe: int


@dataclass(frozen=True)
class Executed:
    """What onnxruntime executes. ``integer``: operator and name of the nodes that read computed integers, of ``nodes`` that
    do more than to change types; ``product``: of its convolutions and matrix products, how many of how many."""

    integer: tuple[tuple[str, str], ...]
    nodes: int
    product: tuple[int, int]


# ---------------------------------------------------------------------------------------------- what could saturate


def pairs_at_risk(model: onnx.ModelProto) -> Risk:
    """Over all layers that multiply stored 8-bit activations with signed 8-bit constants, as x86 kernels without VNNI add them:
    neighbours along (kernel, input channel), starting anew in each output channel. One filter per channel and unsigned
    weights have other kernels, which add in 32 bits."""
    graph = model.graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    layers = pairs = unsafe = 0
    for node in graph.node:
        rows = _rows(node, stored, maker)
        if rows is None:
            continue
        rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).astype(np.int64)
        first, second = rows[:, 0::2], rows[:, 1::2]
        above = LARGEST * (np.maximum(first, 0) + np.maximum(second, 0)) > REGISTER[1]
        below = LARGEST * (np.minimum(first, 0) + np.minimum(second, 0)) < REGISTER[0]
        layers, pairs, unsafe = layers + 1, pairs + first.size, unsafe + int(np.count_nonzero(above | below))
    return Risk(layers, pairs, unsafe)


def _rows(node: NodeProto, stored: dict[str, np.ndarray], maker: dict[str, NodeProto]) -> np.ndarray | None:
    """Codes of the weight as [output channels, what is added up], None if the node has no such kernel."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    sources = [maker.get(name) for name in node.input[:2]]
    if any(s is None or s.op_type != "DequantizeLinear" for s in sources):
        return None
    names = [s.input[0] for s in sources if s is not None]
    weight = stored.get(names[1])
    if names[0] in stored or weight is None or weight.dtype != np.int8:
        return None
    settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        if weight.shape[1] == 1 and settings.get("group", 1) == weight.shape[0]:
            return None
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
    if node.op_type == "Gemm" and settings.get("transB", 0):
        return weight
    return np.moveaxis(weight, -2, -1).reshape(-1, weight.shape[-2])


# ---------------------------------------------------------------------------------------------- what is executed


def executed(path: Path) -> Executed:
    loaded = load(path.read_bytes())
    if loaded is None:
        raise ValueError(f"onnxruntime does not load {path}")
    codes = integer_codes(loaded.graph)
    nodes = [node for node in loaded.graph.graph.node if node.op_type not in TYPE_CHANGES]
    integer = [node for node in nodes if not codes.isdisjoint(node.input)]
    products = [node for node in nodes if any(word in node.op_type for word in PRODUCTS)]
    reading = sum(node in integer for node in products)
    return Executed(tuple(sorted((n.op_type, n.name) for n in integer)), len(nodes), (reading, len(products)))


def apart(module: Any, path: Path, outputs: list[str], options: argparse.Namespace) -> tuple[float, int]:
    """Decibels of the outputs on integer kernels over their distance from the simulated ones, worst output, and how many
    evaluation samples that is."""
    real, simulated = (
        scoring.score(module, str(path), way, options.threads, options.limit, outputs) for way in ("all", "off")
    )
    found = scoring.sqnr_db(simulated.outputs, real.outputs)
    return (float("inf") if found is None else found), real.n


# ---------------------------------------------------------------------------------------------- one model


def quantized(model: Path, samples: Path, folder: Path) -> dict[str, Path]:
    """potc's two models and onnxruntime's."""
    potc = [sys.executable, "-m", "potc", "compile", str(model), "--rules", "cpu", "--data", str(samples), "-q"]
    paths = {name: folder / f"{name}.onnx" for name in ("cpu", "cpu_vnni", "onnxruntime")}
    commands = {name: [*potc, "--device", name, "-o", str(paths[name])] for name in ("cpu", "cpu_vnni")}
    static = [sys.executable, str(PEERS / "onnxruntime_static.py")]
    commands["onnxruntime"] = [*static, str(model), str(samples), str(paths["onnxruntime"])]
    for words in commands.values():
        subprocess.run(words, check=True, cwd=folder, capture_output=True)
    return paths


def row(tree: Path, pair: dict[str, Any], options: argparse.Namespace) -> str:
    """A line of the table."""
    name = str(pair["model"])
    model = (tree / "models" / name / "model.onnx").absolute()
    module = scoring.load((tree / "data" / str(pair["data"]) / "eval.py").absolute())
    with tempfile.TemporaryDirectory(prefix="kernels-") as temporary:
        folder = Path(temporary)
        paths = quantized(model, calibration(tree.absolute(), pair, folder), folder)
        risks = {key: pairs_at_risk(onnx.load(path)) for key, path in paths.items()}
        runs = {key: executed(path) for key, path in paths.items()}
        outputs = [o.name for o in onnx.load(model).graph.output]
        distance = {key: apart(module, path, outputs, options) for key, path in paths.items()}
    same = "yes" if runs["cpu"].integer == runs["cpu_vnni"].integer else "NO"
    cells = [name, str(distance["cpu"][1]), str(risks["cpu"].layers), str(risks["cpu"].pairs)]
    cells += [str(risks[key].unsafe) for key in ("cpu", "cpu_vnni", "onnxruntime")]
    cells += [f"{len(runs['cpu'].integer)}, {same}"]
    cells += [f"{len(runs[k].integer)}/{runs[k].nodes}" for k in ("cpu", "onnxruntime")]
    cells += ["{}/{}".format(*runs[k].product) for k in ("cpu", "onnxruntime")]
    cells += [decibels(distance[key][0]) for key in ("cpu", "cpu_vnni", "onnxruntime")]
    return "| " + " | ".join(cells) + " |"


def decibels(value: float) -> str:
    return "equal" if value == float("inf") else f"{value:.1f}"


HEAD = """# Integer kernels and their simulation

Made by `benchmarks/accuracy/kernels.py`; do not edit. See README.md for how.

- Machine: {machine}

- **pairs**: neighbouring weights whose products the kernels add in 16 bits, in **layers** that have such kernels; **unsafe**:
  those that saturate for some activations, counted in the written files, for potc's `cpu`, for its `cpu_vnni` (weights keep
  all 8 bits) and for onnxruntime's own quantizer (`ort`).
- **kernels**: nodes that read integers in potc's `cpu` model as onnxruntime executes it; and whether `cpu_vnni` has the same
  ones, by operator and name.
- **all**, **products**: nodes that read integers, of all nodes that onnxruntime executes (without those that only change
  types), and of the convolutions and matrix products.
- **apart**: dB of the outputs over the distance between integer kernels and simulation (every node as written, no
  optimizations), worst float output, all N evaluation samples. In potc's `cpu` it is rounding alone; the others saturate too.

| model | N | layers | pairs | unsafe `cpu` | unsafe `cpu_vnni` | unsafe ort | kernels, same | all potc | all ort \
| products potc | products ort | apart `cpu` | apart `cpu_vnni` | apart ort |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, metavar="TREE", default=HERE.parents[2] / "shared")
    parser.add_argument("--only", default="*", help="models, as patterns with commas between")
    parser.add_argument("--threads", type=int, default=2, help="of the sessions that score")
    parser.add_argument("--limit", type=int, help="fewer evaluation samples")
    parser.add_argument("--out", type=Path, default=HERE / "kernels.md")
    options = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(HERE.parents[1]))
    lines = [HEAD.format(machine=f"{described(machine())}.")]
    for pair in json.loads((options.models / "pairs.json").read_text()):
        if any(fnmatch.fnmatch(str(pair["model"]), p.strip()) for p in options.only.split(",")):
            lines.append(row(options.models, pair, options))
            print(lines[-1], flush=True)
            options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
