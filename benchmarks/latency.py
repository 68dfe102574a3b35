"""How fast the results of quantizers are, beside each other: every model of a folder, one command, one table.

    python benchmarks/latency.py MODEL.onnx ... [--rules cpu] [--rounds 200] [--nncf-python PYTHON] [--markdown table.md]

Each model is calibrated on a few drawn samples: their values change no kernel. Models run in turns, with the same options of
onnxruntime, on one thread, and the CPU time of each run is taken. ``against``: the time of potc's result over that of the fastest
peer's in the same round, the median and its 95 % interval.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from compare_onnxruntime import open_model, potc_command  # noqa: E402

from potc.data.source import open_samples  # noqa: E402
from potc.evaluate.latency import median_interval  # noqa: E402
from potc.graph.read import read_model  # noqa: E402

PEERS = ROOT / "benchmarks" / "accuracy" / "peers"
SAMPLES = 8
WARM_UP = 5
TIMEOUT_S = 900
FLOAT, OWN = "float", "potc"


@dataclass(frozen=True, slots=True)
class Row:
    """One model: CPU milliseconds of each run by tool, in order of the rounds; what failed, by tool."""

    model: str
    times: dict[str, list[float]]
    failed: dict[str, str]

    def ratio(self, first: str, second: str) -> tuple[float, float, float]:
        """Median of ``first`` over ``second`` by round, and its 95 % interval."""
        ratios = [a / b for a, b in zip(self.times[first], self.times[second], strict=True)]
        return statistics.median(ratios), *median_interval(ratios)

    @property
    def fastest(self) -> str | None:
        """The peer whose result takes the least time."""
        peers = [t for t in self.times if t not in (FLOAT, OWN)]
        return min(peers, key=lambda t: statistics.median(self.times[t]), default=None)


def compared(model: str, options: argparse.Namespace) -> Row:
    with tempfile.TemporaryDirectory(prefix="potc-latency-") as name:
        folder = Path(name)
        given = list(open_samples(None, read_model(model), SAMPLES).feeds())
        data = str(folder / "samples.npz")
        np.savez(data, **{n: np.stack([feed[n] for feed in given]) for n in given[0]})
        tools = {
            OWN: potc_command(model, data, str(folder / "potc.onnx"), options.rules, None),
            "onnxruntime": [
                sys.executable,
                str(PEERS / "onnxruntime_static.py"),
                model,
                data,
                str(folder / "onnxruntime.onnx"),
            ],
        }
        if options.nncf_python:
            tools["NNCF"] = [
                options.nncf_python,
                str(PEERS / "nncf_quantize.py"),
                model,
                data,
                str(folder / "NNCF.onnx"),
            ]
        sessions, failed = {FLOAT: open_model(model, "all")}, dict[str, str]()
        for tool, words in tools.items():
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
            out = folder / f"{tool}.onnx"
            if done.returncode or not out.exists():
                failed[tool] = (done.stderr.strip().splitlines() or ["no model came out"])[-1][:120]
            else:
                sessions[tool] = open_model(str(out), "all")
        return Row(Path(model).parent.name, in_turns(sessions, given, options.rounds), failed)


def in_turns(
    sessions: dict[str, ort.InferenceSession], given: list[dict[str, np.ndarray]], rounds: int
) -> dict[str, list[float]]:
    """CPU milliseconds of each counted run; the order is turned round each time."""
    names = [o.name for o in sessions[FLOAT].get_outputs()]
    times: dict[str, list[float]] = {tool: [] for tool in sessions}
    for turn in range(WARM_UP + rounds):
        for tool, session in sessions.items() if turn % 2 else reversed(sessions.items()):
            began = time.process_time()
            session.run(names, given[turn % len(given)])
            if turn >= WARM_UP:
                times[tool].append(1e3 * (time.process_time() - began))
    return times


def table(rows: list[Row], tools: list[str]) -> Iterator[str]:
    yield f"| model | float, ms | {' | '.join(f'{t} / float' for t in tools)} | potc against the fastest peer |"
    yield "|---|---|" + "---|" * (len(tools) + 1)
    for row in rows:
        cells = [row.failed.get(t) or f"{row.ratio(t, FLOAT)[0]:.2f}" for t in tools]
        against = ""
        if OWN in row.times and row.fastest is not None:
            middle, low, high = row.ratio(OWN, row.fastest)
            against = f"{middle:.2f} ({low:.2f} .. {high:.2f}), {row.fastest}"
        yield f"| {row.model} | {statistics.median(row.times[FLOAT]):.2f} | {' | '.join(cells)} | {against} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rules", default="cpu")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--nncf-python", help="an interpreter that has nncf and onnx")
    parser.add_argument("--markdown", metavar="FILE")
    options = parser.parse_args()
    rows: list[Row] = []
    for model in options.models:
        rows.append(compared(str(Path(model).absolute()), options))
        print(*list(table(rows[-1:], [t for t in rows[-1].times if t != FLOAT]))[2:], flush=True)
    tools = list(dict.fromkeys(t for row in rows for t in (*row.times, *row.failed) if t != FLOAT))
    text = "\n".join([f"onnxruntime {ort.__version__}, {options.rounds} rounds.", "", *table(rows, tools)]) + "\n"
    print(text)
    if options.markdown:
        Path(options.markdown).write_text(text)


if __name__ == "__main__":
    main()
