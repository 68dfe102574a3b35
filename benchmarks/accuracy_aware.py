"""Accuracy-aware search on a model that was made bad on purpose, alone or against NNCF's ``quantize_with_accuracy_control``.

``--bad coarse``: one scale for all weights of a layer, biases not corrected: depthwise layers lose most of their codes. ``--bad
saturation``: biases not corrected, and weights keep all their codes on a device that adds pairs of products in 16 bits, which
saturate; what the device computes is simulated to the bit. Both tools get the same calibration samples, the same labelled samples
to judge by, and the same limit; others, which neither has seen, judge the results, each as written (float arithmetic between the
quantizers, or the simulation). Told are kernels given up, evaluations, models run on samples, CPU seconds.

    python benchmarks/accuracy_aware.py MODEL.onnx --data LABELLED.npz --calib CALIB.npz [--bad WHICH] [--judged N]
        [--nncf PYTHON] [--out FILE.json]

LABELLED.npz holds an array named like the model's input and the labels ``label``. ``--nncf`` is the interpreter of an environment
with NNCF and onnxruntime; it can't simulate saturation.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

RULES = """potc 1
use cpu

## Weights with one scale a layer, sums in 32 bits.
device coarse extends cpu {
  set vnni = true
  qtype w8 = i8[-127..127] sym per_tensor
  qtype bias = i32 sym per_tensor
}
"""


def accuracy(session: Any, name: str, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Top-1 of a session, one sample at a time."""
    right = [int(np.argmax(session.run(None, {name: p[None]})[0])) == y for p, y in zip(pictures, labels, strict=True)]
    return float(np.mean(right))


def opened(model: bytes) -> Any:
    """As written: no optimizations, one thread."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def divided(path: str, judged: int | None) -> tuple[str, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The input's name, samples to judge by, and samples that nobody sees, drawn by lot. ``judged``: how many are to judge by;
    None: half of them."""
    stored = np.load(path)
    name = next(n for n in stored.files if n != "label")
    pictures, labels = stored[name], stored["label"]
    order = np.random.default_rng(0).permutation(len(labels))
    seen, unseen = np.split(order, [judged or (len(labels) + 1) // 2])
    return name, (pictures[seen], labels[seen]), (pictures[unseen], labels[unseen])


def run_potc(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The search of potc, in this process."""
    from potc.compiler import Job
    from potc.data.annotated import Items
    from potc.data.dataset import input_specs
    from potc.evaluate.metrics.classification import topk
    from potc.quantize.tuning import BiasSettings, Tuning
    from potc.search import compile as compiling
    from potc.search.bench import Bench
    from potc.search.run import executable
    from potc.search.run import opened as on_the_device
    from potc.search.target import Target

    name, (pictures, labels), (unseen, answers) = divided(words.data, words.judged)
    (folder / "coarse.rules").write_text(RULES)
    if words.bad == "coarse":
        job = Job(words.model, str(folder / "coarse.rules"), words.calib, device="coarse")
    else:
        job = Job(words.model, "cpu.rules", words.calib)
    job = replace(job, tuning=Tuning(bias=BiasSettings("none"), narrow=words.bad == "coarse"))
    benches: list[Bench] = []

    class Counting(Bench):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            benches.append(self)

    compiling.Bench = Counting  # type: ignore[misc]
    target = Target((topk(1),), str(words.max_drop), evaluations=words.evaluations)
    compilation, found, base = compiling.compile_to_target(
        job, target, lambda m: Items(input_specs(m), [{name: p} for p in pictures], list(labels))
    )
    with_weights = {c.node for c in base.plan.constants if c.role == "weight"}
    kept = {c.node for c in compilation.plan.constants if c.role == "weight"}
    judge = on_the_device(executable(compilation.compiled, compilation.plan, base.program.members[0].signatures))
    output = base.model.proto.graph.output[0].name
    right = [int(np.argmax(judge.run([output], {name: p[None]})[0])) == y for p, y in zip(unseen, answers, strict=True)]
    return {
        "tool": "potc",
        "met": found.met,
        "float": found.before[0],
        "seen": found.answer.values[0],
        "unseen_float": accuracy(opened(Path(words.model).read_bytes()), name, unseen, answers),
        "unseen": float(np.mean(right)),
        "weighted_kernels": len(with_weights),
        "weighted_given_up": len(with_weights - kept),
        "kernels": len(base.plan.kernels),
        "kernels_given_up": len(base.plan.kernels) - len(compilation.plan.kernels),
        "evaluations": found.evaluations,
        "samples_run": benches[0].samples_run,
        "highest_drop": found.answer.highest[0],
        "candidates": [(c.values[0], c.kernels) for c in found.candidates],
    }


def run_nncf(words: argparse.Namespace) -> dict[str, Any]:
    """NNCF's search, in this process: weights with one scale, no bias correction, no reduced range."""
    import nncf  # type: ignore[import-not-found]
    import nncf.quantization.advanced_parameters as advanced  # type: ignore[import-not-found]
    import onnx

    name, (pictures, labels), (unseen, answers) = divided(words.data, words.judged)
    calibration = np.load(words.calib)[name]
    counted = {"runs": 0, "evaluations": 0}
    model = onnx.load(words.model)

    def validate(model: Any, rows: Any) -> tuple[float, list[float]]:
        session = opened(model.SerializeToString()) if isinstance(model, onnx.ModelProto) else model
        right = [float(np.argmax(session.run(None, {name: x})[0]) == y) for x, y in rows]
        counted["runs"] += len(right)
        counted["evaluations"] += len(right) == len(pictures)
        return float(np.mean(right)), right

    rows = [(p[None], int(y)) for p, y in zip(pictures, labels, strict=True)]
    parameters = nncf.AdvancedQuantizationParameters
    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset([{name: p[None]} for p in calibration]),
        nncf.Dataset(rows, lambda row: row),
        validate,
        max_drop=words.max_drop,
        preset=nncf.QuantizationPreset.MIXED,
        target_device=nncf.TargetDevice.CPU,
        subset_size=len(calibration),
        advanced_quantization_parameters=parameters(
            overflow_fix=advanced.OverflowFix.DISABLE,
            disable_bias_correction=True,
            weights_quantization_params=advanced.QuantizationParameters(per_channel=False),
        ),
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            intermediate_model_dir=None, num_ranking_workers=1
        ),
    )
    produced = {o: n for n in quantized.graph.node for o in n.output}
    stored = {t.name for t in quantized.graph.initializer}
    multiplying = [n for n in quantized.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    quantizing = [
        n for n in multiplying if n.input[1] in produced and produced[n.input[1]].op_type == "DequantizeLinear"
    ]
    return {
        "tool": f"NNCF {nncf.__version__}",
        "float": accuracy(opened(model.SerializeToString()), name, pictures, labels),
        "seen": accuracy(opened(quantized.SerializeToString()), name, pictures, labels),
        "unseen_float": accuracy(opened(model.SerializeToString()), name, unseen, answers),
        "unseen": accuracy(opened(quantized.SerializeToString()), name, unseen, answers),
        "weighted_kernels": len(multiplying),
        "weighted_given_up": len(multiplying) - len(quantizing),
        "evaluations": counted["evaluations"],
        "samples_run": counted["runs"] + len(calibration),
        "initializers": len(stored),
    }


def main() -> None:
    """Each tool in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--bad", choices=("coarse", "saturation"), default="coarse")
    parser.add_argument("--judged", type=int, help="labelled samples to judge by; half of them if not given")
    parser.add_argument("--max-drop", type=float, default=0.005)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--nncf", metavar="PYTHON")
    parser.add_argument("--only", choices=("potc", "nncf"), help=argparse.SUPPRESS)
    parser.add_argument("--out", metavar="FILE.json")
    words = parser.parse_args()
    if words.nncf and words.bad != "coarse":
        parser.error("--nncf needs --bad coarse")
    if words.only:
        with tempfile.TemporaryDirectory() as folder:
            told = run_potc(words, Path(folder)) if words.only == "potc" else run_nncf(words)
        used = resource.getrusage(resource.RUSAGE_SELF)
        told["cpu_seconds"] = round(used.ru_utime + used.ru_stime, 1)
        told["peak_mb"] = used.ru_maxrss // 1024
        print("RESULT " + json.dumps(told))
        return
    results: list[dict[str, Any]] = []
    for tool, python in (("potc", sys.executable), ("nncf", words.nncf)):
        if python:
            shown = subprocess.run([python, *sys.argv, "--only", tool], stdout=subprocess.PIPE, text=True, check=True)
            results += [json.loads(line[7:]) for line in shown.stdout.splitlines() if line.startswith("RESULT ")]
            print(json.dumps(results[-1], indent=1))
    if words.out:
        Path(words.out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
