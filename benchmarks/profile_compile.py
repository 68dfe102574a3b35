"""Where a compile spends its time: stage by stage, in a process of its own; run by ``speed.py --profile``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

COMPILE, FLOAT = "--run-compile", "--run-float"
WHAT = {
    "imports": "Python's own start, numpy, onnx, onnxruntime, potc",
    "rules": "parsing, resolving and checking the rule file with all that it uses",
    "model": "reading and checking the model",
    "prepare": "raising the opset, inferring shapes, folding constants, rewriting",
    "plan": "matching all patterns, choosing kernels and formats",
    "calibrate": "running the float model over all samples with reductions in its graph, and reading the samples",
    "solve": "scales, zero points, narrowed and leveled weights, corrected biases",
    "lower": "writing quantizers and codes into the graph, and what each node comes from",
    "correct": "running a few samples through the quantized model, layer by layer, for the biases",
    "verify": "checking the result, and comparing it with the float model on a few samples",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """``peak_mb``: the highest memory of the process so far."""

    name: str
    cpu_s: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Profile:
    """One compile for each preset, and one pass of the float model over the same samples."""

    model: str
    samples: int
    float_s: float
    presets: dict[str, list[Stage]]


def profile(model: str, data: str, rules: str, samples: int | None) -> Profile:
    """Each in a process of its own."""
    count = samples or 0
    one = float(_run(FLOAT, model, data, str(count)))
    found: dict[str, list[Stage]] = {}
    used = 0
    for preset in ("", "fast"):
        told = json.loads(_run(COMPILE, model, data, rules, str(count), preset))
        found[preset or "default"] = [Stage(**stage) for stage in told["stages"]]
        used = told["samples"]
    return Profile(Path(model).parent.name or Path(model).name, used, one, found)


def _run(*words: str) -> str:
    """Twice: the first run compiles bytecode, as pip does when it installs."""
    with tempfile.TemporaryDirectory(prefix="potc-profile-") as folder:
        return [_once(folder, *words) for _ in range(2)][1]


def _once(folder: str, *words: str) -> str:
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = folder
    done = subprocess.run(
        [sys.executable, __file__, *words], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def run_compile(model: str, data: str, rules: str, samples: int, preset: str) -> None:
    """Prints, as JSON, what each stage took."""
    from potc.cli.heap import share_heap
    from potc.cli.presets import CHECKED_FAST
    from potc.compiler import Job, Trace, compile_model
    from potc.quantize.tuning import BiasSettings, Tuning

    share_heap()
    begun: list[tuple[str, float, float, float]] = []

    def stage(name: str) -> None:
        unit = 1e6 if sys.platform == "darwin" else 1e3  # ru_maxrss: bytes there, kilobytes elsewhere
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        begun.append((name, time.process_time(), time.perf_counter(), peak))

    stage("imports")
    fast = {"preset": "fast", "checked": CHECKED_FAST, "tuning": Tuning(bias=BiasSettings("none"))}
    job = Job(model=model, rules=rules, data=data, samples=samples or None, **(fast if preset else {}))
    done = compile_model(job, Trace(stage))
    stage("end")
    imports = {"name": "imports", "cpu_s": begun[0][1], "wall_s": begun[0][1], "peak_mb": begun[0][3]}
    stages = [imports]
    for (name, cpu, wall, _), (_, later, afterwards, peak) in pairwise(begun[1:]):
        stages.append({"name": name, "cpu_s": later - cpu, "wall_s": afterwards - wall, "peak_mb": peak})
    print(json.dumps({"stages": stages, "samples": len(done.samples)}))


def run_float(model: str, data: str, samples: int) -> None:
    """Prints the CPU seconds of one pass of the float model, after one run that is not counted."""
    from compare_onnxruntime import feeds, open_model

    session = open_model(model, "all")
    names = [o.name for o in session.get_outputs()]
    given = feeds(data, session, samples or None)
    session.run(names, next(feeds(data, session, 1)))
    began = time.process_time()
    for feed in given:
        session.run(names, feed)
    print(time.process_time() - began)


def page(found: Profile) -> str:
    """As Markdown."""
    default, fast = found.presets["default"], found.presets["fast"]
    lines = [
        "# Where the time goes",
        "",
        f"One compile of `{found.model}` with {found.samples} samples by `--rules cpu`, stage by stage: CPU seconds, and the",
        "highest memory of the process at the end of each stage. One pass of the float model over the same samples takes",
        f"{found.float_s:.2f} s on one thread, reading the samples included. Measured, and this page written, by",
        "`python benchmarks/speed.py MODEL --data SAMPLES --profile docs/explain/where-time-goes.md`; on another machine all",
        "figures differ, their order hardly.",
        "",
        "| stage | default | `--preset fast` | memory | what it does |",
        "|---|---|---|---|---|",
    ]
    lower = {stage.name: f"{stage.cpu_s:.2f} s" for stage in fast}
    lines.extend(
        f"| {a.name} | {a.cpu_s:.2f} s | {lower.get(a.name, '')} | {a.peak_mb:.0f} MB | {WHAT[a.name]} |"
        for a in default
    )
    total, least = (sum(s.cpu_s for s in stages) for stages in (default, fast))
    passes = f"{total / found.float_s:.1f} and {least / found.float_s:.1f} float passes"
    lines += [
        f"| all | {total:.2f} s | {least:.2f} s | {max(s.peak_mb for s in default):.0f} MB | {passes} |",
        "",
        "`fast` watches no means of channels, since it corrects no biases, and compares one sample instead of a few. What it",
        "can't do without is one pass of the float model with two or three reductions for each tensor that is stored: those read",
        "every value once more, and where values may be negative, the layouts that onnxruntime's convolutions like best must be",
        "undone for them (decisions [4](../decisions/0004-observing.md) and",
        "[53](../decisions/0053-observing-rectified-tensors.md)).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    word, *rest = sys.argv[1:]
    if word == COMPILE:
        run_compile(rest[0], rest[1], rest[2], int(rest[3]), rest[4])
    else:
        run_float(rest[0], rest[1], int(rest[2]))
