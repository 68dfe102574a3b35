"""Noise of devices with 16-bit activations, on samples that calibration never saw: every model of a tree, by preset.

    python benchmarks/sixteen_bits.py TREE [--rules gna] [--device gna3] [--presets accuracy,performance] [--only A,B] [--limit N]

TREE is laid out as ``models.py`` says. The compiled model runs as it is written, in float between the quantizers: hosts have no
16-bit kernels. All that ``eval.py`` feeds to the float model goes to the compiled one as well. Prints a Markdown table: the
metric of both, and SQNR of each float output over all samples.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from potc.evaluate.measures import Sqnr
from potc.execute.session import open_session


def loaded(script: Path) -> ModuleType:
    """The module of an ``eval.py``; what lies beside and above it can be imported."""
    sys.path[:0] = [str(script.parent), str(script.parent.parent)]
    spec = importlib.util.spec_from_file_location(f"eval_{script.parent.name}", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compared(
    module: ModuleType, model: Path, compiled: Path, limit: int | None
) -> tuple[float, float, int, list[float]]:
    """The metric of the float model and of the compiled one, N, and decibels by float output."""
    other = open_session(compiled.read_bytes(), optimize=False, threads=1)
    ratios: dict[int, Sqnr] = {}
    run_class: Any = module.E.Run

    class Both(run_class):
        """Answers as the float model does, and watches the compiled one."""

        def __call__(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            results = super().__call__(feed)
            found = other.run(self.outputs, {n: feed[n] for n in self.names})
            for index, (a, b) in enumerate(zip(results, found, strict=True)):
                if a.dtype.kind == "f":
                    ratios.setdefault(index, Sqnr()).add(a, np.asarray(b))
            return results

    scored = module.evaluate(Both(str(model), 1, "all"), limit)
    integer = module.evaluate(run_class(str(compiled), 1, "off"), limit)
    return scored["value"], integer["value"], int(scored["n"]), [r.db for r in ratios.values()]


def rows(tree: Path, pair: Mapping[str, Any], options: argparse.Namespace, folder: Path) -> None:
    name = str(pair["model"])
    model, script = tree / "models" / name / "model.onnx", tree / "data" / str(pair["data"]) / "eval.py"
    samples = folder / f"{name}.npz"
    command = [sys.executable, str(script), "--calib-out", str(samples), "--model", name]
    command += ["--calib-n", str(pair["calib_n"])] if "calib_n" in pair else []
    subprocess.run(command, check=True, capture_output=True)
    for preset in options.presets.split(","):
        out = folder / f"{name}.onnx"
        command = [
            sys.executable,
            "-m",
            "potc",
            "compile",
            str(model),
            "--rules",
            options.rules,
            "--data",
            str(samples),
        ]
        command += ["--preset", preset, "-o", str(out), "-q", *(["--device", options.device] if options.device else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"| {name} | {preset} | failed: {done.stderr.splitlines()[0]} |", flush=True)
            continue
        floating, integer, n, decibels = compared(loaded(script), model, out, options.limit)
        told = " / ".join(f"{db:.1f}" for db in decibels)
        print(f"| {name} | {preset} | {n} | {floating:.4f} | {integer:.4f} | {told} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--rules", default="gna")
    parser.add_argument("--device")
    parser.add_argument("--presets", default="accuracy,performance")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=int, help="evaluate fewer samples")
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    print("| model | preset | n | metric, float | metric | SQNR dB |\n|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for pair in json.loads((options.tree / "pairs.json").read_text()):
            if not only or pair["model"] in only:
                rows(options.tree, pair, options, Path(temporary))


if __name__ == "__main__":
    main()
