"""potc and onnxruntime's own static quantizer on one model: time, memory, noise, accuracy.

    python benchmarks/compare_onnxruntime.py MODEL.onnx --data calib.npz [--labels test.npz | --eval eval.py]
        [--rules cpu] [--repeat 5] [--samples N] [--json out.json]

Each tool runs as a whole process, imports included, alternately and ``--repeat`` times; the medians are told. onnxruntime:
``quant_pre_process``, then ``quantize_static`` with QDQ, per-channel int8 weights, uint8 activations, min-max ranges.

``--data``: arrays named like the inputs, first axis = samples without the batch axis. ``--labels``: an npz with ``x``
(samples as the model takes them, or uint8 pictures, which are divided by 255) and ``y`` (classes); potc's samples/digits
has one. ``--eval``: a script that prints one JSON line with ``metric`` and ``value`` for ``MODEL --opt all|off``.
Needs the extra ``bench``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

BASELINE = "--run-baseline"
OPTIMIZE = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL, "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL}
Feed = dict[str, np.ndarray]


@dataclass
class Cost:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass
class Result:
    """One tool on one model. ``scores``: SQNR in dB, agreement with the float model's classes, and accuracy, each on
    integer kernels (``all``) and simulated (``off``)."""

    tool: str
    failed: str = ""
    cost: Cost | None = None
    costs: list[Cost] = field(default_factory=list)
    bytes: int = 0
    scores: dict[str, float] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- the two tools


def potc_command(model: str, data: str, out: str, rules: str, samples: int | None) -> list[str]:
    """potc as a user calls it."""
    command = [sys.executable, "-m", "potc", "compile", model, "--rules", rules, "--data", data, "-o", out, "-q"]
    return [*command, "--samples", str(samples)] if samples else command


def baseline_command(model: str, data: str, out: str, samples: int | None) -> list[str]:
    """This file, as the process that runs onnxruntime's quantizer."""
    return [sys.executable, __file__, BASELINE, model, data, out, str(samples or 0)]


def run_baseline(model: str, data: str, out: str, samples: int) -> None:
    """onnxruntime's recipe, with its defaults where not said otherwise."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = feeds(data, ort.InferenceSession(model), samples or None)

        def get_next(self) -> Feed | None:
            return next(self._feeds, None)

    target = Path(out).absolute()
    source, folder = str(Path(model).absolute()), target.parent
    reader = Reader()
    os.chdir(folder)  # it leaves files in the current folder
    prepared = str(folder / "prepared.onnx")
    quant_pre_process(source, prepared)
    quantize_static(
        prepared,
        str(target),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def measured(command: list[str]) -> tuple[Cost, int]:
    """Runs a process; what it took and its exit code."""
    began = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - began
    unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kilobytes elsewhere
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit), os.waitstatus_to_exitcode(status)


def alternate(commands: dict[str, list[str]], repeat: int) -> dict[str, Result]:
    """All commands in turn, ``repeat`` times, so that a slow minute hits them alike."""
    results = {tool: Result(tool) for tool in commands}
    for _ in range(repeat):
        for tool, command in commands.items():
            if not results[tool].failed:
                cost, code = measured(command)
                results[tool].costs.append(cost)
                results[tool].failed = f"exit {code}" if code else ""
    for result in results.values():
        if not result.failed:
            median = {name: statistics.median(asdict(c)[name] for c in result.costs) for name in Cost.__annotations__}
            result.cost = Cost(**median)
    return results


# ---------------------------------------------------------------------------------------------- how good are they


def open_model(path: str, optimize: str) -> ort.InferenceSession:
    """A quiet session on one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = OPTIMIZE[optimize]
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(data: str, session: ort.InferenceSession, samples: int | None) -> Iterator[Feed]:
    """One feed a sample, with a batch axis where the model has one more axis than the sample."""
    ranks = {i.name: len(i.shape) for i in session.get_inputs()}
    with np.load(data) as file:
        arrays = {name: file[name][:samples] for name in file.files}
    for index in range(len(next(iter(arrays.values())))):
        sample = {name: values[index] for name, values in arrays.items()}
        yield {name: v[None] if v.ndim < ranks[name] else v for name, v in sample.items()}


def outputs(path: str, optimize: str, given: list[Feed]) -> np.ndarray:
    """The first output for each feed, flattened."""
    session = open_model(path, optimize)
    return np.stack([np.asarray(session.run(None, feed)[0], np.float64).ravel() for feed in given])


def sqnr_db(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise, over everything."""
    noise = np.square(reference - other).sum()
    return float(10 * np.log10(np.square(reference).sum() / noise)) if noise else float("inf")


def labelled(path: str, model: str) -> tuple[list[Feed], np.ndarray]:
    """Feeds and classes of an ``x``, ``y`` file."""
    session = open_model(model, "all")
    name, shape = session.get_inputs()[0].name, session.get_inputs()[0].shape
    with np.load(path) as file:
        x, y = file["x"], file["y"]
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / 255
    if x.ndim == len(shape) - 1:
        x = x[:, None]
    return [{name: x[i : i + 1]} for i in range(len(x))], y


def scores(model: str, compiled: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Noise on the calibration samples, or on labelled ones if there are some; agreement and accuracy on labelled ones."""
    classes: np.ndarray | None = None
    if arguments.labels:
        given, classes = labelled(arguments.labels, model)
    else:
        given = list(feeds(arguments.data, open_model(model, "all"), arguments.samples))
    reference = outputs(model, "all", given)
    found: dict[str, float] = {}
    for optimize in OPTIMIZE:
        other = outputs(compiled, optimize, given)
        found[f"sqnr_db_{optimize}"] = sqnr_db(reference, other)
        found[f"agreement_{optimize}"] = float((reference.argmax(1) == other.argmax(1)).mean())
        if classes is not None:
            found["top1_float"] = float((reference.argmax(1) == classes).mean())
            found[f"top1_{optimize}"] = float((other.argmax(1) == classes).mean())
        elif arguments.eval:
            found["metric_float"] = evaluated(arguments.eval, model, "all")
            found[f"metric_{optimize}"] = evaluated(arguments.eval, compiled, optimize)
    return found


def evaluated(script: str, model: str, optimize: str) -> float:
    """What a scoring script says."""
    command = [sys.executable, script, model, "--opt", optimize]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["value"])


# ---------------------------------------------------------------------------------------------- telling


def table(results: list[Result]) -> str:
    """Markdown: one row a figure, one column a tool."""
    rows: dict[str, list[str]] = {}
    for result in results:
        cost = asdict(result.cost) if result.cost else {}
        told = {**cost, "size_kb": result.bytes / 1e3, **result.scores} if not result.failed else {}
        for name, value in told.items():
            rows.setdefault(name, [])
            rows[name].append(f"{value:.4g}")
    working = [r.tool for r in results if not r.failed]
    lines = [f"| | {' | '.join(working)} |", "|---|" + "---|" * len(working)]
    lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    lines += [f"{r.tool} failed: {r.failed}" for r in results if r.failed]
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:2] == [BASELINE]:
        model, data, out, samples = sys.argv[2:]
        run_baseline(model, data, out, int(samples))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--eval")
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = {tool: str(Path(folder) / f"{tool}.onnx") for tool in ("potc", "onnxruntime")}
        model, data, samples = arguments.model, arguments.data, arguments.samples
        results = alternate(
            {
                "potc": potc_command(model, data, out["potc"], arguments.rules, samples),
                "onnxruntime": baseline_command(model, data, out["onnxruntime"], samples),
            },
            arguments.repeat,
        )
        for tool, result in results.items():
            if not result.failed:
                result.bytes = Path(out[tool]).stat().st_size
                result.scores = scores(model, out[tool], arguments)
    print(table(list(results.values())))
    document = json.dumps([asdict(r) for r in results.values()], indent=1)
    if arguments.json:
        Path(arguments.json).write_text(document + "\n")


if __name__ == "__main__":
    main()
