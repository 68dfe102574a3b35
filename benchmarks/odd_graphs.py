"""Compiles models of every kind and prints what became of each: all must compile, or be rejected with a reason.

    python benchmarks/odd_graphs.py drawn [--count 200] [--seed 0] [--rules cpu]
    python benchmarks/odd_graphs.py onnx [--rules cpu]
    python benchmarks/odd_graphs.py real TREE [--rules cpu]

``drawn``: models of tests/graph/odd_models.py. ``onnx``: the models of the onnx package's own backend tests that hold a layer
with weights or a recurrent one. ``real``: TREE/models/*/model.onnx with the samples of TREE/data, as benchmarks/models.py
describes them; the share is that of all convolutions and products of the model, nested graphs included. Exit code 1 if one
model ends in anything else than a compiled model, or a rejection with a code.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from potc.compiler import Compilation, Job, compile_model
from potc.diagnostics.diagnostic import Rejected
from potc.graph.names import all_nodes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "graph"))
from odd_models import odd_model

LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
CLOSE_DB = 15.0  # 8 bits through a handful of layers; below, it is told


@dataclass(frozen=True, slots=True)
class Outcome:
    """``word``: compiled, rejected or bug. ``layers``: products of the model, and those of them that run on integers."""

    name: str
    word: str
    detail: str
    layers: tuple[int, int] = (0, 0)
    seconds: float = 0.0


def outcome(name: str, path: Path, rules: str, data: str | None = None) -> Outcome:
    begin = time.process_time()
    try:
        done = compile_model(Job(str(path), rules, data))
    except Rejected as rejected:
        told = rejected.diagnostics[0]
        return Outcome(name, "rejected", f"{told.code}: {told.message.replace(str(path), 'the model')}")
    except Exception as error:  # a bug, whatever it is: that is what this looks for
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(name, "bug", f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})")
    seconds = time.process_time() - begin
    if not done.verification.ok:
        failed = "; ".join(f"{c.name}: {c.detail}" for c in done.verification.failed)
        noise = done.samples.generated and [c.name for c in done.verification.failed] == ["alive"]
        return Outcome(name, "rejected" if noise else "bug", failed, products(done), seconds)
    sqnr = min(done.verification.sqnr.values(), default=float("inf"))
    return Outcome(name, "compiled" if sqnr >= CLOSE_DB else "far", f"{sqnr:.1f} dB", products(done), seconds)


def products(done: Compilation) -> tuple[int, int]:
    """All convolutions and products of a model as it is prepared, and those on integer kernels."""
    names = {n.name for n in all_nodes(done.prepared.proto.graph) if n.op_type in PRODUCTS}
    covered = {name for kernel in done.plan.kernels for name in kernel.nodes}
    return len(names), len(names & covered - set(done.share.floating))


def drawn(count: int, seed: int, folder: Path) -> Iterator[tuple[str, Path]]:
    for number in range(seed, seed + count):
        model, words = odd_model(number)
        path = folder / f"{number}.onnx"
        path.write_bytes(model.SerializeToString())
        yield f"{number} ({words})", path


def of_onnx(folder: Path) -> Iterator[tuple[str, Path]]:
    from onnx.backend.test.case.node import collect_testcases
    from onnx.backend.test.loader import load_model_tests

    for case in collect_testcases(None):
        if case.model is not None and has_layer(case.model):
            path = folder / f"{case.name}.onnx"
            path.write_bytes(case.model.SerializeToString())
            yield case.name, path
    for kind in ("simple", "pytorch-converted", "pytorch-operator", "light"):
        for case in load_model_tests(kind=kind):
            path = Path(case.model_dir) / "model.onnx" if case.model_dir else None
            if path is not None and path.exists() and has_layer(onnx.load(path)):
                yield f"{kind}/{case.name}", path


def has_layer(model: onnx.ModelProto) -> bool:
    inside = [node for function in model.functions for node in function.node]
    return any(node.op_type in LAYERS for node in (*all_nodes(model.graph), *inside))


def real(tree: Path, folder: Path) -> Iterator[tuple[str, Path, str]]:
    pairs = {str(p["model"]): p for p in json.loads((tree / "pairs.json").read_text())}
    for name, pair in sorted(pairs.items()):
        script = tree / "data" / str(pair.get("calib_data", pair["data"])) / "eval.py"
        samples = folder / f"{name}.npz"
        command = [sys.executable, str(script), "--calib-out", str(samples), "--model", name, "--calib-n", "16"]
        subprocess.run(command, check=True, capture_output=True)
        yield name, tree / "models" / name / "model.onnx", str(samples)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["drawn", "onnx", "real"])
    parser.add_argument("tree", nargs="?", type=Path)
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.what == "real":
            models = real(arguments.tree, folder)
        elif arguments.what == "onnx":
            models = ((n, p, None) for n, p in of_onnx(folder))
        else:
            models = ((n, p, None) for n, p in drawn(arguments.count, arguments.seed, folder))
        for title, path, data in models:
            found.append(outcome(title, path, arguments.rules, data))
            told = found[-1]
            share = f"{told.layers[1]}/{told.layers[0]}"
            print(f"| {told.name} | {told.word} | {told.detail} | {share} | {told.seconds:.1f} |", flush=True)
    counts = Counter(o.word for o in found)
    layers, integer = (sum(o.layers[k] for o in found) for k in (0, 1))
    print(f"\n{len(found)} models: {', '.join(f'{n} {w}' for w, n in sorted(counts.items()))};", end=" ")
    print(f"{integer} of {layers} convolutions and products on integers")
    return 1 if counts["bug"] else 0


if __name__ == "__main__":
    sys.exit(main())
