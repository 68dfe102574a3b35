"""Is a model that is compiled for a meet legal on every part, and how much of it runs on integers?

    python benchmarks/meet.py --device any --graphs 1000 [MODEL.onnx ...]

Prints a line for each model (weighted nodes on integer kernels for the meet and for its first part, SQNR on generated
samples, violations on each part), and one for all generated graphs. Exit code 1 if anything is illegal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import onnx

from potc.compiler import Compilation, Job, compile_model
from potc.graph.read import read_model
from potc.language.program import Program
from potc.language.resolve import load_rules
from potc.legal.judge import judge


def generators() -> tuple[Any, Any]:
    """What the tests make networks with: ONNX text from a random source, and a model from the text."""
    tests = Path(__file__).parents[1] / "tests"
    sys.path[:0] = [str(tests), str(tests / "legal")]
    return import_module("networks").network, import_module("test_cases").model_from_text


def compiled(path: str, rules: str, folder: str) -> tuple[Compilation, Program]:
    made = compile_model(Job(path, rules))
    (Path(folder) / "compiled.onnx").write_bytes(made.compiled)
    return made, load_rules(rules)


def violations(program: Program, folder: str) -> dict[str, int]:
    verdicts = judge(read_model(str(Path(folder) / "compiled.onnx")), program)
    return {v.device: len(v.violations) for v in verdicts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--device", default="any")
    parser.add_argument("--graphs", type=int, default=100)
    options = parser.parse_args()
    illegal = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in options.models:
            made, program = compiled(path, options.device, folder)
            found = violations(program, folder)
            illegal += sum(found.values())
            one = compile_model(Job(path, program.members[0].device))
            share = f"{made.share.weighted_integer} of {one.share.weighted} weighted nodes"
            decibels = min(made.verification.sqnr.values(), default=0.0)
            print(f"{path}: {share}, {decibels:.1f} dB, violations {found}", flush=True)
        kernels = 0
        network, model_from_text = generators()
        for seed in range(options.graphs):
            path = str(Path(folder) / "float.onnx")
            onnx.save(model_from_text(network(Random(seed))), path)
            made, program = compiled(path, options.device, folder)
            found = violations(program, folder)
            kernels += len(made.plan.kernels)
            if sum(found.values()):
                illegal += 1
                print(f"seed {seed}: {found}", flush=True)
        print(f"{options.graphs} generated graphs, {kernels} kernels, {illegal} illegal models")
    return int(illegal > 0)


if __name__ == "__main__":
    sys.exit(main())
