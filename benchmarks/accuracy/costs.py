"""What a command and a model take: time and memory of processes, latency of models."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

SAMPLES = 4  # different inputs that latency runs over


@dataclass(frozen=True, slots=True)
class Process:
    """What one process took, imports included; ``failed``: why it did not succeed, or empty."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    failed: str = ""


def measured(words: list[str], log: Path, timeout: float) -> Process:
    """Runs a command to its end, its output in ``log``."""
    launcher = [sys.executable, str(Path(__file__).with_name("process.py")), str(log), str(timeout)]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, check=True)
    return Process(**json.loads(done.stdout))


def latencies(models: dict[str, Path], samples: Path, rounds: int) -> dict[str, dict[str, float]]:
    """CPU milliseconds of one run on one thread: every model in turn, so that a slow moment hits all alike.

    ``ratio``: median over the rounds of this model's time to float's in the same round, with its quartiles.
    """
    sessions = {name: _session(path) for name, path in models.items()}
    feeds = _feeds(samples, sessions["float"])
    outputs = [o.name for o in sessions["float"].get_outputs()]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 2):
        feed = feeds[turn % len(feeds)]
        for name, session in sessions.items() if turn % 2 else reversed(list(sessions.items())):
            began = time.process_time()
            session.run(outputs, feed)
            if turn >= 2:  # the first ones allocate
                times[name].append(1e3 * (time.process_time() - began))
    found: dict[str, dict[str, float]] = {}
    for name, own in times.items():
        ratios = sorted(a / b for a, b in zip(own, times["float"], strict=True))
        low, middle, high = (ratios[round(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
        found[name] = {"cpu_ms": statistics.median(own), "ratio": middle, "ratio_low": low, "ratio_high": high}
    return found


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _feeds(samples: Path, session: ort.InferenceSession) -> list[dict[str, np.ndarray]]:
    ranks = {i.name: len(i.shape) for i in session.get_inputs()}
    with np.load(samples) as file:
        arrays = {name: file[name][:SAMPLES] for name in file.files}
    count = len(next(iter(arrays.values())))
    rows = ({name: values[index] for name, values in arrays.items()} for index in range(count))
    return [{name: v[None] if v.ndim < ranks[name] else v for name, v in row.items()} for row in rows]
